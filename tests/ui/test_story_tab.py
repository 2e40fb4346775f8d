"""The Story tab: panels from lines, one of them again, the strip to download, lines on request."""

import json
import shutil
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from dsd.generate import provenance
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.ui.generate.form import Form
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.reference import References
from dsd.ui.models import Loaded
from dsd.ui.story.handlers import Telling
from dsd.ui.story.panels import bring_back, finish, pick
from tests import wheel_page

SETTINGS = {"quality": "draft", "image_guidance": 1.0, "text_guidance": 1.0}
STORY = json.dumps({"subject": "fox"} | {str(n): f"place {n}" for n in range(1, 7)})


@pytest.fixture
def telling(loaded) -> Telling:
    return Telling(loaded, Generating(loaded))


def form(image: str | None, **changes) -> dict:
    return {"image": image, "lines": "in the snow\nat sea", "seed": 7, **SETTINGS, **changes}


def items(paths) -> list[dict]:
    return [{"image": {"path": str(path)}, "caption": ""} for path in paths]


def shown(update: dict) -> list[str]:
    return [item["image"]["path"] for item in update["panels"].value]


@pytest.fixture(scope="module")
def strip(loaded, photo, tmp_path_factory) -> list[Path]:
    """Two panels, in files of the page."""
    folder, telling = tmp_path_factory.mktemp("panels"), Telling(loaded, Generating(loaded))
    *_, last = telling.draw(form(photo))
    return [Path(shutil.copy(path, folder)) for path in shown(last)]


def settings(path) -> tuple[str, int]:
    read = provenance.read_settings(path)
    return read["prompt"], read["seed"]


def test_each_line_is_drawn_as_a_panel_that_carries_its_settings(strip):
    assert [settings(path) for path in strip] == [("in the snow", 7), ("at sea", 8)]


def test_at_the_end_the_seeds_are_said(telling, photo):
    for lines, words in (("at\nsea", "Done, 2 panels, seeds 7 to 8."), ("at sea", "Done, seed 7. Click")):
        *_, last = telling.draw(form(photo, lines=lines))
        assert words in last["status"]


def test_a_run_teaches_what_the_next_one_takes_and_the_line_says_so(telling, photo):
    assert "first image" in telling.estimate(form(photo))["cost"]
    list(telling.draw(form(photo)))
    assert "Takes about" in telling.estimate(form(photo))["cost"]
    assert telling.estimate(form(photo, lines=""))["cost"] == '<p class="dsd-quiet"></p>'


def test_one_panel_is_drawn_again_from_its_own_reference_and_the_other_stays(telling, strip, monkeypatch):
    monkeypatch.setattr(telling.work, "unknown_words", lambda text: {"space": []})
    begin, *_, last = telling.redraw(
        {"panels": items(strip), "picked": 1, "line": " in\nspace ", "replaced": {}}
    )
    assert "space&quot; and ignores it" in begin["line_remark"].value, "while it is drawn, too"
    first, second = shown(last)
    assert Path(first).read_bytes() == strip[0].read_bytes()
    before, after = map(provenance.read_settings, (strip[1], second))
    assert after["prompt"] == "in space" and after["seed"] != before["seed"]
    changed = {"prompt", "seed"}
    assert {key: after[key] for key in after.keys() - changed} == {
        key: before[key] for key in before.keys() - changed
    }
    assert f"Panel 2 is drawn again, with seed {after['seed']}" in last["status"]
    assert Path(last["panel"].value["path"]).read_bytes() == Path(second).read_bytes()


def test_a_panel_that_was_drawn_again_is_swapped_with_the_one_before_and_back(telling, strip, tmp_path):
    old = [shutil.copy(path, tmp_path) for path in strip]
    asked = {"panels": items(old), "picked": 1, "line": "in space", "replaced": {}}
    *_, last = telling.redraw(asked)
    new = shutil.copy(shown(last)[1], f"{tmp_path}/new.png")  # as gradio keeps it
    assert last["replaced"] == {1: old[1]} and last["back"].visible
    given = {"panels": items([old[0], new]), "picked": 1, "replaced": last["replaced"]}

    def swap(values):
        [update] = bring_back(values)
        return update

    back = swap(given)
    assert [settings(path) for path in shown(back)] == [settings(path) for path in strip]
    assert (back["line"], back["replaced"]) == ("at sea", {1: new}) and "Panel 2" in back["status"]
    panels = provenance.read_settings(back["png"].value["path"])["panels"]
    assert [panel["prompt"] for panel in panels] == ["in the snow", "at sea"]  # the strip changes with it
    again = swap({"panels": items(old), "picked": 1, "replaced": back["replaced"]})
    assert settings(shown(again)[1]) == settings(new) and again["replaced"] == {1: old[1]}
    assert pick(items(old), 1, {1: new})["back"].visible and not pick(items(old), 0, {1: new})["back"].visible
    assert swap(given | {"picked": 0}) == swap(given | {"panels": items(old[:1])}) == {}
    Path(old[1]).unlink()  # swept
    assert "is gone" in swap(given)["line_remark"].value


