"""The Create tab in a real browser."""

import itertools
import json
import re
import time
from threading import Event

import numpy as np
import pytest
from PIL import Image

from dsd.generate import drawing, provenance
from dsd.ui.models import Loaded
from tests import browsing, tiny
from tests.browsing import download
from train.pocket import text


@pytest.fixture(scope="module")
def server(pipe, tmp_path_factory):
    examples = tmp_path_factory.mktemp("examples")
    for index in range(2):
        image(index).save(examples / f"{index}.png")
    (examples / "examples.json").write_text(
        '[{"image": "0.png", "prompt": "in the snow"}, {"image": "1.png", "prompt": "at sea"}]'
    )
    with browsing.serving(Loaded(pipe=pipe, name="tiny", description="Random weights."), examples) as url:
        yield url


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def slower(pipe, seconds: float):
    return pipe.transformer.register_forward_hook(lambda *_: time.sleep(seconds))


def done(tab) -> None:
    """Wait for the end of a run, of which the history is the last part."""
    tab.locator("#status").get_by_text("Done").wait_for()
    tab.locator("#cancel:disabled").wait_for()
    tab.locator("#about").get_by_text("Seed").wait_for()


def upload(tab, path) -> None:
    tab.locator("#upload input[type=file]").set_input_files(str(path))


def ask_for_three_steps_of_a_draft(tab) -> None:
    tab.get_by_role("button", name="More settings").click()
    steps = tab.get_by_label("number input for Steps")
    assert tab.get_by_label("Best:").is_checked() and steps.input_value() == "28"
    tab.get_by_label("Balanced:").check()
    tab.wait_for_function("e => e.value === '14'", arg=steps.element_handle())
    tab.get_by_label("Draft:").check()
    tab.wait_for_function("e => e.value === '6'", arg=steps.element_handle())
    steps.fill("3")
    steps.blur()


def test_upload_prompt_quality_and_steps_come_back_with_the_image_that_was_downloaded(open_page, tmp_path):
    image(5).save(tmp_path / "photo.png")
    tab = open_page()
    ask_for_three_steps_of_a_draft(tab)
    upload(tab, tmp_path / "photo.png")
    tab.locator("#seen img").wait_for()
    tab.get_by_label("Where should it be?").fill("a red hat 帽子")
    tab.get_by_label("Where should it be?").press("Enter")
    done(tab)
    assert tab.get_by_label("Draft:").is_checked()
    assert tab.get_by_label("number input for Steps").input_value() == "3"
    made = download(tab, tmp_path / "made.png")
    settings = provenance.read_settings(made)
    assert (settings["steps"], settings["quality"]["name"]) == (3, "draft")
    assert settings["prompt"] == "a red hat 帽子"
    about = tab.locator("#about").inner_text()
    assert about.startswith("a red hat 帽子") and f"Seed {settings['seed']}" in about
    assert tab.locator("#images .media-button img").get_attribute("alt") == "a red hat 帽子"

    other = open_page()
    upload(other, made)
    other.get_by_text("Its settings and its reference image have been restored").wait_for()
    assert other.get_by_label("Where should it be?").input_value() == "a red hat 帽子"
    other.locator("#seen img").wait_for()
    other.get_by_role("button", name="Create").click()
    done(other)
    assert f"Seed {settings['seed']}" in other.locator("#about").inner_text()
    again = download(other, tmp_path / "again.png")
    assert provenance.read_settings(again) == settings
    with Image.open(made) as one, Image.open(again) as two:
        assert one.tobytes() == two.tobytes()
    other.get_by_role("button", name="More settings").click()
    assert other.get_by_label("Draft:").is_checked()
    assert other.get_by_label("number input for Steps").input_value() == "3"


def test_nothing_uploaded_is_said_once_at_the_reference_and_an_example_draws(open_page):
    tab = open_page()
    tab.get_by_role("button", name="Create").click()
    tab.locator("#remarks [role=alert]").get_by_text("There is no image yet").wait_for()
    tab.locator("#cancel:disabled").wait_for()
    assert tab.get_by_text("There is no image yet").count() == 1
    assert tab.get_by_test_id("toast-body").count() == 0 and tab.locator("#images img").count() == 0
    tab.locator("#examples button").nth(1).click()
    done(tab)
    assert tab.get_by_label("Where should it be?").input_value() == "at sea"


def test_unknown_words_are_named_while_the_prompt_is_typed(browser, tmp_path_factory):
    pipe = tiny.pipeline(guidance_embeds=False)
    pipe.tokenizer_2 = text.build_t5_tokenizer()
    with browsing.serving(Loaded(pipe=pipe, name="tiny"), tmp_path_factory.mktemp("none")) as url:
        with browsing.visitors(browser, url) as open_page:
            tab = open_page()
            prompt, remark = tab.get_by_label("Where should it be?"), tab.locator("#unknown-words")
            prompt.press_sequentially("on the beech")
            remark.get_by_text('does not know "beech"').wait_for()
            assert "beach" in remark.inner_text()
            remark.get_by_role("button", name="beach").click()
            remark.wait_for(state="hidden")
            assert prompt.input_value() == "on the beach"


