"""The Story tab in a real browser."""

import json
from threading import Event

import pytest

from dsd.generate import provenance
from dsd.ui.models import Loaded
from tests import browsing, tiny


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
    loaded = Loaded(pipe=pipe, name="tiny", story=tuple(f"place {number}" for number in range(1, 7)))
    with browsing.serving(loaded, examples) as url:
        yield url


def panels(tab) -> list[str]:
    return [image.get_attribute("src") for image in tab.locator("#story-panels .thumbnail-lg img").all()]


def draw_and_cancel(tab, pipe) -> None:
    """Cancel after the second panel; the model waits for the click in the fourth at the latest."""
    calls, clicked = [], Event()

    def wait(*_) -> None:
        calls.append(1)
        if len(calls) > 20:  # a panel of a draft takes 6
            clicked.wait(20)

    hook = pipe.transformer.register_forward_hook(wait)
    try:
        tab.get_by_role("button", name="Draw the story").click()
        tab.locator("#story-panels").get_by_text("2. place 2").wait_for()
        tab.locator("#story-cancel").click()
        clicked.set()
        tab.get_by_text("Canceled.").wait_for()
    finally:
        clicked.set()
        hook.remove()
    tab.locator("#story-pdf").wait_for()


def redraw(tab) -> None:
    """Draw the second panel again, with other words."""
    tab.locator("#story-panels button").nth(1).click()
    tab.get_by_label("Panel 2").fill("in space")
    tab.get_by_role("button", name="Draw this panel again").click()
    tab.locator("#story-panels").get_by_text("2. in space").wait_for()


def test_a_canceled_story_keeps_its_panels_one_is_drawn_again_and_the_strip_saved(open_page, pipe, tmp_path):
    tab = open_page(viewport={"width": 360, "height": 800})
    tab.get_by_role("tab", name="Story").click()
    tab.locator("#story-characters button").nth(1).click()
    tab.get_by_text("More settings").last.click()
    tab.locator("#story-quality").get_by_label("Draft:").check()
    draw_and_cancel(tab, pipe)
    before = panels(tab)
    assert 2 <= len(before) < 6 and tab.get_by_text("preview", exact=True).count() == 0
    redraw(tab)
    after = panels(tab)
    assert before[1] != after[1] and [*before[:1], *before[2:]] == [*after[:1], *after[2:]]
    with tab.expect_download() as waiting:
        tab.locator("#story-png").click()
    waiting.value.save_as(tmp_path / "strip.png")
    read = [panel["prompt"] for panel in provenance.read_settings(tmp_path / "strip.png")["panels"]]
    assert read[:2] == ["place 1", "in space"] and len(read) == len(before)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
