"""The judge is judged: pairs of known truth, shares with honest intervals."""

import io
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from PIL import Image, ImageChops

from dsd.curation import judge_evaluation
from dsd.curation.judge_evaluation import TRAITS, draw_pair, grades, judge_drawn, wilson
from dsd.curation.report import chart, markdown
from dsd.curation.verdict import Thresholds
from dsd.files.jsonl import RunError
from dsd.grids.recipes import CRITTERS
from dsd.pocket.draw import draw
from dsd.pocket.world import Context, change_one_trait, sample_critter
from tests.judging import FakeJudge, answer
from train import curate

SIDE = 64  # pixels, to draw in less time
SOME = 32  # pairs: two of every trait
DRAWN = cache(draw_pair)


@pytest.fixture(autouse=True)
def drawn_once(monkeypatch):
    """The same pairs again and again: only the first test waits for them."""
    monkeypatch.setattr(judge_evaluation, "draw_pair", DRAWN)


@pytest.fixture
def pairs() -> list[judge_evaluation.Drawing]:
    return [DRAWN(index, seed=judge_evaluation.SEED, size=SIDE) for index in range(SOME)]


def judged(judge: FakeJudge, count: int = SOME, **options) -> list[judge_evaluation.GradedPair]:
    given = {"thresholds": Thresholds(), "recipe": "critters", "size": SIDE, **options}
    return judge_drawn(range(count), vlm=judge, **given)


def truth(pairs: list[judge_evaluation.Drawing], *, blind_to: str = "", strict: bool = False) -> list[str]:
    """What a judge says who sees everything but one trait; a strict one sees differences everywhere."""
    return [
        answer("different" if strict or pair.changed not in (None, blind_to) else "same") for pair in pairs
    ]


def always(text: str) -> FakeJudge:
    return FakeJudge(lambda request: text)


# ---------------------------------------------------------------- pairs of known truth


