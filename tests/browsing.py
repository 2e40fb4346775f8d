"""A real browser for tests. Without Chromium they are skipped, except in CI, where that is a failure."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from dsd.ui import page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PHONE = {"width": 390, "height": 844}
# Gradio loads each kind of component by itself, so that a button may stand there before the fields do.
MOUNTED = ("#create", "#upload input[type=file], #upload img", "#prompt textarea, #prompt input", "#images")
PATIENCE = 60_000  # milliseconds; a busy machine may need most of them


def chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


if chromium() is None and not os.environ.get("CI"):
    pytest.skip("no Chromium on this machine", allow_module_level=True)
sync_api = (
    pytest.importorskip("playwright.sync_api")
    if not os.environ.get("CI")
    else __import__("playwright.sync_api", fromlist=["sync_playwright"])
)


@contextmanager
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def serving(loaded, examples, wheel=None) -> Iterator[str]:
    """The address of a page that is served meanwhile."""
    blocks = page.build(loaded, examples, wheel)
    _, url, _ = page.launch(blocks, prevent_thread_lock=True, quiet=True)
    yield url
    blocks.close()


@contextmanager
def visitors(browser, url: str) -> Iterator[Callable]:
    """Yields what opens a fresh visitor's page, `at` a query; at the end no script may have failed on any."""
    opened, errors = [], []

    def open_page(at: str = "", **options):
        tab = browser.new_context(accept_downloads=True, **options).new_page()
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", lambda error: errors.append(error))
        tab.goto(url + at)
        for part in MOUNTED:
            tab.locator(part).first.wait_for(state="attached")
        opened.append(tab)
        return tab

    yield open_page
    for tab in opened:
        tab.context.close()
    assert not errors


def begin_grid(tab) -> None:
    tab.locator("#grid-examples button").first.click()
    tab.get_by_label("Bottom right").and_(tab.locator(":not(:placeholder-shown)")).wait_for()
    tab.get_by_role("button", name="Draw the grid").click()


def download(tab, target):
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Download", exact=True).click()
    waiting.value.save_as(target)
    return target


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def fill_unfolded(field, text: str) -> None:
    """Fill a field that was unfolded just now; gradio mounts it later, with its own value again."""
    for _ in range(60):
        field.fill(text)
        field.page.wait_for_timeout(300)
        if field.input_value() == text:
            return
    raise AssertionError(f"the field keeps {field.input_value()!r}")


def done(tab) -> None:
    """Wait for the end of a run, of which the history is the last part."""
    tab.locator("#status").get_by_text("Done").wait_for()
    tab.locator("#cancel:disabled").wait_for()
    tab.locator("#about").get_by_text("Seed").wait_for()
