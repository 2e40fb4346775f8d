"""A judge scores photographs from 0 to 4; what it cannot say is left empty, and what it costs is known."""

import math
from types import SimpleNamespace

import pytest

from dsd.evaluation import judged, scores, validation
from dsd.evaluation.judged import QUESTIONS, JudgedScorer, build, estimate
from dsd.vlm.base import AGAIN, VLMError
from dsd.vlm.recorded import Recorded
from tests import tiny
from tests.evaluation.stand_ins import CASES, NETWORKS, said
from tests.judging import FakeJudge


def scorer(judge) -> JudgedScorer:
    return JudgedScorer(NETWORKS, lambda: judge)


def test_copies_score_high_unless_they_are_punished():
    result = scores.evaluate(validation.by_copying, CASES, scorer(FakeJudge(said)))
    assert result.rows[0] == {
        "cp": 1, "pf": 0.75, "cp_pf": 0.75, "debiased": 0,
        "identity": 0.5, "clip_i": 0.5, "following": 0.5, "product": 0.5, "copy": 0.0,
    }  # fmt: skip
    assert result.levels.chance["cp"].mean == 0.5
    reasons = scorer(FakeJudge(said)).explain(CASES, result)
    assert reasons[0] == "CP: same fur; PF: the cat is there; de-biased CP: same fur"


def test_each_question_shows_what_it_is_about():
    requests = {name: build(name, CASES[1], tiny.image(9)) for name in QUESTIONS}
    assert {name: len(request.images) for name, request in requests.items()} == {
        "cp": 2, "pf": 1, "debiased_cp": 2,
    }  # fmt: skip
    assert all(image.size == (512, 512) for request in requests.values() for image in request.images)
    for name in ("pf", "debiased_cp"):
        assert '"a cat, number 1"' in requests[name].question
    assert "number" not in requests["cp"].question.replace("whole number", "")
    for request in requests.values():
        assert request.question.endswith(": N}}") and "{{" not in request.question


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_then_left_empty():
    def mumbling(request):
        about_first = "number 0" in request.question and len(request.images) == 1
        return "hard to say" if about_first else said(request)

    judge = FakeJudge(mumbling)
    rows = scorer(judge).score(CASES, [tiny.image(9)] * 4)
    assert math.isnan(rows[0]["pf"]) and math.isnan(rows[0]["cp_pf"]) and rows[0]["cp"] == 0.5
    assert [request.seed for request in judge.requests].count(AGAIN) == 1
    interval = scores.intervals(rows, [case.subject for case in CASES])
    assert interval["pf"].mean == 0.75  # of the three images that have a score


def test_a_level_of_chance_that_nobody_could_read_is_not_known():
    def mumbling(request):
        is_prompt_of_0 = "number 0" in request.question and len(request.images) == 1
        return "hard to say" if is_prompt_of_0 else said(request)

    benchmark = validation.Benchmark(CASES[:2], scorer(FakeJudge(mumbling)), rotations=1)
    assert "pf" not in benchmark.levels.chance  # one subject alone has a number
    (line,) = (line for line in benchmark.legend.splitlines() if line.startswith("- PF (judge)"))
    assert "chance is not known" in line


def test_a_judge_that_cannot_be_read_at_all_is_stopped():
    judge = FakeJudge(lambda request: "I cannot help with that")
    with pytest.raises(VLMError, match="20 of 20 scores of a tiny judge cannot be read: the model refuses"):
        scorer(judge).score(CASES * 2, [tiny.image(9)] * 8)
    assert len(judge.requests) == 20


def test_recorded_answers_are_not_asked_for_again(tmp_path):
    judge = FakeJudge(said)
    recording = JudgedScorer(NETWORKS, lambda: Recorded(judge, tmp_path))
    rows = recording.score(CASES[:2], [tiny.image(9)] * 2)
    result = SimpleNamespace(images=[tiny.image(9)] * 2)
    assert recording.score(CASES[:2], [tiny.image(9)] * 2) == rows
    assert recording.explain(CASES[:2], result)[0].startswith("CP: other fur")
    assert len(judge.requests) == 6


def test_the_estimate_counts_every_question():
    asked = estimate(CASES, ways=3)
    judge = FakeJudge(said)
    scorer(judge).score(CASES * 3, [tiny.image(9)] * 12)
    assert asked.requests == len(judge.requests) == 36 and asked.images == 12
    letters = sum(len(request.question) for request in judge.requests)
    pixels = sum(512 * 512 * len(request.images) for request in judge.requests)
    assert asked.tokens_in == pytest.approx(letters / 4 + pixels / 750, rel=0.02)
    assert asked.dollars(2.0, 10.0) == pytest.approx((asked.tokens_in * 2 + asked.tokens_out * 10) / 1e6)
    assert "36 questions about 12 images" in str(asked)


def test_the_backbones_are_named():
    assert scorer(FakeJudge(said)).backbones == {
        "dino": "1",
        "clip": "2",
        "judge a tiny judge": "on a server",
    }
    assert {m.name for m in JudgedScorer.measures} == set(
        scorer(FakeJudge(said)).score(CASES, [tiny.image()] * 4)[0]
    )
    assert judged.SIDE == 512  # as in the published protocol
