"""The Create tab in a real browser."""

import re
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from dsd.generate import provenance
from dsd.ui.models import Loaded
from tests import browsing, tiny, wheel_page
from tests.browsing import Hold, done, download, expect, fill_unfolded, fits, has_size, image, unfold_settings
from tests.calling import is_still, until
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


def upload(tab, path) -> None:
    tab.locator("#upload input[type=file]").set_input_files(str(path))


def ask_for_three_steps_of_a_draft(tab) -> None:
    unfold_settings(tab)
    steps = tab.get_by_label("number input for Steps")
    expect(tab.get_by_label("Best:")).to_be_checked()
    expect(steps).to_have_value("28")
    tab.get_by_label("Balanced:").check()
    expect(steps).to_have_value("14")
    tab.get_by_label("Draft:").check()
    expect(steps).to_have_value("6")
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
    expect(tab.get_by_label("Draft:")).to_be_checked()
    expect(tab.get_by_label("number input for Steps")).to_have_value("3")
    made = download(tab, tmp_path / "made.png")
    settings = provenance.read_settings(made)
    assert (settings["steps"], settings["quality"]["name"]) == (3, "draft")
    assert settings["prompt"] == "a red hat 帽子"
    about = tab.locator("#about").inner_text()
    assert about.startswith("a red hat 帽子") and f"Seed {settings['seed']}" in about
    expect(tab.locator("#images .media-button img")).to_have_attribute("alt", "a red hat 帽子")

    other = open_page()
    upload(other, made)
    other.get_by_text("Its settings and its reference image have been restored").wait_for()
    expect(other.get_by_label("Where should it be?")).to_have_value("a red hat 帽子")
    other.locator("#seen img").wait_for()
    other.get_by_role("button", name="Create").click()
    done(other)
    assert f"Seed {settings['seed']}" in other.locator("#about").inner_text()
    again = download(other, tmp_path / "again.png")
    assert provenance.read_settings(again) == settings
    with Image.open(made) as one, Image.open(again) as two:
        assert one.tobytes() == two.tobytes()
    unfold_settings(other)
    expect(other.get_by_label("Draft:")).to_be_checked()
    expect(other.get_by_label("number input for Steps")).to_have_value("3")


def test_nothing_uploaded_is_said_once_at_the_reference_and_an_example_draws(open_page):
    tab = open_page()
    tab.get_by_role("button", name="Create").click()
    tab.locator("#remarks [role=alert]").get_by_text("There is no image yet").wait_for()
    tab.locator("#cancel:disabled").wait_for()
    expect(tab.get_by_text("There is no image yet")).to_have_count(1)
    assert tab.get_by_test_id("toast-body").count() == 0 and tab.locator("#images img").count() == 0
    tab.locator("#examples button").nth(1).click()
    done(tab)
    expect(tab.get_by_label("Where should it be?")).to_have_value("at sea")


def test_unknown_words_are_named_while_they_are_typed_and_a_click_puts_a_near_one_there(
    browser, tmp_path_factory
):
    pipe = tiny.pipeline(guidance_embeds=False)
    pipe.tokenizer_2 = text.build_t5_tokenizer()
    teacher = replace(wheel_page.teacher(), pipe=SimpleNamespace(tokenizer_2=pipe.tokenizer_2))
    late = wheel_page.late(teacher)
    late()  # as after the first grid
    given = tmp_path_factory.mktemp("none"), wheel_page.wheel(teacher=late)
    with browsing.serving(Loaded(pipe=pipe, name="tiny"), *given) as url:
        with browsing.visitors(browser, url) as open_page:
            tab = open_page()
            prompt, remark = tab.get_by_label("Where should it be?"), tab.locator("#unknown-words")
            prompt.press_sequentially("on the beech")
            remark.get_by_text('does not know "beech"').wait_for()
            assert "beach" in remark.inner_text()
            remark.get_by_role("button", name="beach").click()
            remark.wait_for(state="hidden")
            expect(prompt).to_have_value("on the beach")
            tab.get_by_role("tab", name="Story").click()
            lines = tab.locator("#story-lines textarea")
            fill_unfolded(lines, "on the beech\nat the Beech, under beeches")
            tab.locator("#story-unknown").get_by_role("button", name="beach").first.click()
            expect(lines).to_have_value("on the beach\nat the beach, under beeches")
            tab.get_by_role("tab", name="Grids").click()
            subject, place = tab.get_by_label("Who or what?"), tab.get_by_label("Bottom right")
            fill_unfolded(place, "beech at night")
            fill_unfolded(subject, "redd critter")
            for word in ("red", "beach"):
                tab.locator("#grid-unknown").get_by_role("button", name=word, exact=True).click()
            tab.locator("#grid-unknown").wait_for(state="hidden")
            expect(subject).to_have_value("red critter")
            expect(place).to_have_value("beach at night")
            expect(prompt).to_have_value("on the beach")


