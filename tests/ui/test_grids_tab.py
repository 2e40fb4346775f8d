"""Behind the Grids tab: words into a grid, its panels, and what the judge makes of them."""

import pickle
import re
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from dsd.files.hub import LoadError
from dsd.generate import provenance
from dsd.grids import grids
from dsd.grids import teacher as teachers
from dsd.grids.gutters import equal_boxes
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.model.known_words import unknown_words
from dsd.model.presets import ASSETS
from dsd.ui.grids import handlers as drawing_grids
from dsd.ui.grids.examples import EXAMPLES
from dsd.ui.grids.handlers import DrawingGrids, draw_and_judge, new_prompt, surprise
from dsd.ui.models import Lazy
from dsd.vlm.base import VLMError
from tests import judging, wheel_page

SUBJECT, PLACES = "red round critter", ["beach", "forest hat", "snow", "space"]


@pytest.fixture(scope="module")
def teacher():
    return wheel_page.teacher()


@pytest.fixture(autouse=True)
def toasts(monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    return said


def draw(work: DrawingGrids, subject: str = SUBJECT, places: list | None = None, seed=7) -> list:
    """All that the page is sent; the files are read at once, because they do not outlive the drawing."""
    seen = []
    for update in work.draw(form(subject, places or PLACES, seed)):
        if update.get("panels") and update["panels"].visible:  # a preview comes without
            update["panels"] = [(provenance_of(path), caption) for path, caption in _files(update["panels"])]
            assert provenance_of(update["grid"]) == provenance.MARK
        if update.get("grid"):
            with Image.open(update["grid"]) as image:
                update["grid"] = image.copy()
        seen.append(update)
    return seen


def fields(places: list) -> dict[str, str]:
    return dict(zip(drawing_grids.PLACES, places, strict=True))


def form(subject: str, places: list, seed) -> dict:
    return {"subject": subject, "seed": seed, **fields(places)}


def values(seen: list[dict], name: str) -> list:
    """All that one component was sent."""
    return [update[name] for update in seen if name in update]


def _files(gallery: gr.Gallery) -> list[tuple[str, str]]:
    return [(item["image"]["path"], item["caption"]) for item in gallery.value]


def provenance_of(path: str) -> str:
    with Image.open(path) as image:
        return image.info["Source"]


def last(work: DrawingGrids, *given, **changed) -> tuple[str, str]:
    """Facts and status at the end."""
    seen = draw(work, *given, **changed)
    return (values(seen, "facts") or [""])[-1], values(seen, "status")[-1]


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


def prompt() -> Prompt:
    return new_prompt(CRITTERS, SUBJECT, PLACES, 7)


# -- what is said of it


def test_the_six_pairs_are_judged_one_by_one_on_their_own_panels(teacher):
    wheel = wheel_page.wheel(teacher=wheel_page.late(teacher))
    facts = values(draw(DrawingGrids(wheel)), "facts")
    assert [text.count("&amp;") for text in facts] == [0, 0, 1, 2, 3, 4, 5, 6]  # a column of each pair
    assert ">1 &amp; 2<" in facts[2] and ">3 &amp; 4<" in facts[-1] and "6 of 6" in facts[-1]
    assert "1 of 1</b> pairs of panels show the same one, of 6 in all" in facts[2]
    (drawn,) = teacher.draw([prompt()])
    panels = grids.panels(drawn, 2, 2)
    first, *_, final = wheel.judge().requests
    assert first.images == (panels[0], panels[1]) and final.images == (panels[2], panels[3])
    assert first.question == CRITTERS.compare


def test_each_verdict_is_shown_with_its_scores_and_its_reason():
    said = iter([*wheel_page.SAID[:4], *wheel_page.SAID[3:5], judging.answer()])
    facts, status = last(DrawingGrids(wheel_page.wheel(judge=wheel_page.judge(said))))
    assert "3 of 6" in facts and "Done, seed 7." in status
    assert facts.count("cannot be read") == facts.count("no idea") == 1
    rows = dict(re.findall(r'<th scope="row">(\w+)</th>(.*?)</tr>', facts))
    words = {name: re.findall(r'"dsd-word">([^<]*)<', row) for name, row in rows.items()}
    same, different, lost = "same", "different", "not read"
    assert words["eyes"] == [same, different, same, lost, same, same]
    assert words["pattern"] == [same, same, different, lost, same, same]
    assert words["subject"] == [same, different, different, lost, same, same]


def test_each_panel_is_described_once_in_plain_words_and_no_notation_is_shown():
    said = iter(range(10))

    def answer(_):
        first, second = f"red 1{next(said)}° critter", "red critter three 120% eyes"
        return judging.answer().replace("red 0° round", first).replace("red 12° round", second)

    facts, _ = last(DrawingGrids(wheel_page.wheel(judge=wheel_page.judge(answer))))
    described = re.findall(r"<dt>(Panel \d)</dt> <dd>(.*?)</dd>", facts)
    texts = ["red critter", *["red critter three eyes"] * 3]
    assert described == [(f"Panel {n}", text) for n, text in enumerate(texts, 1)]
    assert "°" not in facts and "%" not in facts


def test_what_waits_for_the_judge_is_said_by_the_status_alone_which_cancel_overwrites():
    seen = draw(DrawingGrids(wheel_page.wheel()))
    waiting = [update for update in seen if update.get("facts") and "Comparing pair" in update["status"]]
    assert len(waiting) == 6
    for update in waiting:
        assert not re.search(r"judge (compares|continues|is looking)", update["facts"])


def test_without_a_judge_the_grid_is_drawn_and_the_page_says_what_is_missing():
    facts, status = last(DrawingGrids(wheel_page.wheel(judge=None)))
    assert "--judge" in facts and "Done" in status and "beach" in facts
    gone = Lazy("pocket", lambda: 1 / 0, missing="the embedded judge is not here")
    facts, status = last(DrawingGrids(wheel_page.wheel(judge=gone)))
    assert "The embedded judge is not here." in facts and "Done" in status


def test_a_judge_who_falls_silent_leaves_the_grid_and_what_was_said_before():
    answers = iter([judging.answer()] * 2)

    def said(request):
        if (answer := next(answers, None)) is None:
            raise VLMError("no answer from the server: start it again")
        return answer

    facts, status = last(DrawingGrids(wheel_page.wheel(judge=wheel_page.judge(said))))
    assert "2 of 2" in facts and "No answer from the server" in facts and "Done" in status


def test_the_wording_the_origin_and_the_borders_are_told(monkeypatch):
    monkeypatch.setattr(drawing_grids, "find_panels", equal_boxes)
    facts, _ = last(DrawingGrids(wheel_page.wheel()))
    assert prompt().prompt in facts and "drawn by tiny in 3 steps" in facts
    assert "thrown away" not in facts
    monkeypatch.setattr(drawing_grids, "find_panels", lambda *_: "gutters: no boundary between rows 1 and 2")
    facts, _ = last(DrawingGrids(wheel_page.wheel()))
    assert "thrown away" in facts and "no boundary between rows 1 and 2" in facts


def test_words_that_the_model_does_not_know_are_named():
    facts, _ = last(DrawingGrids(wheel_page.wheel()), "red 帽子 critter")
    assert "does not know" in facts and "帽子" in facts.split("does not know")[1]
    assert "does not know" not in last(DrawingGrids(wheel_page.wheel()))[0]


def test_nothing_that_a_visitor_or_a_model_says_becomes_html():
    evil = judging.answer().replace("a critter", "<img src=x>")
    work = DrawingGrids(wheel_page.wheel(judge=wheel_page.judge(lambda request: evil)))
    facts, _ = last(work, "<b>red</b> critter")
    assert "<img" not in facts and "<b>red" not in facts and "&lt;b&gt;red" in facts


# -- mistakes


@pytest.mark.parametrize(
    ("subject", "places", "seed", "sentence"),
    [
        ("  ", PLACES, 7, "A subject is empty"),
        (SUBJECT, ["beach", "", "snow", "space"], 7, "A place is empty"),
        ("one two three four five six seven eight", PLACES, 7, "at most 7 words"),
        (SUBJECT, PLACES, -2, "Seed must be"),
        (SUBJECT, PLACES, 2.5, "Seed must be"),
        ("x" * 400, PLACES, 7, "Prompt too long"),
    ],
)
def test_a_mistake_is_answered_by_a_sentence_and_nothing_is_drawn(subject, places, seed, sentence, toasts):
    seen = draw(DrawingGrids(wheel_page.wheel()), subject, places, seed)
    status = seen[-1]["status"]
    assert sentence in status and 'role="alert"' in status and toasts == []
    assert not any(values(seen, "grid"))


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


# -- models that are opened late


def test_a_model_is_opened_once_however_many_ask_for_it():
    opened = []
    late = Lazy("slow", lambda: opened.append(1) or object())
    threads = [Thread(target=late) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert opened == [1] and late() is late() and late.is_open


def test_a_model_that_could_not_be_opened_is_tried_again():
    answers = iter([LoadError("no network"), "the model"])

    def opener():
        answer = next(answers)
        if isinstance(answer, LoadError):
            raise answer
        return answer

    late = Lazy("hub", opener)
    with pytest.raises(LoadError, match="no network"):
        late()
    assert not late.is_open and late() == "the model"


def test_the_models_are_opened_by_the_first_grid_and_not_before():
    wheel = wheel_page.wheel()
    work = DrawingGrids(wheel)
    assert not wheel.teacher.is_open and not wheel.judge.is_open
    first, second = draw(work), draw(work)
    assert "first time" in first[0]["status"] and "first time" not in second[0]["status"]
