"""Answers of models are read in any common formatting, and nothing is read into them."""

import json
from itertools import product
from pathlib import Path

import pytest

from dsd.grids.recipes import IDENTITY
from dsd.vlm.answers import read_caption, read_judgment, read_places, read_verdict, read_yes_or_no

ANSWERS = Path(__file__).parents[1] / "data" / "answers"
VERDICTS = {"same": True, "different": False, None: None}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (ANSWERS / f"{name}.jsonl").read_text("utf-8").splitlines()]


def judged(row: dict) -> bool:
    """Verdict and scores are as a person reads them; without a verdict, the scores do not matter."""
    judgment, expected = read_judgment(row["raw"], IDENTITY.parts), row["expected"]
    if expected["verdict"] is None:
        return judgment.same is None
    return (judgment.same, judgment.scores) == (VERDICTS[expected["verdict"]], expected["scores"])


def captioned(row: dict) -> bool:
    return read_caption(row["raw"], IDENTITY.captions[row["question"]]) == row["expected"]


def written(row: dict) -> bool:
    expected = row["expected"] and (row["expected"]["subject"], row["expected"]["places"])
    return read_places(row["raw"], 4) == expected


def filtered(row: dict) -> bool:
    return read_yes_or_no(row["raw"]) is row["expected"]


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("judge_seen", judged), ("judge_unseen", judged), ("judge_held_out", judged), ("captions", captioned),
        ("captions_held_out", captioned), ("writer", written), ("writer_held_out", written),
        ("filter", filtered), ("filter_held_out", filtered),
    ],
)  # fmt: skip
def test_nearly_every_answer_is_read_as_a_person_reads_it(name, is_right):
    answers = rows(name)
    wrong = [row["style"] for row in answers if not is_right(row)]
    assert len(wrong) <= 0.05 * len(answers), wrong


@pytest.mark.parametrize("name", ["judge_seen", "judge_unseen", "judge_held_out"])
def test_no_verdict_is_turned_around_and_no_hedge_becomes_one(name):
    for row in rows(name):
        found, expected = read_judgment(row["raw"], IDENTITY.parts).same, row["expected"]["verdict"]
        assert found is None or found is VERDICTS[expected], row["style"]


SHAPES = (
    "verdict: {}",
    "**Verdict:** {}",
    '{{"verdict": "{}"}}',
    "- Verdict — {}.",
    "## Verdict\n{}",
    "VERDICT = {}",
)
NEGATIVE = (
    "different", "Different", "DIFFERENT", "not the same", "Not the same subject", "definitely not the same",
    "no, not the same", "different (same color)", "different, although both have the same hat",
    "not identical",
    "These are not the same animals", "they aren't the same", "The subjects are different; same pose",
    "different subject, same style", "clearly different: not the same face", "isn't the same", "不同",
    "nicht gleich",
)  # fmt: skip
AROUND = (
    "{}",
    "The pictures look the same.\n\n{}",
    "{}\n\nThe background is the same.",
    "<think>verdict: same</think>\n{}",
)


@pytest.mark.parametrize(("shape", "words", "around"), [*product(SHAPES, NEGATIVE, AROUND)])
def test_what_says_different_is_never_kept(shape, words, around):
    answer = "subject: a fox\nscores: shape 4, color 4, texture 4, face 4, details 4\n" + shape.format(words)
    answer = shape.format(words) if shape.startswith("{{") else answer
    assert read_judgment(around.format(answer), IDENTITY.parts).same is not True


@pytest.mark.parametrize(
    "words", ["same", "Same.", "the same subject", "identical", "same (other pose)", "同じ"]
)
def test_a_plain_yes_is_one(words):
    assert read_verdict(words) is True
