"""What the suite has of the faults, all but `--all-faults`, takes at most 45 s of processor time."""

import psutil
import pytest

MOST = 45  # seconds, with those of child processes: they do not depend on what else runs on the machine
START, SPENT = pytest.StashKey[float](), pytest.StashKey[float]()


def seconds() -> float:
    """Return the processor time of this process, its children, and theirs that have ended."""
    process = psutil.Process()
    return sum(sum(one.cpu_times()[:4]) for one in (process, *process.children()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    item.session.stash[START] = seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Fail the test with which the faults that ran in this process have taken too long."""
    yield
    stash, is_whole = item.session.stash, item.config.getoption("--all-faults")
    before = stash.get(SPENT, 0.0)
    stash[SPENT] = spent = before + seconds() - stash[START]
    if before <= MOST < spent and not is_whole:
        pytest.fail(f"tests/faults took {spent:.0f} s of processor time, and may take {MOST} s")
