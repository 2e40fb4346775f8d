"""A judged run is decided again with other thresholds, as its command would decide it."""

import json
import shlex
from dataclasses import replace

import pytest

from dsd.curation import judge as curation
from dsd.curation import review
from dsd.curation.review import ALL, DISAGREE, LABELED, UNLABELED
from dsd.curation.verdict import (
    DIFFERENT,
    DROP,
    KEEP,
    LOW,
    REASONS,
    SAME,
    TOO_DIFFERENT,
    UNREADABLE,
)
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from tests.wheel_page import LIMITS
from train import curate


def test_by_its_own_thresholds_a_run_is_what_it_was(judged):
    found = review.open_review(judged)
    assert found.thresholds == LIMITS
    stored = [(pair.verdict, pair.reason) for pair in found.pairs]
    assert found.decided(LIMITS) == stored
    assert set(review.counts(stored)) == {SAME, DIFFERENT, LOW, UNREADABLE, TOO_DIFFERENT, "too alike"}
    assert sum(review.counts(stored).values()) == 18
    assert review.command(found, LIMITS) is None


@pytest.mark.parametrize(
    ("changed", "moved"),
    [({"minimum_score": 2}, 1), ({"minimum_score": 4}, -1), ({"floor": 0.96}, -1), ({"ceiling": 0.98}, -1)],
)
def test_the_command_that_the_page_shows_does_to_the_run_what_the_page_showed(run, changed, moved):
    found, limits = review.open_review(run), replace(LIMITS, **changed)
    decided = found.decided(limits)
    kept = review.counts(decided)[SAME] - review.counts(found.decided(LIMITS))[SAME]
    assert kept * moved > 0
    _, _, _, _, *flags = shlex.split(review.command(found, limits))
    curate.main([str(run), *flags])
    now = [(pair.verdict, pair.reason) for pair in curation.read_pairs(run)]
    assert now == decided and review.open_review(run).thresholds == limits


def test_what_the_judge_was_never_asked_stays_dropped_and_is_counted_as_such(judged):
    found = review.open_review(judged)
    counts = review.counts(found.decided(replace(LIMITS, floor=0.0)))
    assert counts["not judged"] == 1 and TOO_DIFFERENT not in counts


def test_every_selection_is_what_it_says(judged):
    found = review.open_review(judged)
    decided = found.decided(LIMITS)
    kept = review.select(found, decided, KEEP, {})
    assert kept == [i for i, (verdict, _) in enumerate(decided) if verdict == KEEP] and kept
    by_reason = [review.select(found, decided, reason, {}) for reason in REASONS]
    assert sorted(sum(by_reason, [])) == review.select(found, decided, ALL, {}) == list(range(18))
    assert sorted(kept + review.select(found, decided, DROP, {})) == list(range(18))
    labels = {found.pairs[0].id: decided[0][0], found.pairs[kept[-1]].id: DROP}
    assert review.select(found, decided, LABELED, labels) == [0, kept[-1]]
    assert review.select(found, decided, DISAGREE, labels) == [kept[-1]]
    assert len(review.select(found, decided, UNLABELED, labels)) == 16
    with pytest.raises(ValueError, match="the best"):
        review.select(found, decided, "the best", {})


def test_a_run_that_is_not_judged_or_was_edited_is_named(tmp_path, run):
    with pytest.raises(RunError, match="no judged pairs"):
        review.open_review(tmp_path)
    pairs = jsonl.read(run / "pairs.jsonl")
    del pairs[3]["lowest"]
    (run / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    with pytest.raises(RunError, match=f"{pairs[3]['id']}.*lacks lowest"):
        review.open_review(run)
