"""`python -m pytest tests/faults --all-faults` injures every command many times; the suite, a few times."""


def pytest_addoption(parser):
    parser.addoption("--all-faults", action="store_true", help="injure every command many times (minutes)")


def pytest_generate_tests(metafunc):
    """Give a test that takes a `seed` as many as its mark says: `few(suite, all)`."""
    if "seed" in metafunc.fixturenames:
        few, many = metafunc.definition.get_closest_marker("seeds").args
        count = many if metafunc.config.getoption("--all-faults", False) else few
        metafunc.parametrize("seed", range(count))


def pytest_collection_modifyitems(config, items):
    """Keep only the commands that the mark names for the suite, because the others take as long."""
    if config.getoption("--all-faults", False):
        return
    for item in list(items):
        mark = item.get_closest_marker("seeds")
        if mark and "suite" in mark.kwargs and item.callspec.params["name"] not in mark.kwargs["suite"]:
            items.remove(item)


def pytest_configure(config):
    text = "seeds(few, many, suite=NAMES): seeds in the suite (of these commands), and with --all-faults"
    config.addinivalue_line("markers", text)
