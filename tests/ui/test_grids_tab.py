"""Behind the Grids tab: words into a grid and its panels, mistakes, words to start from."""

import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from dsd.generate import provenance
from dsd.grids import teacher as teachers
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.model.known_words import unknown_words
from dsd.model.presets import ASSETS, DEFAULT
from dsd.ui.grids import handlers as drawing_grids
from dsd.ui.grids.examples import EXAMPLES
from dsd.ui.grids.handlers import REMARKS, DrawingGrids, draw_and_judge, finish, new_prompt, surprise
from dsd.ui.models import Lazy
from tests import wheel_page
from tests.grids.drawn_run import paint
from tests.ui.drawing_grids import PLACES, SUBJECT, draw, fields, form, last, prompt, values


@pytest.fixture(scope="module")
def teacher():
    return wheel_page.teacher()


# -- the grid


def test_the_grid_is_what_the_teacher_draws_from_these_words_and_this_seed(teacher):
    work = DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(teacher), judge=None))
    shown = values(draw(work), "grid")
    (expected,) = teacher.draw([prompt()])
    assert shown[-1].convert("RGB").tobytes() == expected.tobytes()


def test_it_is_watched_step_by_step_and_then_cut_into_four_named_panels_that_say_who_made_them(
    teacher, monkeypatch
):
    monkeypatch.setattr(drawing_grids, "PREVIEW_SECONDS", 0.0)
    seen = draw(DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(teacher))))
    steps = [update for update in seen if "Step" in update.get("status", "")]
    assert len(steps) == wheel_page.STEPS and "left" in steps[0]["status"]
    assert {update["grid"].size for update in steps} == {(64, 64)}
    panels = [panels for panels in values(seen, "panels") if isinstance(panels, list)]
    captions = ["1. beach", "2. forest hat", "3. snow", "4. space"]
    assert all(found == [(provenance.MARK, caption) for caption in captions] for found in panels)


def test_a_teacher_that_draws_panels_again_shows_the_grid_before_and_says_so(teacher, monkeypatch):
    monkeypatch.setattr(teacher.pipe.tokenizer_2, "model_max_length", 400)
    again = replace(teacher, settings=replace(teacher.settings, refine=0.5, equal_parts=True))
    seen = draw(DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(again), judge=None)))
    (before,) = [update["grid"] for update in seen if "Drawing each panel again" in update.get("status", "")]
    (first,) = again.draw([prompt()])
    (expected,) = again.refine([first], [prompt()], [again.find_panels(first, prompt())])
    shown = values(seen, "grid")[-1].convert("RGB")
    assert shown.tobytes() == expected.tobytes() != first.tobytes()
    off = [np.abs(np.asarray(before, int) - np.asarray(image, int)).mean() for image in (first, expected)]
    assert off[0] < off[1]  # not 0, because it is a JPEG


def test_what_is_shown_is_sent_again_with_every_update_because_the_page_may_lose_one(teacher):
    seen = draw(DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(teacher))))
    judged = [update for update in seen if "facts" in update and "status" in update]
    assert len(judged) == 7 and all("grid" in update and "panels" in update for update in judged)


def test_another_seed_gives_another_grid_and_a_new_one_is_taken_unless_one_is_given(teacher):
    work = DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(teacher), judge=None))

    def drawn(**seed):
        seen = draw(work, **seed)
        said = re.search(r"Done, seed (\d+)", values(seen, "status")[-1])
        return np.asarray(values(seen, "grid")[-1]).tobytes(), int(said[1])

    assert drawn(seed=7) == drawn(seed=7) and drawn(seed=7)[0] != drawn(seed=8)[0]
    assert drawn(seed=7)[1] == 7
    assert drawn(seed=-1)[1] != drawn(seed=-1)[1] and drawn(seed=None)[1] >= 0