def test_cancel_stops_and_the_next_run_works(open_page, pipe):
    tab = open_page()
    with Hold(pipe.transformer, first=9, seconds=0.25) as hold:
        tab.locator("#examples button").first.click()
        tab.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        tab.locator("#images img").first.wait_for()  # the live preview
        tab.get_by_role("button", name="Cancel").click()
        tab.get_by_text("Canceled.").wait_for()
        hold.release()
        until(lambda: is_still(hold.calls))
        assert len(hold.calls) < 28
    tab.get_by_role("button", name="Create").click()
    done(tab)


def test_create_is_usable_again_after_every_kind_of_error(open_page):
    tab = open_page()
    tab.locator("#examples button").first.click()
    done(tab)
    unfold_settings(tab)
    seed, create = tab.get_by_label("Seed", exact=True), tab.get_by_role("button", name="Create")
    for typed in ("-5", "1.5"):
        fill_unfolded(seed, typed)
        create.click()
        tab.locator("#setting-remark").get_by_text(f"got {typed}").wait_for()
    seed.fill("-1")  # as other programs write "any"
    full = {"detail": "Queue is full. Please try again later."}
    tab.route("**/queue/join*", lambda way: way.fulfill(status=503, json=full))
    create.click()
    tab.get_by_text("currently busy").wait_for()
    expect(tab.locator("#status").get_by_text("Error", exact=True)).to_be_hidden()  # said once
    expect(tab.locator("#cancel")).to_be_disabled()  # nothing runs
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
    tab = open_page()
    with Hold(pipe.transformer, first=4) as hold:
        tab.locator("#examples button").first.click()
        tab.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        tab.get_by_role("button", name="Create").click()
        hold.release()
        done(tab)
    tab.locator("#history-strip button").wait_for()
    time.sleep(1)
    assert tab.locator("#history-strip button").count() == 1
    assert "Done" in tab.locator("#status").inner_text()


def test_the_second_visitor_sees_the_place_in_the_queue_and_no_image_of_the_first(open_page, pipe):
    first, second = open_page(), open_page()
    with Hold(pipe.transformer, first=4):
        first.locator("#examples button").first.click()
        first.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        second.locator("#examples button").first.click()
        second.locator("#status[data-place='1 person before you']").wait_for()
        assert second.locator("#status").bounding_box()["height"] > 20
        second.get_by_role("button", name="Cancel").click()  # leaving the queue works too
        second.get_by_text("Canceled.").wait_for()
    done(first)
    first.locator("#history-strip button").wait_for()
    assert "Canceled." in second.locator("#status").inner_text()
    assert second.locator("#history").is_hidden()
    second.get_by_role("button", name="Create").click()
    done(second)
    second.locator("#history-strip button").first.wait_for()
    expect(second.locator("#history-strip button")).to_have_count(1)


