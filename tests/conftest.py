"""What tests in a browser share. A module has a `server` of its own, which is an address."""

import pytest


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