def test_cancel_stops_and_the_next_run_works(open_page, pipe):
    calls, clicked = [], Event()

    def count(*_) -> None:
        calls.append(1)
        if len(calls) > 20:  # half of it is done: however slow the browser is, the rest is yet to come
            clicked.wait(60)

    hooks = [slower(pipe, 0.25), pipe.transformer.register_forward_hook(count)]
    try:
        tab = open_page()
        tab.locator("#examples button").first.click()
        tab.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        tab.locator("#images img").first.wait_for()  # the live preview
        tab.get_by_role("button", name="Cancel").click()
        clicked.set()
        tab.get_by_text("Canceled.").wait_for()
        time.sleep(0.8)
        stopped = len(calls)
        time.sleep(0.8)
        assert len(calls) == stopped < 40
    finally:
        clicked.set()
        [hook.remove() for hook in hooks]
    tab.get_by_role("button", name="Create").click()
    done(tab)


def test_create_is_usable_again_after_every_kind_of_error(open_page):
    tab = open_page()
    tab.locator("#examples button").first.click()
    done(tab)
    tab.get_by_role("button", name="More settings").click()
    seed, create = tab.get_by_label("Seed", exact=True), tab.get_by_role("button", name="Create")
    for typed in ("-5", "1.5"):
        seed.fill(typed)
        create.click()
        tab.locator("#setting-remark").get_by_text(f"got {typed}").wait_for()
    seed.fill("-1")  # as other programs write "any"
    full = {"detail": "Queue is full. Please try again later."}
    tab.route("**/queue/join*", lambda way: way.fulfill(status=503, json=full))
    create.click()
    tab.get_by_text("currently busy").wait_for()
    tab.unroute("**/queue/join*")
    create.click()
    tab.locator("#history-strip button").nth(1).wait_for()
    tab.route("**/queue/join*", lambda way: way.abort())
    create.click()
    tab.get_by_text("Connection to the server was lost").wait_for()
    tab.unroute("**/queue/join*")  # gradio loads the page anew when the server answers again
    tab.locator("#status").get_by_text("Your images will appear here").wait_for()
    tab.locator("#examples button").first.click()
    done(tab)


def test_a_second_click_while_one_is_drawn_starts_nothing(open_page, pipe):
    hook, tab = slower(pipe, 0.05), open_page()
    try:
        tab.locator("#examples button").first.click()
        tab.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        tab.get_by_role("button", name="Create").click()
        done(tab)
    finally:
        hook.remove()
    tab.locator("#history-strip button").wait_for()
    time.sleep(1)
    assert tab.locator("#history-strip button").count() == 1
    assert "Done" in tab.locator("#status").inner_text()


def test_the_second_visitor_sees_the_place_in_the_queue_and_no_image_of_the_first(open_page, pipe):
    hook = slower(pipe, 0.08)
    try:
        first, second = open_page(), open_page()
        first.locator("#examples button").first.click()
        first.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        second.locator("#examples button").first.click()
        second.locator("#status[data-place='1 person before you']").wait_for()
        assert second.locator("#status").bounding_box()["height"] > 20
        second.get_by_role("button", name="Cancel").click()  # leaving the queue works too
        second.get_by_text("Canceled.").wait_for()
    finally:
        hook.remove()
    done(first)
    first.locator("#history-strip button").wait_for()
    assert "Canceled." in second.locator("#status").inner_text()
    assert second.locator("#history").is_hidden()
    second.get_by_role("button", name="Create").click()
    done(second)
    second.locator("#history-strip button").first.wait_for()
    assert second.locator("#history-strip button").count() == 1