def test_closing_it_stops_before_the_next_step(teacher):
    calls = []
    hook = teacher.pipe.transformer.register_forward_hook(lambda *_: calls.append(1) and None)
    try:
        slow = replace(teacher, settings=replace(teacher.settings, steps=50))
        work = DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(slow)))
        steps = work.draw(form(SUBJECT, PLACES, 7))
        next(steps), next(steps)
        steps.close()
        assert len(calls) <= 2
    finally:
        hook.remove()


def test_what_leaves_the_gpu_process_can_be_pickled(teacher):
    reports = list(draw_and_judge(opened(wheel_page.wheel(teacher=wheel_page.late(teacher))), prompt()))
    again = pickle.loads(pickle.dumps(reports))
    assert [report.pairs for report in again] == [report.pairs for report in reports]
    assert again[-1].grid == reports[-1].grid and len(again[-1].pairs) == 6


def opened(wheel):
    wheel.judge()
    return wheel


def test_a_cancel_takes_the_preview_away_and_brings_back_the_grid_before(tmp_path):
    grid, panel, preview = (str(tmp_path / name) for name in ("grid-7.png", "panel-7-1.png", "preview-1.jpg"))
    for path in (grid, panel, preview):
        paint(7).save(path)
    empty = {"panels": None, "told": "", "kept": None}
    assert finish({"grid": preview, **empty}) == {"grid": None}  # nothing has been drawn before
    shown = [{"image": {"path": panel}, "caption": "1. beach"}]
    kept = finish({"grid": grid, "panels": shown, "told": "6 of 6", "kept": None})
    assert list(kept) == ["kept"]  # what is shown stays
    back = finish({"grid": preview, **empty, **kept})
    assert (back["grid"], back["facts"]) == (grid, "6 of 6") and back["panels"].visible
    assert [item["caption"] for item in back["panels"].value] == ["1. beach"]
    Path(grid).unlink()  # swept
    assert finish({"grid": preview, **empty, **kept}) == {"grid": None}


# -- mistakes


@pytest.mark.parametrize(
    ("subject", "places", "seed", "part", "sentence"),
    [
        ("  ", PLACES, 7, "subject_remark", "A subject is empty"),
        (SUBJECT, ["beach", "", "snow", " "], 7, "place_remark", "at top right, bottom right: write"),
        (SUBJECT, [None] * 4, 7, "place_remark", "at top left, top right, bottom left, bottom right: write"),
        ("one two three four five six seven eight", PLACES, 7, "subject_remark", "at most 7 words"),
        (SUBJECT, PLACES, -2, "setting_remark", "Seed must be"),
        (SUBJECT, PLACES, 2.5, "setting_remark", "Seed must be"),
        ("x" * 400, PLACES, 7, "place_remark", "longer than the model reads"),
    ],
)
def test_a_mistake_is_told_once_at_its_field_and_nothing_is_drawn(
    subject, places, seed, part, sentence, toasts
):
    seen = draw(DrawingGrids(wheel_page.wheel()), subject, places, seed)
    shown = {name: seen[-1].pop(name) for name in REMARKS}
    assert [name for name, box in shown.items() if box.visible] == [part] and seen[-1] == {}
    assert "Starting" not in values(seen, "status")[-1:] and sentence in shown[part].value
    assert 'role="alert"' in shown[part].value and toasts == []
    assert not any(values(seen, "grid"))


def test_what_was_wrong_before_is_forgotten_when_a_grid_is_drawn(teacher):
    first, *_ = draw(DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(teacher), judge=None)))
    assert not any(first[name].visible for name in REMARKS)


def test_an_unforeseen_error_leaves_a_sentence_not_a_dead_page(monkeypatch, caplog):
    monkeypatch.setattr(teachers.Teacher, "stream", lambda *_: 1 / 0)
    assert "Something went wrong" in last(DrawingGrids(wheel_page.wheel()))[1]
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


