"""The report in a real browser, opened from disk: it shows what was measured, and takes labels blindly."""

import pytest

from dsd.evaluation import labels, report
from tests import browsing, tiny

WAYS = ("ours", "theirs", "copy of the reference")
MEAN = {"mean": 0.5, "low": 0.25, "high": 0.75}
ABOUT = {
    "id": "a report", "protocol": {"benchmark": "critters", "subjects": 15, "images": 15}, "settings": {},
    "seeds": "15", "backbones": {"reader": "abc123"}, "models": {}, "versions": {}, "unreadable": {},
    "measures": [{"name": "cp", "title": "CP", "meaning": "the subject"}], "traits": ["hue"], "groups": {},
    "unlabeled": [WAYS[2]], "chance": {"cp": MEAN}, "ceiling": {"cp": MEAN | {"mean": 0.9}},
    "scores": {way: {"cp": MEAN, "hue": MEAN} for way in WAYS},
    "agreement": {
        "labels": 20, "same": 10, "unknown": 1, "ways": {"ours": [10, 20]}, "agreement": {"cp": MEAN},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = [
        {
            "id": f"{way} {i}", "way": way, "subject": f"s{i}", "prompt": "on <b>the</b> beach", "seed": i,
            "asked": "a fox on <b>the</b> beach",
            "file": "drawn", "reference": "reference", "truth": None, "reason": "traits lost: hue",
            "scores": {"cp": None if i == 7 else i / 15},  # an answer that could not be read
        }
        for way in WAYS for i in range(15)
    ]  # fmt: skip
    images = {name: report.data_url(tiny.image(i)) for i, name in enumerate(("drawn", "reference"))}
    out = tmp_path_factory.mktemp("report")
    report.write(out, {"about": ABOUT, "rows": rows, "images": images})
    return out


def test_the_page_opens_from_disk_and_takes_labels(folder, tmp_path):
    wrong, asked = [], []
    with browsing.browser() as browser:
        page = browser.new_page(viewport=browsing.PHONE, color_scheme="dark")
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / report.NAME).as_uri())
        tables = page.inner_text("#scores")
        for text in (
            "truth (ceiling)",
            "0.900",
            "0.250 to 0.750",
            "Kept, part by part",
            "Agreement with a person",
        ):
            assert text in tables
        assert "Labels of images that are not in this report: 1." in tables
        page.click("nav >> text=Images")
        page.select_option("#order", "-cp")
        assert "on <b>the</b> beach (subject s14, seed 14)" in page.inner_text("#cases .case >> nth=0")
        assert "asked: a fox on <b>the</b> beach" in page.inner_text("#cases")
        assert "traits lost: hue" in page.inner_text("#cases") and page.locator(".case").count() == 12
        assert page.evaluate("document.documentElement.scrollWidth") == browsing.PHONE["width"]
        page.click("nav >> text=Label")
        for key in ("s", "d", "d", "ArrowLeft"):
            page.keyboard.press(key)
        assert page.inner_text("#count") == "2 labeled of 30" and "ours" not in page.inner_text("#label")
        with page.expect_download() as saved:
            page.click("#save")
        saved.value.save_as(tmp_path / "labels.json")
    found = labels.read(tmp_path / "labels.json")
    assert [*found.values()] == [True, False] and not any(name.startswith(WAYS[2]) for name in found)
    assert wrong == [] and [url for url in asked if not url.startswith(("data:", "blob:"))] == asked[:1]
