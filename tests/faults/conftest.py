"""`python -m pytest tests/faults --all-faults` injures every command many times; the suite, a few times."""


def pytest_addoption(parser):
    parser.addoption("--all-faults", action="store_true", help="injure every command many times (minutes)")


def pytest_generate_tests(metafunc):
    """Give a test that takes a `seed` as many as its mark says: `few(suite, all)`."""
    if "seed" in metafunc.fixturenames:
        few, many = metafunc.definition.get_closest_marker("seeds").args
        count = many if metafunc.config.getoption("--all-faults", False) else few
        metafunc.parametrize("seed", range(count))


def pytest_configure(config):
    config.addinivalue_line("markers", "seeds(few, many): seeds in the suite, and with --all-faults")