def test_a_click_offers_a_panel_s_words_and_nothing_is_drawn_without_one(telling, strip):
    update = pick(items(strip), 1, {})
    assert (update["picked"], update["line"].value, update["line"].label) == (1, "at sea", "Panel 2")
    assert Path(update["panel"].value["path"]).read_bytes() == strip[1].read_bytes(), "with its settings"
    assert not pick(items(strip), 2, {})["again"].visible
    (said,) = telling.redraw({"panels": items(strip), "picked": None, "line": "x", "replaced": {}})
    assert "Click a panel first" in said["status"]
    (said,) = telling.redraw({"panels": items(strip), "picked": 0, "line": " ", "replaced": {}})
    assert "The prompt is empty" in said["line_remark"].value and list(said) == ["line_remark"]


def test_afterwards_previews_go_and_the_strip_is_there_as_png_and_pdf(telling, strip, photo):
    (update,) = finish({"panels": items([strip[0], photo]), "kept": ()})
    assert [settings(path) for path in shown(update)] == [settings(strip[0])]
    read = provenance.read_settings(update["png"].value["path"])
    assert [panel["seed"] for panel in read["panels"]] == [7]
    assert Path(update["pdf"].value["path"]).read_bytes().startswith(b"%PDF")


def test_a_story_canceled_before_its_first_panel_leaves_the_strip_of_before(telling, strip, photo):
    (update,) = finish({"panels": items([photo]), "kept": tuple(map(str, strip))})
    assert list(map(settings, shown(update))) == list(map(settings, strip)) and update["png"].visible
    (update,) = finish({"panels": [], "kept": ()})
    assert "png" not in update


def test_when_the_gpu_s_time_ends_the_finished_panels_stay(telling, photo, monkeypatch):
    steps = telling._steps

    def end_early(*asked):
        for progress in steps(*asked):
            yield progress
            if progress.results:
                raise gr.Error("GPU task aborted")

    monkeypatch.setattr(telling, "_steps", end_early)
    *_, last = telling.draw(form(photo))
    assert len(shown(last)) == 1 and "1 of 2 panels are drawn. GPU task aborted" in last["status"]


@pytest.mark.parametrize(
    ("changes", "part", "words"),
    [
        ({"image": None}, "remarks", "There is no image yet"),
        ({"lines": " "}, "unknown", "A story needs 1 to 8 lines"),
        ({"lines": None}, "unknown", "A story needs 1 to 8 lines"),
        ({"lines": "a\n\ud800"}, "unknown", "half a character"),
        ({"seed": -5}, "setting_remark", "got -5"),
        ({"seed": 2**32 - 1}, "setting_remark", "got 4294967295"),
        ({"quality": "superb"}, "setting_remark", "superb"),
    ],
)
def test_mistakes_are_said_once_at_their_field_and_nothing_is_drawn(
    telling, photo, monkeypatch, changes, part, words
):
    monkeypatch.setattr(telling, "_steps", lambda *_: pytest.fail("it asked for the GPU"))
    (said,) = telling.draw(form(photo) | changes)
    assert list(said) == [part] and words in said[part].value and said[part].visible
    with pytest.raises(gr.Error, match=words):
        list(telling.endpoint(**form(photo) | changes))


def test_a_program_gets_strip_panels_and_seeds(telling, photo):
    seen = []
    for seen in telling.endpoint(**form(photo)):
        strips, panels, _ = seen
        if strips:
            assert [Path(path).suffix for path in strips] == [".png", ".pdf"]
            read = provenance.read_settings(strips[0])["panels"]
            assert [(panel["prompt"], panel["seed"]) for panel in read] == list(map(settings, panels))
    assert seen[0] and seen[2] == [7, 8]


