"""The Create tab as it opens, its chips, and the tools of the reference, in a real browser."""

import itertools
import json
from dataclasses import replace

import pytest

from dsd.generate import drawing, provenance
from dsd.generate.ranking import Score
from dsd.model.presets import SOMEWHERE
from dsd.ui.models import Lazy, Loaded
from tests import browsing, tiny
from tests.browsing import (
    PASTE,
    crop_left_half,
    done,
    download,
    expect,
    fill_unfolded,
    fits,
    has_size,
    image,
    settle,
    unfold_settings,
)
from tests.calling import until

DOWN = ("#upload", "#prompt", "#create", "#cost", "#chips", "#images", "#actions", "#advanced", "#describe")


def last_is_best(frame, prompt, images):
    return [Score(0.5 + i / 10, 1.0) for i in range(len(images))]


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """A page that opens with an example that is already drawn, and with everything that a family can have."""
    pipe = tiny.pipeline(guidance_embeds=False)
    folder = tmp_path_factory.mktemp("finished")
    image(0).save(folder / "0.png")
    (result,) = drawing.generate(pipe, image(0), drawing.Options(prompt="in the snow", steps=1))
    drawing.save(result, folder / "made.png")
    row = {"image": "0.png", "prompt": "in the snow", "seed": 3, "result": "made.png"}
    (folder / "examples.json").write_text(json.dumps([row]))
    phrases = {"Places": ("in the snow", "on the beach"), "Light": ("at night",)}
    loaded = Loaded(
        pipe=pipe, name="tiny", tasks=(replace(SOMEWHERE, phrases=phrases),),
        aspects={"Square": (1.0, 1.0), "Portrait": (1.0, 1.5)}, ranker=Lazy("tiny", lambda: last_is_best),
    )  # fmt: skip
    with browsing.serving(loaded, folder) as url:
        yield url


@pytest.fixture
def finished(browser, address):
    with browsing.visitors(browser, address) as open_page:
        yield open_page


