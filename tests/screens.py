"""The README's images of the page: `python -m tests.screens` writes assets/screens/*.png.

One file for every tab, as it looks after a little work there, and the first on a phone, in the dark. Without
`--url` an app is started for it, with the embedded weights. Subjects, words and seeds are fixed, so that an
image changes when page or weights do.
"""

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image

from tests import browsing
from tests.visiting import serving

SCREENS = Path(__file__).resolve().parents[1] / "assets" / "screens"
WIDTH = 1280
PATIENCE = 600_000  # milliseconds that a machine which is busy with other things may take for one step
PROMPTS = ("wearing a red hat on the beach", "at night in the snow")
SEED = 7


@contextmanager
def address(url: str | None) -> Iterator[str]:
    """Of the running app, or of one that is started and stopped here."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as app:
        yield str(app.http.base_url)


def generate(page) -> str:
    """Two images of one subject, the second with what it was made from."""
    page.locator("#examples button").first.click()
    browsing.done(page)
    browsing.unfold_settings(page)
    browsing.fill_unfolded(page.locator("#seed input"), str(SEED))
    page.get_by_role("button", name="More settings").click()
    for prompt in PROMPTS:
        page.get_by_label("Where should it be?").fill(prompt)
        page.get_by_role("button", name="Create").click()
        page.locator("#cancel:enabled").wait_for()
        browsing.done(page)
    page.locator("#history-strip button").first.click()
    page.locator("#about img").wait_for()
    return "#history-strip"


def fix_seed(page) -> None:
    """The one of the tab that is open; its settings are folded away again at the end."""
    page.get_by_role("button", name="More settings").click()
    seed = page.get_by_role("spinbutton", name=re.compile("^Seed"))
    browsing.fill_unfolded(seed, str(SEED))
    seed.blur()
    page.get_by_role("button", name="More settings").click()


def story(page) -> str:
    """A strip in its panels, of which one is picked."""
    page.get_by_role("tab", name="Story").click()
    page.locator("#story-characters button").nth(3).click()
    page.get_by_role("button", name="More settings").click()
    browsing.fill_unfolded(page.locator("#story-seed input"), str(SEED))
    page.get_by_role("button", name="More settings").click()
    page.locator("#story-draw").click()
    page.locator("#story-status").get_by_text(f"seeds {SEED} to").wait_for()
    page.locator("#story-pdf").wait_for()
    page.locator("#story-panels button").nth(1).click()
    page.locator("#story-line").wait_for()
    return "#story-pdf"


def grids(page) -> str:
    """A grid, cut and judged."""
    page.get_by_role("tab", name="Grids").click()
    fix_seed(page)
    browsing.begin_grid(page)
    page.locator("#grid-status").get_by_text("Done, seed").wait_for()
    page.locator("#grid-facts tfoot td").nth(5).wait_for()
    return "#grid-facts tfoot"


def curate(page) -> str:
    """The sample run, with a word of one's own against the judge's."""
    page.get_by_role("tab", name="Curate").click()
    page.locator("#pair-7 img").first.wait_for()
    page.locator("#pair-0").get_by_role("button", name="Same").click()
    page.locator("#curate-agreement").get_by_text("of 1").wait_for()
    return "#pair-7"


def shoot(page, last: str, path: Path) -> None:
    """From the top of the page to the lower edge of `last`, as a palette PNG: a page has few colors."""
    page.mouse.move(0, 0)
    page.evaluate("window.scrollTo(0, 0); document.activeElement.blur()")
    page.wait_for_timeout(2000)  # for people: no toast, no half-faded image
    box = page.locator(last).bounding_box()
    width, height = page.viewport_size["width"], round(box["y"] + box["height"] + 16)
    clip = {"x": 0, "y": 0, "width": width, "height": height}
    taken = Image.open(BytesIO(page.screenshot(full_page=True, clip=clip)))
    taken.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="a running app; one is started when left out")
    parser.add_argument("--out", type=Path, default=SCREENS, help="folder for the images (assets/screens)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with address(args.url) as url, browsing.browser() as browser:
        page = opened(browser, url, {"width": WIDTH, "height": 900}, "light")
        for visit in (generate, story, grids, curate):
            shoot(page, visit(page), args.out / f"{visit.__name__}.png")
        page.close()
        page = opened(browser, url, browsing.PHONE, "dark")
        shoot(page, generate(page), args.out / "phone.png")


def opened(browser, url: str, size: dict, scheme: str):
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    for part in browsing.MOUNTED:
        page.locator(part).first.wait_for(state="attached")
    return page


if __name__ == "__main__":
    main()