def test_a_teacher_that_does_not_fit_is_told_as_it_is(monkeypatch):
    """Nothing on this tab asks for a size or for fewer images."""

    def fail(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(teachers.AutoPipelineForText2Image, "from_pretrained", fail)
    late = Lazy("flux-dev", lambda: teachers.load_teacher("flux-dev", device="cpu"))
    _, status = last(DrawingGrids(wheel_page.wheel(teacher=late)))
    assert "The teacher flux-dev does not fit into" in status and "fewer images" not in status


def test_a_teacher_without_previews_draws_its_grid(monkeypatch):
    stream = teachers.Teacher.stream

    def stream_blind(teacher, prompts):
        for step in stream(teacher, prompts):
            yield step if isinstance(step, list) else replace(step, preview=list)

    monkeypatch.setattr(teachers.Teacher, "stream", stream_blind)
    monkeypatch.setattr("dsd.ui.grids.handlers.PREVIEW_SECONDS", 0)
    seen = draw(DrawingGrids(wheel_page.wheel()))
    assert "went wrong" not in values(seen, "status")[-1] and values(seen, "grid")


# -- words to start from


@pytest.mark.parametrize("recipe", [CRITTERS, IDENTITY], ids=lambda recipe: recipe.name)
def test_every_example_and_every_surprise_makes_a_prompt(recipe):
    for subject, places in EXAMPLES[recipe.name]:
        assert new_prompt(recipe, subject, places, 0).prompt
    made = [surprise(recipe, seed) for seed in range(40)]
    assert all(new_prompt(recipe, subject, places, 0) for subject, places in made)
    assert len(set(made)) > 30 and surprise(recipe, 3) == made[3]


def test_the_embedded_teacher_knows_every_word_of_its_examples():
    pipe = SimpleNamespace(tokenizer_2=AutoTokenizer.from_pretrained(ASSETS / "teacher" / "tokenizer_2"))
    for subject, places in EXAMPLES[CRITTERS.name]:
        assert unknown_words(pipe, " ".join([subject, *places])) == {}
    assert [*unknown_words(pipe, "red dragon beach")] == ["dragon"]


def test_words_that_the_teacher_does_not_know_are_told_while_they_are_typed():
    known = SimpleNamespace(tokenizer_2=AutoTokenizer.from_pretrained(ASSETS / "teacher" / "tokenizer_2"))
    typed = form("redd critter", ["beech", None, "snow", ""], -1)

    def told(name: str, opener: Callable) -> gr.HTML:
        return DrawingGrids(wheel_page.wheel(teacher=Lazy(name, opener))).remark(typed)["unknown"]

    found = told(DEFAULT.name, lambda: SimpleNamespace(pipe=known))
    assert "beech&quot; and ignores them" in found.value and 'data-word="beech"' in found.value
    assert 'data-fields="#grid-subject, #grid-places"' in found.value
    assert not told(DEFAULT.name, lambda: SimpleNamespace(pipe=SimpleNamespace())).visible
    assert not told("flux-dev", lambda: 1 / 0).visible, "a large teacher is not opened for that"

    def fail() -> None:
        raise ValueError("no such folder")

    assert not told(DEFAULT.name, fail).visible, "a click on Draw tells it"


def test_a_teacher_with_one_tokenizer_shows_its_grid(teacher, monkeypatch):
    """FLUX.2, Qwen-Image and Z-Image have no second tokenizer."""
    stream = teachers.Teacher.stream
    monkeypatch.setattr(teachers.Teacher, "stream", lambda _, prompts: stream(teacher, prompts))
    other = replace(teacher, pipe=SimpleNamespace(tokenizer=teacher.pipe.tokenizer))
    facts, status = last(DrawingGrids(wheel_page.wheel(teacher=wheel_page.late(other), judge=None)))
    assert "Done" in status and "seed 7" in facts


def test_an_example_fills_subject_and_places():
    work = DrawingGrids(wheel_page.wheel())
    subject, places = EXAMPLES[CRITTERS.name][1]
    assert work.example({"examples": 1}) == {"subject": subject, **fields(places)}