def test_half_of_the_pairs_show_one_critter_and_the_rest_take_the_traits_in_turn(pairs):
    changed = Counter(pair.changed for pair in pairs)
    assert changed.pop(None) == SOME // 2 and set(changed) == set(TRAITS)
    assert set(changed.values()) == {SOME // 2 // len(TRAITS)}


def test_a_pair_is_a_function_of_seed_and_index(pairs):
    again = draw_pair(5, size=SIDE)
    assert again == pairs[5] and again.images[1].tobytes() == pairs[5].images[1].tobytes()
    assert draw_pair(5, seed=1).critter != pairs[5].critter
    assert draw_pair(0, size=32).images[0].size == (32, 32)


def test_all_critters_are_held_out(pairs):
    assert all(pair.critter.held_out and pair.other.held_out for pair in pairs)


def test_exactly_the_trait_that_is_named_differs(pairs):
    for pair in pairs:
        differing = {
            field.name
            for field in fields(pair.critter)
            if getattr(pair.critter, field.name) != getattr(pair.other, field.name)
        }
        assert differing == {None: set(), "hue": {"hue", "color"}}.get(pair.changed, {pair.changed})


def test_the_images_are_those_of_the_two_critters_in_the_two_contexts(pairs):
    for pair in pairs[:4]:
        drawn = [draw(pair.critter, pair.contexts[0], SIDE), draw(pair.other, pair.contexts[1], SIDE)]
        assert [image.tobytes() for image in pair.images] == [image.tobytes() for image in drawn]


def test_a_changed_trait_can_be_seen_in_both_contexts(pairs):
    for pair in pairs[1::2]:
        for context in pair.contexts:
            images = draw(pair.critter, context, SIDE), draw(pair.other, context, SIDE)
            assert (np.asarray(ImageChops.difference(*images)).max(2) >= 30).sum() >= 24  # of 64 x 64 pixels


def test_a_change_that_is_hidden_in_either_context_is_drawn_anew(monkeypatch):
    asked, seen = [], iter([False, True, False, True, True])

    def can_be_seen(critter, other, context) -> bool:
        asked.append((critter, context))
        return next(seen)

    monkeypatch.setattr(judge_evaluation, "_can_be_seen", can_be_seen)
    found = draw_pair(1)
    assert [found.critter == critter for critter, _ in asked] == [False, False, False, True, True]
    assert tuple(context for _, context in asked[-2:]) == found.contexts


def test_what_cannot_be_seen_is_no_hard_negative():
    rng = np.random.default_rng(3)
    critter = sample_critter(rng)
    plain = replace(critter, pattern="plain")
    other = change_one_trait(plain, "spots", rng)
    assert plain != other and not judge_evaluation._can_be_seen(plain, other, Context(scene="beach"))
    bald = replace(critter, ears="no")
    assert not judge_evaluation._can_be_seen(bald, replace(bald, ear_length=0.75), Context(scene="snow"))


# ---------------------------------------------------------------- grades


def test_a_judge_who_sees_everything_is_always_right(pairs):
    found = grades(judged(FakeJudge(truth(pairs))))
    assert found["in_all"]["accuracy"]["share"] == 1 and found["pairs"] == SOME
    assert found["in_all"]["false keeps"]["share"] == found["in_all"]["false drops"]["share"] == 0
    assert found["judge"] == "a tiny judge" and found["thresholds"]["minimum_score"] == 3


def test_a_judge_who_says_yes_to_all_keeps_all_hard_negatives(pairs):
    found = grades(judged(always(answer())))
    assert found["in_all"]["accuracy"]["share"] == 0.5
    assert found["in_all"]["false keeps"]["share"] == 1 and found["in_all"]["false drops"]["share"] == 0
    assert {one["share"] for one in found["false_keeps"].values()} == {1}


@pytest.mark.parametrize("trait", TRAITS)
def test_a_judge_who_is_blind_to_one_trait_is_wrong_there_and_only_there(pairs, trait):
    found = grades(judged(FakeJudge(truth(pairs, blind_to=trait))))
    assert {name for name, one in found["false_keeps"].items() if one["share"]} == {trait}
    assert found["in_all"]["accuracy"]["share"] == 1 - 1 / 16


def test_a_judge_who_sees_differences_everywhere_drops_all(pairs):
    found = grades(judged(FakeJudge(truth(pairs, strict=True))))
    assert found["in_all"]["false drops"]["share"] == 1 and found["in_all"]["false keeps"]["share"] == 0
    assert (
        sum(one["pairs"] for name, one in found["false_drops"].items() if name.endswith("critter"))
        == SOME // 2
    )
    assert (
        found["false_drops"]["in one light"]["pairs"] + found["false_drops"]["in two lights"]["pairs"]
        == SOME // 2
    )


def test_a_low_score_counts_as_it_does_in_a_run():
    hesitant = always(answer(eyes=2))
    assert grades(judged(hesitant))["verdicts"]["one critter"]["a part scores low"] == SOME // 2
    kept = grades(judged(hesitant, thresholds=Thresholds(minimum_score=2)))
    assert kept["in_all"]["false drops"]["share"] == 0


def test_what_cannot_be_read_is_a_dropped_pair_and_told():
    found = grades(judged(always("INCORRECT")))
    assert found["in_all"]["unreadable"]["share"] == 1 and found["in_all"]["false keeps"]["share"] == 0
    assert found["verdicts"]["one trait changed"]["unreadable"] == SOME // 2


def test_the_judge_is_asked_what_a_runs_judge_is_asked(pairs):
    judge = FakeJudge(truth(pairs))
    judged(judge)
    assert {request.question for request in judge.requests} == {CRITTERS.compare} and judge.streams == 1
    assert judge.requests[3].images == pairs[3].images


@pytest.mark.parametrize(  # scipy 1.x: binomtest(count, of).proportion_ci(method="wilson")
    "count, of, low, high",
    [(10, 100, 0.0552, 0.1744), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (1, 2, 0.0945, 0.9055)],
)
def test_an_interval_is_wilsons(count, of, low, high):
    assert wilson(count, of) == pytest.approx((count / of, low, high), abs=1e-4)
    assert wilson(0, 0) == (None, None, None)


# ---------------------------------------------------------------- for people


def test_the_page_has_a_line_for_every_trait_and_says_how_it_was_measured(pairs):
    page = markdown(grades(judged(FakeJudge(truth(pairs, blind_to="hue")))))
    assert "| hue | 2 | 100.0% | 34.2% to 100.0% |" in page and "| stripe angle | 2 | 0.0% |" in page
    assert "32 drawn pairs" in page and "seed 77003" in page and "no part below 3" in page
    assert "| accuracy | 32 | 93.8% |" in page and "| judged different | 0 | 14 |" in page


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_the_chart_needs_a_package_of_the_training_extras(monkeypatch, pairs):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RunError, match="matplotlib, which is missing: pip install -r train/requirements.txt"):
        chart(grades(judged(FakeJudge(truth(pairs)))))


def test_the_chart_shows_what_is_wrong(pairs):
    good = opened(chart(grades(judged(FakeJudge(truth(pairs))))))
    bad = opened(chart(grades(judged(always(answer())))))
    assert good.size == bad.size and good.mode == "RGB"
    orange = [(np.asarray(image) == (196, 86, 26)).all(2).sum() for image in (good, bad)]
    assert orange[1] > 50 * max(orange[0], 1)


def test_the_command_grades_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys, pairs):
    monkeypatch.setattr(curate, "open_vlm", lambda name, **options: judge)
    judge = FakeJudge(truth(pairs[:16]))
    flags = ["--grade", "--judge", "pocket", "--out", str(tmp_path)]
    curate.main([*flags, "--count", "16"])
    judge = FakeJudge(truth(pairs[16:]))
    curate.main([*flags, "--count", str(SOME), "--batch", "4"])
    assert len(judge.requests) == SOME - 16
    assert f"| accuracy | {SOME} | 100.0% |" in capsys.readouterr().out
    assert Image.open(tmp_path / "grades.png").width == 860 and "![" in (tmp_path / "grades.md").read_text()
    with pytest.raises(RunError, match="minimum_score was 3, now 4"):
        curate.main([*flags, "--minimum-score", "4"])
