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
from tests.browsing import done, download, fill_unfolded, image

DOWN = ("#upload", "#prompt", "#create", "#cost", "#images", "#actions", "#chips", "#advanced", "#describe")


def last_is_best(frame, prompt, images):
    return [Score(0.5 + i / 10, 1.0) for i in range(len(images))]


@pytest.fixture(scope="module")
def finished(browser, tmp_path_factory):
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
    with browsing.serving(loaded, folder) as url, browsing.visitors(browser, url) as open_page:
        yield open_page


def test_the_first_look_shows_a_finished_example_beside_its_reference(finished, tmp_path):
    tab = finished(viewport={"width": 1280, "height": 900})
    tab.locator("#images img").first.wait_for()
    boxes = [tab.locator(part).bounding_box() for part in ("#upload", "#images")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["height"] == boxes[1]["height"]
    assert abs(boxes[0]["width"] - boxes[1]["width"]) < 2
    cost, chips = (tab.locator(part).bounding_box() for part in ("#cost", "#chips"))
    assert 0 < chips["y"] - cost["y"] - cost["height"] < 30 and chips["x"] == cost["x"]
    below = tab.locator("#examples").bounding_box()
    assert below["y"] + below["height"] < boxes[0]["y"]
    assert tab.locator("#create").bounding_box()["y"] < 900, "one sees what to do without scrolling"
    assert provenance.read_settings(download(tab, tmp_path / "first.png"))["seed"] == 0
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert tab.evaluate("getComputedStyle(document.querySelector('footer .divider')).display") == "none"
    width = tab.locator(".gradio-container").bounding_box()["width"]
    tab.get_by_role("button", name="More settings").click()
    tab.locator("#seed").wait_for()
    assert tab.locator(".gradio-container").bounding_box()["width"] == width
    for size in (360, 640, 900):
        tab.set_viewport_size({"width": size, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= size
    tab.set_viewport_size({"width": 360, "height": 800})
    tops = [top(tab, part) for part in DOWN]
    assert tops == sorted(set(tops)), "on a phone the result follows the Create button"


def top(tab, part: str) -> float:
    return tab.locator(part).bounding_box()["y"]


def test_the_best_of_several_stands_first_and_a_click_on_the_sheet_takes_over_its_scales(finished, tmp_path):
    tab = finished(viewport={"width": 360, "height": 780})
    tab.get_by_role("button", name="More settings").click()
    assert tab.get_by_label("Seed", exact=True).input_value() == "-1", "opening the settings fixes no seed"
    fill_unfolded(tab.get_by_label("Seed", exact=True), "5")
    tab.get_by_label("number input for Steps").fill("1")
    tab.get_by_label("number input for Number of images").fill("3")
    tab.get_by_label("Rank them").check()
    tab.get_by_role("button", name="Create").click()
    tab.locator("#status").get_by_text("Done, 3 images, the best first").wait_for()
    tab.locator("#about").get_by_text("Seed 7 · same subject 70 %, prompt 100 %").wait_for()
    tab.locator("#sheet-cost").get_by_text("Takes about").wait_for()
    tab.get_by_role("button", name="Draw the sheet").click()
    tab.locator("#sheet-status").get_by_text("Click an image").wait_for()
    cells = tab.locator("#sheet-images button")
    assert cells.count() == 9 and tab.evaluate("document.documentElement.scrollWidth") <= 360
    cells.nth(5).click()
    tab.locator("#sheet-status").get_by_text("keep the subject 1.5, follow the prompt 3").wait_for()
    tab.locator("#about").get_by_text("Seed 5").wait_for()
    scales = [tab.get_by_label(f"number input for {n}") for n in ("Keep the subject", "Follow the prompt")]
    assert [scale.input_value() for scale in scales] == ["1.5", "3"]
    settings = provenance.read_settings(download(tab, tmp_path / "cell.png"))
    assert (settings["image_guidance"], settings["text_guidance"], settings["seed"]) == (1.5, 3, 5)


def test_chips_write_the_prompt_and_reset_brings_the_settings_back(finished, tmp_path):
    tab = finished()
    prompt, chips = tab.get_by_label("Where should it be?"), tab.locator("#chips")
    assert prompt.input_value() == "in the snow"
    tab.locator("#chips [aria-pressed=true]").get_by_text("in the snow").wait_for()
    for name, text_ in (("on the beach", "on the beach"), ("at night", "on the beach at night")):
        chips.get_by_role("button", name=name).click()
        assert prompt.input_value() == text_
    chips.get_by_role("button", name="on the beach").click()
    assert prompt.input_value() == "at night"
    tab.get_by_role("button", name="More settings").click()
    fill_unfolded(tab.get_by_label("Seed", exact=True), "9")
    tab.get_by_label("Portrait").check()
    tab.get_by_label("Draft:").check()
    tab.get_by_role("button", name="Create").click()
    done(tab)
    settings = provenance.read_settings(download(tab, tmp_path / "made.png"))
    assert (settings["width"], settings["height"], settings["seed"]) == (32, 48, 9)
    tab.get_by_role("button", name="Reset settings").click()
    tab.locator("#aspect").get_by_label("Square").and_(tab.locator(":checked")).wait_for()
    assert (
        tab.get_by_label("Best:").is_checked() and tab.get_by_label("Seed", exact=True).input_value() == "-1"
    )
    assert prompt.input_value() == "at night"


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
    tab.evaluate("""async () => {
      const canvas = new OffscreenCanvas(80, 40);
      canvas.getContext("2d").fillRect(0, 0, 80, 40);
      const data = new DataTransfer();
      data.items.add(new File([await canvas.convertToBlob()], "pasted.png", {type: "image/png"}));
      document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
    }""")
    find = "const i = document.querySelector('#upload img'); return i"
    natural = f"([w, h]) => {{ {find}?.naturalWidth === w && i.naturalHeight === h; }}"
    tab.wait_for_function(natural, arg=[80, 40])
    tab.locator("#tools").get_by_role("button", name="Crop").click()
    layer = tab.locator(".dsd-crop")
    layer.wait_for()
    tab.keyboard.press("Escape")
    layer.wait_for(state="detached")
    tab.locator("#tools").get_by_role("button", name="Crop").click()
    tab.set_viewport_size({"width": 1000, "height": 900})
    tab.wait_for_function("""() => { const middle = (selector) => {
      const box = document.querySelector(selector).getBoundingClientRect();
      return box.left + box.width / 2;
    }; return Math.abs(middle(".dsd-crop") - middle("#upload img")) < 2; }""")
    box = layer.bounding_box()
    assert abs(box["width"] - 2 * box["height"]) < 2, "the box lies on the image, not on the frame around it"
    tab.mouse.move(box["x"] + 1, box["y"] + 1)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 1)
    tab.mouse.up()
    tab.wait_for_function(f"() => {{ {find} && Math.abs(i.naturalWidth - 40) < 2; }}")
    undo = tab.get_by_role("button", name="Undo changes")
    assert undo.get_attribute("title") == "Takes the image as you gave it"
    undo.click()
    tab.wait_for_function(natural, arg=[80, 40])