def test_a_broken_upload_gets_a_sentence_and_the_page_lives(open_page, tmp_path):
    image(5).save(tmp_path / "good.png")
    tab = open_page()
    upload(tab, tmp_path / "good.png")
    for name, content in {"notes.png": b"Dear diary", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        tab.locator("#seen img").wait_for()
        tab.locator("#upload").get_by_label("Remove Image").click()
        upload(tab, tmp_path / name)
        tab.locator("#remarks [role=alert]", has_text=name).wait_for()
        tab.get_by_label("Where should it be?").fill("a hat")
        tab.get_by_role("button", name="Create").click()
        tab.locator("#cancel:disabled").wait_for()
        assert tab.locator("[role=alert]").get_by_text(name).count() == 1
        tab.locator("#examples button").first.click()
        done(tab)
        tab.locator("[role=alert]").wait_for(state="detached")


def test_the_images_of_a_visit_are_shown_downloaded_and_used_again(open_page, tmp_path):
    tab = open_page(permissions=["clipboard-read", "clipboard-write"])
    assert tab.locator("#history").is_hidden() and tab.locator("#actions").is_hidden()
    for index in range(2):
        tab.locator("#examples button").nth(index).click()
        tab.locator("#history-strip button").nth(index).wait_for()
    tab.locator("#history-strip button").nth(1).click()  # the newest is the first
    tab.locator("#about").get_by_text("in the snow").wait_for()
    tab.locator("#about img").wait_for()
    older = download(tab, tmp_path / "older.png")
    assert provenance.read_settings(older)["prompt"] == "in the snow"
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="larger (Lanczos)").click()
    waiting.value.save_as(tmp_path / "large.png")
    with Image.open(older) as small, Image.open(tmp_path / "large.png") as large:
        assert large.width == 4 * small.width
    tab.get_by_role("button", name="Copy settings").click()
    tab.locator("#copy-remark").get_by_text("are copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()").startswith("in the snow\nSeed")
    tab.get_by_role("button", name="Use these settings").click()
    tab.get_by_text("Its settings and its reference image have been restored").wait_for()
    assert tab.get_by_label("Where should it be?").input_value() == "in the snow"
    tab.get_by_role("button", name="Use as reference").click()
    tab.get_by_text("Its settings and its reference image have been restored").wait_for(state="hidden")
    tab.wait_for_function("document.querySelector('#upload img').src.includes('dsd-')")
    tab.get_by_label("Where should it be?").fill("elsewhere")
    tab.get_by_role("button", name="Another").click()
    tab.locator("#history-strip button").nth(2).wait_for()
    tab.locator("#about").get_by_text("in the snow").wait_for()
    assert tab.get_by_label("Where should it be?").input_value() == "elsewhere"
    tab.set_viewport_size({"width": 360, "height": 800})
    for _ in range(2):
        count = tab.locator("#history-strip button").count()
        tab.get_by_role("button", name="Another").click()
        tab.locator("#history-strip button").nth(count).wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_link_brings_its_settings_and_the_form_gives_it_back(open_page, server):
    asked = (
        "?prompt=a+red+hat+%F0%9F%8E%A9&count=2&steps=5&image_guidance=1.5&text_guidance=2.5"
        "&seed=7&width=48&height=32&fit=pad&quality=draft"
    )
    tab = open_page(f"{asked}&__theme=dark")
    tab.locator("#brought").get_by_text("links never carry an image").wait_for()
    assert tab.get_by_label("Where should it be?").input_value() == "a red hat 🎩"
    tab.get_by_role("button", name="More settings").click()
    assert tab.get_by_label("Seed", exact=True).input_value() == "7"
    tab.get_by_role("button", name="Copy link").click()
    box = tab.locator("#link").get_by_role("textbox")
    box.wait_for()
    assert box.input_value() == server + asked


def test_a_bad_link_gets_a_sentence_and_the_page_stays_as_it_is(open_page):
    tab = open_page("?prompt=a+hat&steps=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    tab.locator("#brought [role=alert]").get_by_text(
        'Steps must be a whole number, got "<img src=x'
    ).wait_for()
    assert tab.get_by_label("Where should it be?").input_value() == ""


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
    loaded = Loaded(
        pipe=pipe, name="tiny", phrases={"Places": ("in the snow", "on the beach"), "Light": ("at night",)},
        aspects={"Square": (1.0, 1.0), "Portrait": (1.0, 1.5)},
    )  # fmt: skip
    with browsing.serving(loaded, folder) as url, browsing.visitors(browser, url) as open_page:
        yield open_page


def test_the_first_look_shows_a_finished_example_beside_its_reference(finished, tmp_path):
    tab = finished(viewport={"width": 1280, "height": 900})
    tab.locator("#images img").first.wait_for()
    boxes = [tab.locator(part).bounding_box() for part in ("#upload", "#images")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["height"] == boxes[1]["height"]
    assert abs(boxes[0]["width"] - boxes[1]["width"]) < 2
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
    tab.get_by_label("Portrait").check()
    tab.get_by_label("Draft:").check()
    tab.get_by_label("Seed", exact=True).fill("9")
    tab.get_by_role("button", name="Create").click()
    done(tab)
    settings = provenance.read_settings(download(tab, tmp_path / "made.png"))
    assert (settings["width"], settings["height"], settings["seed"]) == (32, 48, 9)
    tab.get_by_role("button", name="Reset settings").click()
    tab.locator("#aspect").get_by_label("Square").and_(tab.locator(":checked")).wait_for()
    assert tab.get_by_label("Best:").is_checked() and tab.get_by_label("Seed", exact=True).input_value() == ""
    assert prompt.input_value() == "at night"


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
    box = layer.bounding_box()
    assert abs(box["width"] - 2 * box["height"]) < 2, "the box lies on the image, not on the frame around it"
    tab.mouse.move(box["x"] + 1, box["y"] + 1)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 1)
    tab.mouse.up()
    tab.wait_for_function(f"() => {{ {find} && Math.abs(i.naturalWidth - 40) < 2; }}")
    tab.get_by_role("button", name="Original").click()
    tab.wait_for_function(natural, arg=[80, 40])
