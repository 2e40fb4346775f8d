"""Behind the Grids tab: what the judge makes of a grid, and what the page says of it."""

import re

import pytest

from dsd.grids import grids
from dsd.grids.gutters import equal_boxes
from dsd.grids.recipes import CRITTERS
from dsd.grids.teacher import Teacher
from dsd.ui.grids.handlers import DrawingGrids
from dsd.ui.models import Lazy
from dsd.vlm.base import VLMError
from tests import judging, wheel_page
from tests.ui.drawing_grids import draw, last, prompt, values


@pytest.fixture(scope="module")
def teacher():
    return wheel_page.teacher()


def test_the_six_pairs_are_judged_one_by_one_on_their_own_panels(teacher):
    wheel = wheel_page.wheel(teacher=wheel_page.late(teacher))
    facts = values(seen := draw(DrawingGrids(wheel)), "facts")
    assert facts == values(seen, "told")  # for the page, which brings them back after a cancel
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
    monkeypatch.setattr(Teacher, "find_panels", lambda self, image, prompt: equal_boxes(image, 2, 2))
    facts, _ = last(DrawingGrids(wheel_page.wheel()))
    assert prompt().prompt in facts and "drawn by tiny in 3 steps" in facts
    assert "thrown away" not in facts
    monkeypatch.setattr(Teacher, "find_panels", lambda *_: "gutters: no boundary between rows 1 and 2")
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
