"""From panels to verdicts: every pair is judged once, honestly, in a run that can be killed at any moment."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dsd.curation import judge as curation
from dsd.curation.judge import Agreement, Pair
from dsd.curation.verdict import Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.grids.grids import Grid, open_panels, read_grids
from dsd.grids.recipes import CRITTERS, IDENTITY
from dsd.vlm.base import AGAIN
from tests.judging import BLUE, DARK_RED, ORANGE, RED, USUAL, FakeEyes, FakeJudge, answer, by_colors, make_run


def grids(run: Path) -> list[Grid]:
    return read_grids(run)


def judged(run: Path, judge: FakeJudge, thresholds: Thresholds = USUAL, **options) -> list[Pair]:
    eyes = options.pop("embedder", FakeEyes())
    return curation.judge_grids(
        grids(run), run=run, vlm=judge, embedder=eyes, thresholds=thresholds, **options
    )


# ---------------------------------------------------------------- judging grids


def test_every_pair_of_panels_becomes_a_row_with_all_that_was_found(tmp_path):
    run = make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE), (RED, ORANGE))
    judge, eyes = FakeJudge(by_colors), FakeEyes()
    found = judged(run, judge, embedder=eyes)
    assert [pair.id for pair in found] == [
        "000000-0-1", "000000-0-2", "000000-0-3", "000000-1-2", "000000-1-3", "000000-2-3", "000001-0-1",
    ]  # fmt: skip
    assert [pair.reason for pair in found] == [
        "too alike", "same subject", "too different", "same subject", "too different", "too different",
        "same subject",
    ]  # fmt: skip
    assert eyes.looks == [6]  # all panels of the block, once
    kept = found[1]
    assert kept.similarity == pytest.approx(0.9156, abs=1e-3)
    assert kept.grid == "000000" and (kept.first, kept.second) == (0, 2)
    assert (kept.prompt, kept.seed, kept.recipe) == ("grid 0", 10, "critters")
    assert (kept.judge, kept.embedder, kept.thresholds) == ("a tiny judge", "tiny eyes", USUAL)
    assert kept.answers == [judge.said(judge.requests[0])]
    assert kept.descriptions == ["(255, 0, 0) round", "red 12° round"] and kept.differences == "none"
    assert (kept.votes, kept.lowest, set(kept.scores)) == ([True], [4], set(CRITTERS.parts))
    assert found[0].answers == [] and found[0].scores is None and found[0].votes == []
    rows = [json.loads(json.dumps(pair.to_json())) for pair in found]
    assert [Pair.from_json(row) for row in rows] == found


def test_the_judge_is_asked_in_one_stream_and_only_about_what_the_first_look_left(tmp_path):
    run = make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE), (RED, ORANGE))
    judge = FakeJudge(by_colors)
    judged(run, judge)
    assert judge.streams == 1 and len(judge.requests) == 3
    assert {request.question for request in judge.requests} == {CRITTERS.compare}
    seen = [tuple(image.getpixel((8, 8)) for image in request.images) for request in judge.requests]
    red, orange = (255, 0, 0), (255, 112, 0)
    assert seen == [(red, orange), ((128, 0, 0), orange), (red, orange)]


def test_without_eyes_the_judge_sees_everything(tmp_path):
    judge = FakeJudge(by_colors)
    found = judged(make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE)), judge, embedder=None)
    assert len(judge.requests) == 6 and {pair.similarity for pair in found} == {None}
    assert [pair.verdict for pair in found] == ["keep", "keep", "drop", "keep", "drop", "drop"]


def test_the_first_vote_of_either_order_is_greedy_and_each_other_has_a_seed(tmp_path):
    judge = FakeJudge([text for text in (answer(), "?", "!", answer(eyes=3)) for _ in range(2)])
    found = judged(make_run(tmp_path, (RED, ORANGE), (RED, ORANGE)), judge, replace(USUAL, needed=2, votes=3))
    assert [request.seed for request in judge.requests] == [None] * 4 + [AGAIN + 1] * 2 + [1, 1]
    red, orange = (255, 0, 0), (255, 112, 0)
    seen = [tuple(image.getpixel((8, 8)) for image in request.images) for request in judge.requests[::2]]
    assert seen == [(red, orange), (orange, red), (orange, red), (red, orange)]
    assert found[1].votes == [True, None, True] and found[1].lowest == [4, None, 3]
    assert found[1].answers[1] == "!" and found[1].repeated == {"1": "?"} and found[1].verdict == "keep"


def test_nobody_votes_where_all_is_decided(tmp_path):
    judge = FakeJudge([answer(), answer("different"), answer()])
    run = make_run(tmp_path, (RED, ORANGE), (RED, ORANGE))
    kept, dropped = judged(run, judge, replace(USUAL, needed=2, votes=2))
    assert (kept.votes, kept.verdict) == ([True, True], "keep")
    assert (dropped.votes, dropped.reason) == ([False], "judged different")
    assert len(judge.requests) == 3


def test_the_answer_that_decided_is_the_one_that_is_shown(tmp_path):
    judge = FakeJudge([answer(), answer("different", ears=0)])
    (pair,) = judged(make_run(tmp_path, (RED, ORANGE)), judge, replace(USUAL, needed=2, votes=2))
    assert pair.votes == [True, False] and pair.scores["ears"] == 0 and pair.turned
    assert pair.descriptions == ["red 12° round", "red 0° round"], "in the pair's own order"


def test_what_was_said_in_the_other_order_is_shown_in_the_pair_s_own(tmp_path):
    judge = FakeJudge(["?", "?", answer()])
    (pair,) = judged(make_run(tmp_path, (RED, ORANGE)), judge, replace(USUAL, needed=1, votes=2))
    assert pair.descriptions == ["red 12° round", "red 0° round"] and pair.verdict == "keep"


def test_an_unreadable_answer_drops_the_pair_and_is_kept(tmp_path):
    (pair,) = judged(make_run(tmp_path, (RED, ORANGE)), FakeJudge(["INCORRECT"] * 2))
    assert (pair.verdict, pair.reason, pair.answers) == ("drop", "unreadable", ["INCORRECT"])
    assert pair.scores is None and pair.votes == [None]


def test_another_recipe_can_be_asked_than_the_grids_were_drawn_by(tmp_path):
    judge = FakeJudge(by_colors)
    (pair,) = judged(make_run(tmp_path, (RED, ORANGE)), judge, recipe="identity")
    assert judge.requests[0].question == IDENTITY.question and pair.recipe == "identity"
    with pytest.raises(RunError, match="unknown recipe 'portraits': choose one of identity, .*critters"):
        judged(make_run(tmp_path / "other", (RED, ORANGE), recipe="portraits"), judge)


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_a_damaged_grid_is_named_with_what_to_do(tmp_path, damage):
    run = make_run(tmp_path, (RED, ORANGE))
    path = run / "grids" / "000000.png"
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    with pytest.raises(RunError, match="000000.png cannot be read.*--mend"):
        judged(run, FakeJudge(by_colors))


# ---------------------------------------------------------------- a run, killed and continued


MANY = [(RED, DARK_RED, ORANGE, BLUE)] * 24


def blocks(run: Path, judge: FakeJudge) -> None:
    items = {grid.id: grid for grid in grids(run)}
    split = jsonl.split_blocks(list(items), batch=2)
    with jsonl.resuming(run / "pairs.jsonl", split, item_of=curation.grid_of) as (todo, append):
        for block in todo:
            options = {"run": run, "vlm": judge, "embedder": FakeEyes(), "thresholds": USUAL}
            pairs = curation.judge_grids([items[name] for name in block], **options)
            append([pair.to_json() for pair in pairs])


@pytest.mark.all_faults
def test_killed_at_twenty_moments_a_run_equals_one_that_was_not(tmp_path):
    whole, killed = make_run(tmp_path / "whole", *MANY), make_run(tmp_path / "killed", *MANY)
    blocks(whole, FakeJudge(by_colors))

    def slowly(request) -> str:
        time.sleep(0.0005)
        return by_colors(request)

    rng = random.Random(1)
    for _ in range(20):
        child = os.fork()
        if child == 0:
            blocks(killed, FakeJudge(slowly))
            os._exit(0)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    blocks(killed, FakeJudge(by_colors))
    for run in (whole, killed):
        jsonl.merge(run / "pairs.jsonl")
    assert (killed / "pairs.jsonl").read_bytes() == (whole / "pairs.jsonl").read_bytes()
    assert len(jsonl.read(whole / "pairs.jsonl")) == 6 * len(MANY)


def test_a_run_judged_otherwise_is_refused_and_the_difference_named(tmp_path):
    path = make_run(tmp_path, (RED, ORANGE)) / "pairs.jsonl"
    with jsonl.writing(path) as append:
        append([pair.to_json() for pair in judged(tmp_path, FakeJudge(by_colors))])
    same = {
        "judge": "a tiny judge",
        "embedder": "tiny eyes",
        "thresholds": USUAL,
        "recipe": "critters",
    }
    curation.check_settings(path, **same)
    with pytest.raises(RunError, match=r"\(judge was 'a tiny judge', now 'pocket'\)"):
        curation.check_settings(path, **same | {"judge": "pocket"})
    with pytest.raises(RunError, match="judge_hash was None, now '0123456789ab'"):  # the same name, retrained
        curation.check_settings(path, **same | {"judge_hash": "0123456789ab"})
    other = {"thresholds": replace(USUAL, floor=0.6, minimum_score=4), "recipe": "identity"}
    with pytest.raises(
        RunError, match="recipe was 'critters', now 'identity'; floor was 0.5, now 0.6; minimum_score"
    ):
        curation.check_settings(path, **same | other)


def test_stricter_thresholds_are_applied_afterwards_and_only_their_captions_go(tmp_path):
    run = make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE), (RED, ORANGE))
    texts = [answer(), answer(ears=3), answer()]
    with jsonl.writing(run / "pairs.jsonl") as append:
        append([pair.to_json() for pair in judged(run, FakeJudge(texts))])
    with jsonl.writing(run / "captions.jsonl") as append:
        append([{"id": name} for name in ("000000-0-2", "000000-2-0", "000001-0-1", "000001-1-0")])
    stricter = replace(USUAL, minimum_score=4)
    found = curation.redecide(run, stricter)
    assert curation.read_pairs(run) == found
    assert [pair.verdict for pair in found].count("keep") == 2 and found[3].reason == "a part scores low"
    assert all(pair.thresholds == stricter for pair in found)
    assert [row["id"] for row in jsonl.read(run / "captions.jsonl")] == ["000001-0-1", "000001-1-0"]
    before = (run / "pairs.jsonl").read_bytes()
    for looser in ({"floor": -1.0}, {"ceiling": 1.0}, {"votes": 2}):
        with pytest.raises(RunError, match="pairs need answers that the judge has not given"):
            curation.redecide(run, replace(stricter, **looser))
    assert (run / "pairs.jsonl").read_bytes() == before


def test_a_panel_is_what_was_cut_from_its_place(tmp_path):
    run = make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE))
    cut = open_panels(run, grids(run)[0])
    assert [panel.getpixel((8, 8)) for panel in cut] == [(255, 0, 0), (128, 0, 0), (255, 112, 0), (0, 0, 255)]
    assert all(isinstance(panel, Image.Image) and panel.mode == "RGB" for panel in cut)


# ---------------------------------------------------------------- people


def test_the_last_label_of_a_pair_counts(tmp_path):
    for name, verdict in (("a", "keep"), ("b", "drop"), ("a", "drop")):
        curation.label(tmp_path, name, verdict)
    assert curation.labels(tmp_path) == {"a": "drop", "b": "drop"}
    assert (
        len(jsonl.read(tmp_path / "labels.jsonl")) == 3 and jsonl.read(tmp_path / "labels.jsonl")[0]["time"]
    )
    with pytest.raises(ValueError, match="'keep' or 'drop', got 'maybe'"):
        curation.label(tmp_path, "a", "maybe")


def test_agreement_beyond_chance_is_told(tmp_path):
    verdicts = {"a": "keep", "b": "keep", "c": "drop", "d": "drop", "e": "drop", "unlabelled": "keep"}
    said = {"a": "keep", "b": "drop", "c": "drop", "d": "drop", "e": "keep", "of another run": "keep"}
    found = curation.agreement(verdicts.items(), said)
    assert found == Agreement(both_keep=1, both_drop=2, only_judge=1, only_person=1) and found.pairs == 5
    assert found.share == pytest.approx(0.6)
    assert found.kappa == pytest.approx((0.6 - 0.52) / (1 - 0.52))  # both keep two of five
    assert curation.agreement(verdicts.items(), {}).share is None
    assert curation.agreement(verdicts.items(), {"a": "keep"}).kappa is None  # nothing to disagree about
    one_sided = ({"a": "drop"}, {"a": "keep", "b": "drop"}, {"a": "keep", "c": "keep"})
    assert all(curation.agreement(verdicts.items(), labels).kappa is None for labels in one_sided)
