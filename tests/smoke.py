"""A running app, asked by a program and by a visitor of every tab: `python -m tests.smoke URL FOLDER`.

Not for pytest, whose tests run the app on random weights: this asks an app that was started as a person
starts it, with the weights that come with the project. Screenshots of the tabs go into FOLDER: page.png,
page-grids.png, page-curate.png.
"""

import argparse
import json
import time
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image, ImageStat

from dsd.generate import provenance
from tests import browsing

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"


def check(path: str | Path, prompt: str) -> None:
    """A real image: it opens, is not one flat color, and carries the settings it was asked for."""
    assert provenance.read_settings(path)["prompt"] == prompt
    with Image.open(path) as image:
        assert max(ImageStat.Stat(image.convert("L")).stddev) > 5, f"{path} is one flat color"


def as_a_program(url: str, folder: Path) -> None:
    example = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))[0]
    client = Client(url, verbose=False, download_files=folder)
    image, prompt = handle_file(EXAMPLES / example["image"]), example["prompt"]
    (file,), _ = client.predict(image=image, prompt=prompt, seed=0, api_name="/generate")
    check(file, prompt)


def as_a_visitor(url: str, folder: Path) -> None:
    """One tab after the other, as they stand on the page."""
    with browsing.browser() as browser, browsing.visitors(browser, url) as open_page:
        page = open_page(viewport={"width": 1280, "height": 900})
        for visit in (generate, grids, curate):
            visit(page, folder)


def generate(page, folder: Path) -> None:
    page.locator("#examples button").first.click()
    browsing.done(page)  # until then, a download gets the example that the page opened with
    page.locator("#images img").first.wait_for()
    shoot(page, folder / "page.png")
    made = browsing.download(page, folder / "made.png")
    check(made, page.get_by_label("Where should it be?").input_value())


def grids(page, folder: Path) -> None:
    page.get_by_role("tab", name="Grids").click()
    browsing.begin_grid(page)
    page.locator("#grid-status").get_by_text("Done, seed").wait_for()
    page.locator("#grid-facts tfoot td").nth(5).wait_for()
    shoot(page, folder / "page-grids.png")


def curate(page, folder: Path) -> None:
    """The sample run, with a word of one's own against the judge's."""
    page.get_by_role("tab", name="Curate").click()
    page.locator("#pair-5 img").first.wait_for()
    page.locator("#pair-0").get_by_role("button", name="Same").click()
    page.locator("#curate-agreement").get_by_text("of 1").wait_for()
    shoot(page, folder / "page-curate.png")


def shoot(page, path: Path) -> None:
    """Once the layout has settled: the screenshot is for people."""
    page.wait_for_timeout(1500)
    page.screenshot(path=path, full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for ask in (as_a_program, as_a_visitor):
        start = time.monotonic()
        ask(args.url, args.folder)
        print(f"{ask.__name__.replace('_', ' ')}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
