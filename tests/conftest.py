"""What tests in a browser share. A module has a `server` of its own, which is an address."""

import os

import pytest

if processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Before torch is imported: each process, and what it starts, keeps to its share of the cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(processes))))


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
