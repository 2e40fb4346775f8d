"""A real browser for tests. Without Chromium they are skipped, except in CI, where that is a failure."""

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event

import numpy as np
import pytest
from PIL import Image

from dsd.ui import page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
ARGUMENTS += ["--in-process-gpu"]  # there is none: a process for it would only take time
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


expect = sync_api.expect  # waits for a state, where reading once would need luck
expect.set_options(timeout=PATIENCE)


@contextmanager
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=ARGUMENTS)
        browser.left = defaultdict(list)
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
    """Yields what opens a fresh visitor's page, `at` a query; at the end no script may have failed on any.

    A visitor may take over the tab of one who left, with empty storage: reading the page's scripts anew would
    take two thirds of the time of opening it.
    """
    opened, errors = [], []

    def keep(error):
        errors.append(error)

    def open_page(at: str = "", **options):
        left = browser.left[repr(sorted(options.items()))]
        tab = left.pop() if left else browser.new_context(accept_downloads=True, **options).new_page()
        tab.set_default_timeout(PATIENCE)
        tab.on("pageerror", keep)
        tab.goto(url + at)
        for part in MOUNTED:
            tab.locator(part).first.wait_for(state="attached")
        tab.wait_for_function("typeof dsdPress === 'function'")  # the page's own script is at work
        opened.append((tab, left, tab.viewport_size))
        return tab

    yield open_page
    for tab, left, size in opened:
        tab.remove_listener("pageerror", keep)
        leave(tab, size)
        left.append(tab)
    assert not errors


def leave(tab, size: dict[str, int]) -> None:
    """Let a tab be as it was when its context began, but for what it has read."""
    tab.unroute_all()
    tab.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    tab.context.clear_cookies()
    tab.set_viewport_size(size)
    tab.goto("about:blank")


def begin_grid(tab) -> None:
    tab.locator("#grid-examples button").first.click()
    tab.get_by_label("Bottom right").and_(tab.locator(":not(:placeholder-shown)")).wait_for()
    tab.get_by_role("button", name="Draw the grid").click()


def download(tab, target):
    with tab.expect_download() as waiting:
        tab.locator("#download").click()
    waiting.value.save_as(target)
    return target


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def unfold_settings(tab) -> None:
    """Open More settings of the Create tab, and wait until gradio has mounted every field in it."""
    tab.get_by_role("button", name="More settings").click()
    tab.locator("#reset").wait_for()
    settle(tab)


def settle(tab) -> None:
    """Wait until nothing has been added to the page, or taken away, for half a second."""
    tab.evaluate("""() => new Promise((done) => {
      let rest = null;
      const watch = new MutationObserver(() => begin());
      const begin = () => {
        clearTimeout(rest);
        rest = setTimeout(() => { watch.disconnect(); requestAnimationFrame(done); }, 500);
      };
      watch.observe(document.body, {childList: true, subtree: true});
      begin();
    })""")


def fill_unfolded(field, text: str) -> None:
    """Fill a field that was unfolded just now; gradio mounts it later, with its own value again."""
    for _ in range(60):
        field.fill(text)
        field.page.wait_for_timeout(300)
        if field.input_value() == text:
            return
    raise AssertionError(f"the field keeps {field.input_value()!r}")


def fits(tab, width: int) -> None:
    """Wait until the page is no wider than that; some widths follow by script."""
    tab.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)


PASTE = """async ([width, height]) => {
  const canvas = new OffscreenCanvas(width, height), data = new DataTransfer();
  canvas.getContext("2d").fillRect(0, 0, width, height);
  data.items.add(new File([await canvas.convertToBlob()], "pasted.png", {type: "image/png"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""
# Whether the layer to crop on lies on the image, not on the frame around it, and neither moves.
PLACED = """async ([selector, ratio]) => {
  const box = (one) => document.querySelector(one).getBoundingClientRect();
  const before = box(".dsd-crop");
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const layer = box(".dsd-crop"), image = box(selector);
  const middle = (one) => one.left + one.width / 2;
  return before.top === layer.top && before.left === layer.left && Math.abs(middle(layer) - middle(image)) < 2
    && Math.abs(layer.width - ratio * layer.height) < 2;
}"""


def crop_left_half(tab, selector: str, ratio: float) -> None:
    """Drag a box around the left half of an image, whose width is `ratio` times its height."""
    tab.locator(".dsd-crop").wait_for()
    tab.wait_for_function(PLACED, arg=[f"{selector} img", ratio])
    box = tab.locator(".dsd-crop").bounding_box()
    tab.mouse.move(box["x"] + 1, box["y"] + 1)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 1)
    tab.mouse.up()


def has_size(tab, selector: str, width: int, height: int) -> None:
    """Wait until an image has about these pixels."""
    tab.wait_for_function(
        """([selector, ...size]) => { const image = document.querySelector(`${selector} img`);
          const natural = image ? [image.naturalWidth, image.naturalHeight] : [0, 0];
          return natural.every((pixels, i) => Math.abs(pixels - size[i]) < 3); }""",
        arg=[selector, width, height],
    )


class Hold:
    """Makes a model wait from its `first` call on, until `release`: a browser may be slow.

    Each call takes `seconds` more.
    """

    def __init__(self, module, first: int, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self._first, self._seconds, self._free = first, seconds, Event()
        self._hook = module.register_forward_hook(self._wait)

    def _wait(self, *_) -> None:
        self.calls.append(1)
        time.sleep(self._seconds)
        if len(self.calls) >= self._first:
            self._free.wait(2 * PATIENCE / 1000)

    def release(self) -> None:
        self._free.set()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(self, *_) -> None:
        self._free.set()
        self._hook.remove()


def done(tab) -> None:
    """Wait for the end of a run, of which the history is the last part."""
    tab.locator("#status").get_by_text("Done").wait_for()
    tab.locator("#cancel:disabled").wait_for()
    tab.locator("#about").get_by_text("Seed").wait_for()
