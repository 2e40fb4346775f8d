"""In which order files run, what runs only with `--all-faults`, and what tests in a browser share.

`python -m pytest --all-faults` injures every command many times, which takes minutes; the suite, a few.
"""

import gc
import logging
import os
import shutil
from pathlib import Path

import pytest

LONGEST = (
    "ui/test_browser", "training/test_ways", "hub/test_commands", "ui/test_accessibility",
    "faults/test_commands", "ui/test_app_process", "ui/test_browser_wheel", "model/test_compile",
    "train/test_bench_training", "train_baselines/test_command", "ui/test_browser_story",
    "train/test_evaluate", "train/test_training_command", "model/test_parity", "hub/test_drawing",
    "ui/test_browser_first_look", "pocket/test_pocket", "train/test_launcher", "doctor/test_space",
    "train/test_blocks", "ui/test_app_flags", "ui/test_requests",
)  # fmt: skip

if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Before torch is imported: each process, and what it starts, keeps to its share of the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))
    gc.disable()  # imports make many objects: looking through them again and again takes a fifth of the time


def pytest_addoption(parser):
    parser.addoption("--all-faults", action="store_true", help="injure every command many times (minutes)")


def pytest_configure(config):
    for text in (
        "all_faults: only with --all-faults, because another test of the suite injures the same, less often",
        "seeds(few, many, suite=NAMES): seeds in the suite (of these commands), and with --all-faults",
    ):
        config.addinivalue_line("markers", text)


@pytest.fixture(scope="session")
def all_faults(request) -> bool:
    return request.config.getoption("--all-faults")


def pytest_generate_tests(metafunc):
    """Give a test that is marked with seeds a `seed`, as often as the mark says."""
    if mark := metafunc.definition.get_closest_marker("seeds"):
        few, many = mark.args
        metafunc.parametrize("seed", range(many if metafunc.config.getoption("--all-faults") else few))


def is_extra(item) -> bool:
    """Return whether the suite does without a test; of a mark's commands it has the named ones alone."""
    mark = item.get_closest_marker("seeds")
    is_other = mark and "suite" in mark.kwargs and item.callspec.params["name"] not in mark.kwargs["suite"]
    return bool(is_other or item.get_closest_marker("all_faults"))


def pytest_collection_modifyitems(config, items):
    """A long file that began last would be waited for; two with a browser would get in each other's way."""
    if not config.getoption("--all-faults"):
        config.hook.pytest_deselected(items=[item for item in items if is_extra(item)])
        items[:] = [item for item in items if not is_extra(item)]
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(f"{item.path.parent.name}/{item.path.stem}", len(LONGEST)))


def pytest_collection_finish():
    gc.freeze()  # what was imported is here to stay
    gc.enable()


@pytest.fixture(autouse=True)
def warnings_are_logged():
    """A command that another test ran here has silenced the whole process."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def pipe():
    """A pipeline of random weights; modules that need another one define their own."""
    from tests import tiny

    return tiny.pipeline()


@pytest.fixture
def calls(pipe, monkeypatch) -> list[int]:
    """The batch size of every call of the transformer."""
    from tests import tiny

    return tiny.count_calls(pipe, monkeypatch)


@pytest.fixture(scope="module")
def browser():
    from tests import browsing  # which skips a module where there is no Chromium

    with browsing.browser() as browser:
        yield browser


@pytest.fixture
def open_page(browser, server):
    """Opens a fresh visitor's page."""
    from tests import browsing

    with browsing.visitors(browser, server) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """The folder of a small judged run, to be read alone."""
    from tests.wheel_page import judged_run

    return judged_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(judged, tmp_path):
    """A copy of `judged` to write into."""
    return Path(shutil.copytree(judged, tmp_path / "run"))
