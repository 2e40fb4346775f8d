"""One picture from a running app, asked for by a program and by a visitor: `python -m tests.smoke URL
FOLDER`.

Not for pytest, whose tests run the app on random weights: this asks an app that was started as a person
starts it, with the weights that come with the project. A screenshot of the page goes into FOLDER.
"""

import argparse
import json
import time
from pathlib import Path

from gradio_client import Client, handle_file
from PIL import Image, ImageStat

from dsd import provenance
from tests import test_browser

EXAMPLES = Path(__file__).resolve().parents[1] / "assets" / "examples"


def check(path: str | Path, prompt: str) -> None:
    """A real picture: it opens, is not one flat colour, and carries the settings it was asked for."""
    assert provenance.read_settings(path)["prompt"] == prompt
    with Image.open(path) as image:
        assert max(ImageStat.Stat(image.convert("L")).stddev) > 5, f"{path} is one flat colour"


def as_a_program(url: str, folder: Path) -> None:
    example = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))[0]
    client = Client(url, verbose=False, download_files=folder)
    image, prompt = handle_file(EXAMPLES / example["image"]), example["prompt"]
    (file,), _ = client.predict(image=image, prompt=prompt, seed=0, api_name="/generate")
    check(file, prompt)


def as_a_visitor(url: str, folder: Path) -> None:
    with test_browser.sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=test_browser.chromium(), headless=True, args=test_browser.ARGUMENTS
        )
        page = browser.new_page(accept_downloads=True, viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.goto(url)
        page.locator("#examples button").first.click()
        page.get_by_text("Done, seed").wait_for()
        page.locator("#pictures img").first.wait_for()
        page.wait_for_timeout(1500)  # for the layout to settle: the screenshot is for people
        page.screenshot(path=folder / "page.png", full_page=True)
        made = test_browser.download(page, folder / "made.png")
        check(made, page.get_by_label("Where should it be?").input_value())
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for ask in (as_a_program, as_a_visitor):
        start = time.monotonic()
        ask(args.url, args.folder)
        print(
            f"{ask.__name__.replace('_', ' ')}: one picture in {time.monotonic() - start:.1f} s", flush=True
        )


if __name__ == "__main__":
    main()