def test_a_broken_upload_gets_a_sentence_and_the_page_lives(open_page, tmp_path):
    image(5).save(tmp_path / "good.tiff")
    tab = open_page()
    upload(tab, tmp_path / "good.tiff")
    has_size(tab, "#upload", 64, 64)  # as a PNG: browsers show no TIFF
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><circle r="30"/></svg>'
    for name, content in {"drawing.svg": svg, "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        tab.locator("#seen img").wait_for()
        tab.locator("#upload").get_by_label("Remove Image").click()
        upload(tab, tmp_path / name)
        tab.locator("#remarks [role=alert]", has_text=name).wait_for()
        tab.get_by_label("Where should it be?").fill("a hat")
        tab.get_by_role("button", name="Create").click()
        tab.locator("#cancel:disabled").wait_for()
        expect(tab.locator("[role=alert]").get_by_text(name)).to_have_count(1)
        tab.locator("#examples button").first.click()
        done(tab)
        tab.locator("[role=alert]").wait_for(state="detached")


def test_the_images_of_a_visit_are_shown_downloaded_and_used_again(open_page, tmp_path):
    tab = open_page(permissions=["clipboard-read", "clipboard-write"])
    assert tab.locator("#history").is_hidden() and tab.locator("#actions").is_hidden()
    for index in range(2):
        tab.locator("#examples button").nth(index).click()
        tab.locator("#history-strip button").nth(index).wait_for()
    tab.locator("#history-title").get_by_text("The newest 24 are kept").wait_for()
    tab.locator("#history-strip button").nth(1).click()  # the newest is the first
    tab.locator("#about").get_by_text("in the snow").wait_for()
    tab.locator("#about img").wait_for()
    older = download(tab, tmp_path / "older.png")
    assert provenance.read_settings(older)["prompt"] == "in the snow"
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="4× larger").click()
    waiting.value.save_as(tmp_path / "large.png")
    with Image.open(older) as small, Image.open(tmp_path / "large.png") as large:
        assert large.width == 4 * small.width
    tab.get_by_role("button", name="Copy settings").click()
    tab.locator("#copy-remark").get_by_text("are copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()").startswith("in the snow\nSeed")
    tab.get_by_role("button", name="Use these settings").click()
    tab.get_by_text("Its settings and its reference image have been restored").wait_for()
    expect(tab.get_by_label("Where should it be?")).to_have_value("in the snow")
    tab.get_by_role("button", name="Use as reference").click()
    tab.get_by_text("Its settings and its reference image have been restored").wait_for(state="hidden")
    expect(tab.locator("#upload img")).to_have_attribute("src", re.compile("dsd-"))
    tab.get_by_label("Where should it be?").fill("elsewhere")
    tab.get_by_role("button", name="Draw another").click()
    tab.locator("#history-strip button").nth(2).wait_for()
    tab.locator("#about").get_by_text("in the snow").wait_for()
    expect(tab.get_by_label("Where should it be?")).to_have_value("elsewhere")
    tab.set_viewport_size({"width": 360, "height": 800})
    for _ in range(2):
        count = tab.locator("#history-strip button").count()
        tab.get_by_role("button", name="Draw another").click()
        tab.locator("#history-strip button").nth(count).wait_for()
    fits(tab, 360)


def test_a_link_brings_its_settings_and_the_form_gives_it_back(open_page, server):
    asked = (
        "?prompt=a+red+hat+%F0%9F%8E%A9&count=2&steps=5&image_guidance=1.5&text_guidance=2.5"
        "&seed=7&width=48&height=32&fit=pad&quality=draft"
    )
    tab = open_page(f"{asked}&__theme=dark")
    tab.locator("#brought").get_by_text("links never carry an image").wait_for()
    expect(tab.get_by_label("Where should it be?")).to_have_value("a red hat 🎩")
    unfold_settings(tab)
    expect(tab.get_by_label("Seed", exact=True)).to_have_value("7")
    tab.get_by_role("button", name="Copy link").click()
    expect(tab.locator("#link").get_by_role("textbox")).to_have_value(server + asked)


def test_a_bad_link_gets_a_sentence_and_the_page_stays_as_it_is(open_page):
    tab = open_page("?prompt=a+hat&steps=%3Cimg+src%3Dx+onerror%3Dalert(1)%3E")
    tab.locator("#brought [role=alert]").get_by_text(
        'Steps must be a whole number, got "<img src=x'
    ).wait_for()
    expect(tab.get_by_label("Where should it be?")).to_have_value("")