def test_the_first_look_shows_a_finished_example_beside_its_reference(finished, tmp_path):
    tab = finished(viewport={"width": 1280, "height": 900})
    tab.locator("#images img").first.wait_for()
    tab.locator("#cost").get_by_text("The first image").wait_for()
    tab.locator("footer .divider").first.wait_for(state="attached")
    settle(tab)
    boxes = [tab.locator(part).bounding_box() for part in ("#upload", "#images")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["height"] == boxes[1]["height"]
    assert abs(boxes[0]["width"] - boxes[1]["width"]) < 2
    cost, chips = (tab.locator(part).bounding_box() for part in ("#cost", "#chips"))
    assert 0 < chips["y"] - cost["y"] - cost["height"] < 30 and chips["x"] == cost["x"]
    below = tab.locator("#examples").bounding_box()
    assert below["y"] + below["height"] < boxes[0]["y"]
    assert tab.locator("#create").bounding_box()["y"] < 900, "one sees what to do without scrolling"
    assert provenance.read_settings(download(tab, tmp_path / "first.png"))["seed"] == 0
    filling = tab.locator("#images").get_by_label("Download")
    expect(filling).to_be_hidden()  # the button below does the same
    tab.locator("#images").get_by_label("Fullscreen", exact=True).click()
    with tab.expect_download() as waiting:
        filling.click()
    waiting.value.save_as(tmp_path / "filling.png")
    assert (tmp_path / "filling.png").read_bytes() == (tmp_path / "first.png").read_bytes()
    tab.locator("#images").get_by_label("Exit fullscreen").click()
    expect(filling).to_be_hidden()
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert tab.evaluate("getComputedStyle(document.querySelector('footer .divider')).display") == "none"
    width = tab.locator(".gradio-container").bounding_box()["width"]
    unfold_settings(tab)
    assert tab.locator(".gradio-container").bounding_box()["width"] == width
    for size in (640, 900, 360):
        tab.set_viewport_size({"width": size, "height": 800})
        fits(tab, size)
    until(lambda: (found := tops(tab)) == sorted(set(found)))  # on a phone one below the other
    first, last = tab.locator("#prompt").bounding_box(), tab.locator("#chips").bounding_box()
    assert last["y"] + last["height"] - first["y"] < 400, "one sees what a chip writes"
    tab.locator("#status").get_by_text("with the reference it was made from").wait_for()
    tab.locator("#upload").get_by_label("Remove Image").click()
    tab.locator("#tools").wait_for(state="hidden")
    tab.locator("#about").get_by_alt_text("Its reference").wait_for()


def tops(tab) -> list[float]:
    return [tab.locator(part).bounding_box()["y"] for part in DOWN]


def test_the_best_of_several_stands_first_and_a_click_on_the_sheet_takes_over_its_scales(finished, tmp_path):
    tab = finished(viewport={"width": 360, "height": 780})
    unfold_settings(tab)
    expect(tab.get_by_label("Seed", exact=True)).to_have_value("-1")  # opening the settings fixes no seed
    fill_unfolded(tab.get_by_label("Seed", exact=True), "5")
    fill_unfolded(tab.get_by_label("number input for Steps"), "1")
    fill_unfolded(tab.get_by_label("number input for Number of images"), "3")
    tab.get_by_label("Rank them").check()
    tab.get_by_role("button", name="Create").click()
    tab.locator("#status").get_by_text("Done, 3 images, the best first").wait_for()
    tab.locator("#about").get_by_text("Seed 7 · same subject 70 %, prompt 100 %").wait_for()
    tab.locator("#sheet-cost").get_by_text("Takes about").wait_for()
    tab.get_by_role("button", name="Draw the sheet").click()
    tab.locator("#sheet-status").get_by_text("Click an image").wait_for()
    cells = tab.locator("#sheet-images button")
    expect(cells).to_have_count(9)
    fits(tab, 360)
    cells.nth(5).click()
    tab.locator("#sheet-status").get_by_text("keep the subject 1.5, follow the prompt 3").wait_for()
    tab.locator("#about").get_by_text("Seed 5").wait_for()
    for name, scale in (("Keep the subject", "1.5"), ("Follow the prompt", "3")):
        expect(tab.get_by_label(f"number input for {name}")).to_have_value(scale)
    settings = provenance.read_settings(download(tab, tmp_path / "cell.png"))
    assert (settings["image_guidance"], settings["text_guidance"], settings["seed"]) == (1.5, 3, 5)


def test_chips_write_the_prompt_and_reset_brings_the_settings_back(finished, tmp_path):
    tab = finished()
    prompt, chips = tab.get_by_label("Where should it be?"), tab.locator("#chips")
    expect(prompt).to_have_value("in the snow")
    tab.locator("#chips [aria-pressed=true]").get_by_text("in the snow").wait_for()
    for name, text_ in (("on the beach", "on the beach"), ("at night", "on the beach at night")):
        chips.get_by_role("button", name=name).click()
        expect(prompt).to_have_value(text_)
    chips.get_by_role("button", name="on the beach").click()
    expect(prompt).to_have_value("at night")
    unfold_settings(tab)
    fill_unfolded(tab.get_by_label("Seed", exact=True), "9")
    tab.get_by_label("Portrait").check()
    tab.get_by_label("Draft:").check()
    tab.get_by_role("button", name="Create").click()
    done(tab)
    settings = provenance.read_settings(download(tab, tmp_path / "made.png"))
    assert (settings["width"], settings["height"], settings["seed"]) == (32, 48, 9)
    tab.get_by_role("button", name="Reset settings").click()
    tab.locator("#aspect").get_by_label("Square").and_(tab.locator(":checked")).wait_for()
    expect(tab.get_by_label("Best:")).to_be_checked()
    expect(tab.get_by_label("Seed", exact=True)).to_have_value("-1")
    expect(prompt).to_have_value("at night")


def test_text_with_its_picture_is_pasted_as_text(finished):
    """Excel and Word copy both."""
    tab = finished()
    assert tab.evaluate("""() => {
      const data = new DataTransfer(), field = document.querySelector("#prompt textarea, #prompt input");
      data.items.add(new File(["x"], "x.png", {type: "image/png"}));
      data.setData("text/plain", "at sea");
      const paste = {clipboardData: data, bubbles: true, cancelable: true};
      return field.dispatchEvent(new ClipboardEvent("paste", paste));
    }""")


def test_an_image_is_pasted_anywhere_and_cropped_by_a_drag(finished):
    tab = finished(viewport={"width": 1280, "height": 900})
    tab.locator("#upload img").wait_for()
    tab.evaluate(PASTE, [80, 40])
    has_size(tab, "#upload", 80, 40)
    tab.locator("#tools").get_by_role("button", name="Crop").click()
    layer = tab.locator(".dsd-crop")
    layer.wait_for()
    tab.keyboard.press("Escape")
    layer.wait_for(state="detached")
    tab.locator("#tools").get_by_role("button", name="Crop").click()
    tab.set_viewport_size({"width": 1000, "height": 900})
    crop_left_half(tab, "#upload", 2)
    has_size(tab, "#upload", 40, 40)
    undo = tab.get_by_role("button", name="Undo changes")
    expect(undo).to_have_attribute("title", "Takes the image as you gave it")
    undo.click()
    has_size(tab, "#upload", 80, 40)