def test_the_model_for_words_writes_lines_that_are_shown_first_and_only_a_full_size_one(pipe):
    def telling(said: str, recipe=IDENTITY, **changes) -> Telling:
        describer = wheel_page.late(wheel_page.judge(lambda request: said)(), "http://me:pw@example.org/v1")
        loaded = Loaded(pipe=pipe, name="tiny", recipe=recipe, **{"describer": describer, **changes})
        return Telling(loaded, Generating(loaded))

    update = telling(STORY).write({"sentence": "a fox travels"})
    assert update["lines"].splitlines() == [f"place {n}" for n in range(1, 7)]
    assert "Nothing has been drawn yet" in update["write_remark"]
    assert "yourself" in telling("hm").write({"sentence": "a fox"})["write_remark"]
    assert "no sentence yet" in telling(STORY).write({"sentence": None})["write_remark"]
    assert (
        "sent to example.org" in telling(STORY).about_writer() and "pw" not in telling(STORY).about_writer()
    )
    assert telling(STORY).can_write
    assert not telling(STORY, CRITTERS).can_write and not telling(STORY, describer=None).can_write


def test_words_that_the_model_does_not_know_are_named(telling, monkeypatch):
    monkeypatch.setattr(telling.work, "unknown_words", lambda text: {"beech": ["beach"]} if text else {})
    remark = telling.remark({"lines": "on the beech"})["unknown"]
    assert remark.visible and "beech" in remark.value and not telling.remark({"lines": ""})["unknown"].visible
    assert 'data-fields="#story-lines"' in remark.value and 'data-word="beech"' in remark.value
    again = telling.remark_line({"line": "on the beech"})["line_remark"]
    assert (
        'data-fields="#story-line"' in again.value
        and not telling.remark_line({"line": None})["line_remark"].visible
    )


def test_a_line_that_the_model_cuts_is_told_on_the_page_and_to_programs(telling, photo, toasts):
    lines, words = "at sea\n" + "zebra " * 33, "Line 2 is longer than this model reads: its last"
    shown = telling.remark({"lines": lines})["unknown"]
    assert words in shown.value and "its last" in shown.value and "Line 1" not in shown.value
    assert not telling.remark({"lines": "at sea"})["unknown"].visible
    list(telling.endpoint(**form(photo, lines=lines)))
    assert len(toasts) == 1 and words in toasts[0]
    list(telling.work.endpoint(photo, "zebra " * 33, quality="draft"))
    assert len(toasts) == 2 and "The prompt is longer than this model reads" in toasts[1]
    list(telling.work.endpoint(photo, "at sea", quality="draft"))
    assert len(toasts) == 2


def test_the_image_is_remarked_on_as_on_the_create_tab(pipe, photo, tmp_path):
    loaded = Loaded(pipe=pipe, name="tiny", warn=lambda image: "Unlike its world.")
    tools = References(loaded, Form(loaded))
    shown = tools.see({"image": photo})
    assert "Unlike its world." in shown["remarks"].value and shown["tools"].visible
    assert shown["seen"].size == loaded.pipe.frame
    assert not tools.see({"image": None})["remarks"].visible
    (tmp_path / "x.png").write_text("no image")
    assert "not an image" in tools.see({"image": str(tmp_path / "x.png")})["remarks"].value


def test_too_many_lines_are_told_as_they_are_typed(telling):
    nine = telling.remark({"lines": "at sea\n" * 9})["unknown"]
    assert "A story needs 1 to 8 lines, one for each panel, got 9." in nine.value
    assert "at most 200 fit below a panel" in telling.remark({"lines": "sea " * 60})["unknown"].value
    assert not any(telling.remark({"lines": lines})["unknown"].visible for lines in ("", " \n", "a\n" * 8))


def test_a_panel_that_the_page_does_not_offer_is_not_drawn_again(telling, strip, tmp_path):
    panel = provenance.read_settings(strip[0]) | {"steps": 150}
    image, frame = Image.open(strip[0]), provenance.read_reference(strip[0])
    forged = provenance.save(tmp_path / "forged.png", image, panel, frame)
    (said,) = telling.redraw({"panels": items([forged]), "picked": 0, "line": "x", "replaced": {}})
    assert "steps must be a whole number from 1 to 100, got 150" in said["status"].lower()
