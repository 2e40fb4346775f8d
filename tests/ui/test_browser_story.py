"""The Story tab in a real browser."""

import json
import re

import pytest

from dsd.generate import provenance
from dsd.grids.recipes import IDENTITY
from dsd.ui.models import Loaded
from tests import browsing, tiny, wheel_page
from tests.browsing import PASTE, Hold, crop_left_half, expect, fill_unfolded, fits, has_size, settle

WRITTEN = [f"in room {number}" for number in range(1, 7)]
ANSWER = json.dumps({"subject": "fox"} | {str(number): line for number, line in enumerate(WRITTEN, 1)})


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(guidance_embeds=False)


@pytest.fixture(scope="module")
def server(pipe, tmp_path_factory):
    examples = tmp_path_factory.mktemp("examples")
    for index in range(2):
        browsing.image(index).save(examples / f"{index}.png")
    rows = [{"image": f"{index}.png", "prompt": "in the snow"} for index in range(2)]
    (examples / "examples.json").write_text(json.dumps(rows))
    writer = wheel_page.late(wheel_page.judge(lambda request: ANSWER)(), "http://example.org/v1")
    lines = tuple(f"place {number}" for number in range(1, 7))
    loaded = Loaded(pipe=pipe, name="tiny", story=lines, recipe=IDENTITY, describer=writer)
    with browsing.serving(loaded, examples) as url:
        yield url


def panels(tab) -> list[str]:
    """The addresses of the finished panels, once those of unfinished ones are gone."""
    expect(tab.get_by_text("preview", exact=True)).to_have_count(0)
    return [image.get_attribute("src") for image in tab.locator("#story-panels .thumbnail-lg img").all()]


def draw_and_cancel(tab, pipe) -> None:
    """Cancel after the second panel; the model waits for it in the fourth at the latest."""
    with Hold(pipe.transformer, first=21):  # a panel of a draft takes 6
        tab.get_by_role("button", name="Draw the story").click()
        tab.locator("#story-panels").get_by_text("2. place 2").wait_for()
        tab.locator("#story-cancel").click()
        tab.get_by_text("Canceled.").wait_for()
    tab.locator("#story-pdf").wait_for()


def redraw(tab) -> None:
    """Draw the second panel again, with other words."""
    tab.locator("#story-panels button").nth(1).click()
    fill_unfolded(tab.get_by_label("Panel 2"), "in space")
    tab.get_by_role("button", name="Draw this panel again").click()
    tab.locator("#story-panels").get_by_text("2. in space").wait_for()


def test_a_canceled_story_keeps_its_panels_one_is_drawn_again_and_the_strip_saved(open_page, pipe, tmp_path):
    tab = open_page(viewport={"width": 360, "height": 800})
    tab.get_by_role("tab", name="Story").click()
    tab.locator("#story-characters button").nth(1).click()
    tab.get_by_text("More settings").last.click()
    tab.locator("#story-seed").wait_for()
    settle(tab)
    tab.locator("#story-quality").get_by_label("Draft:").check()
    draw_and_cancel(tab, pipe)
    before = panels(tab)
    assert 2 <= len(before) < 6
    redraw(tab)
    after = panels(tab)
    assert before[1] != after[1] and [*before[:1], *before[2:]] == [*after[:1], *after[2:]]
    swap = tab.get_by_role("button", name="Swap with the one before")
    for words in ("place 2", "in space"):
        swap.click()
        tab.locator("#story-panels").get_by_text(f"2. {words}").wait_for()
        expect(tab.get_by_label("Panel 2")).to_have_value(words)
    assert panels(tab) == after
    tab.locator("#story-status").get_by_text("Panel 2 is swapped").wait_for()
    with tab.expect_download() as waiting:
        tab.get_by_role("button", name="Download this panel").click()
    waiting.value.save_as(tmp_path / "panel.png")
    assert provenance.read_settings(tmp_path / "panel.png")["prompt"] == "in space"
    with tab.expect_download() as waiting:
        tab.locator("#story-png").click()
    waiting.value.save_as(tmp_path / "strip.png")
    read = [panel["prompt"] for panel in provenance.read_settings(tmp_path / "strip.png")["panels"]]
    assert read[:2] == ["place 1", "in space"] and len(read) == len(before)
    fits(tab, 360)


def test_a_sentence_becomes_lines_to_edit_an_image_is_pasted_and_mistakes_stand_at_their_field(
    open_page, pipe
):
    tab = open_page()
    tab.get_by_role("tab", name="Story").click()
    tab.locator("#story-writer").get_by_text("sent to example.org").wait_for()
    tab.get_by_label("What is the story about?").fill("a fox looks for its key")
    tab.get_by_role("button", name="Write me a story").click()
    tab.locator("#story-write-remark").get_by_text("Nothing has been drawn yet").wait_for()
    lines = tab.locator("#story-lines textarea")
    expect(lines).to_have_value("\n".join(WRITTEN))
    tab.evaluate(PASTE, [90, 60])
    has_size(tab, "#story-image", 90, 60)
    tab.locator("#story-tools").get_by_role("button", name="Crop").click()
    crop_left_half(tab, "#story-image", 1.5)
    has_size(tab, "#story-image", 45, 60)
    tab.get_by_role("button", name="Undo changes").click()
    has_size(tab, "#story-image", 90, 60)
    lines.fill("at sea\n" * 9)
    tab.locator("#story-unknown").get_by_text("one for each panel, got 9").wait_for()
    lines.fill("")
    tab.locator("#story-unknown").wait_for(state="hidden")
    tab.get_by_role("button", name="Draw the story").click()
    tab.locator("#story-unknown").get_by_text("A story needs 1 to 8 lines").wait_for()
    expect(tab.locator(".dsd-problem:visible")).to_have_count(1)
    lines.fill("in room 1")
    tab.locator("#story-unknown").wait_for(state="hidden")
    full = {"detail": "Queue is full. Please try again later."}
    tab.route("**/queue/join*", lambda way: way.fulfill(status=503, json=full))
    tab.get_by_role("button", name="Draw the story").click()
    tab.get_by_text("currently busy").wait_for()
    tab.unroute("**/queue/join*")
    with Hold(pipe.transformer, first=4):
        other, third = open_page(), open_page()
        other.locator("#examples button").first.click()
        other.get_by_text(re.compile(r"Step \d+ of 28")).wait_for()
        third.locator("#examples button").first.click()
        third.locator("#status[data-place='1 person before you']").wait_for()
        tab.get_by_role("button", name="Draw the story").click()
        tab.locator("#story-status[data-place='2 people before you']").wait_for()
        third.get_by_role("button", name="Cancel").click()
        tab.locator("#story-status[data-place='1 person before you']").wait_for()
    tab.locator("#story-status").get_by_text("Done, seed").wait_for()
