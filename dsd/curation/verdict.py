"""Parsing of a judge's answer and the decision to keep or drop a pair, as pure functions.

A pair is kept if its similarity lies between floor and ceiling and enough votes call it the same subject
without giving any part a low score. The row keeps every number that the decision depends on, so that it can
be decided again with other thresholds, without the judge.
"""

import re
from dataclasses import dataclass, replace

from dsd.files.jsonl import Row
from dsd.grids.recipes import ANSWER, Recipe

KEEP, DROP = "keep", "drop"
SAME, DIFFERENT, LOW, UNREADABLE = "same subject", "judged different", "a part scores low", "unreadable"
TOO_DIFFERENT, TOO_ALIKE, UNASKED = "too different", "too alike", "not judged"
REASONS = (SAME, TOO_DIFFERENT, TOO_ALIKE, DIFFERENT, LOW, UNREADABLE, UNASKED)
TOP_SCORE = 4
FIELD = re.compile(rf"(?<!\S)({'|'.join(ANSWER)}):")


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The conditions for keeping a pair."""

    floor: float = 0.5  # cosine similarity; below it the pair is too different
    ceiling: float = 0.98  # above it the pair is too alike (SynCD's ceiling)
    minimum_score: int = 3  # of every part, 0-4; a vote with a lower score is a no
    needed: int = 1  # votes that a kept pair needs
    votes: int = 1  # votes per pair: greedy in each order of the images, then sampled

    def __post_init__(self) -> None:
        if not -1 <= self.floor <= self.ceiling <= 1:
            raise ValueError(
                f"floor and ceiling must be in -1..1 and in this order, got {self.floor} and {self.ceiling}"
            )
        if self.minimum_score not in range(TOP_SCORE + 1):
            raise ValueError(
                f"minimum_score must be a whole number in 0..{TOP_SCORE}, got {self.minimum_score}"
            )
        if not 1 <= self.needed <= self.votes:
            raise ValueError(f"needed votes must be in 1..{self.votes} (all votes), got {self.needed}")


# ---------------------------------------------------------------- answers


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The fields of a judge's answer."""

    subject: str
    first: str
    second: str
    differences: str
    scores: dict[str, int]  # part -> 0-4
    same: bool


def read_answer(text: str, recipe: Recipe) -> Answer | None:
    """Return the parsed answer to `recipe.compare`, or None unless it has exactly the requested form.

    All fields of ANSWER must occur once, in order and not empty; each part of the recipe must be scored once,
    0-4; the verdict must be `same` or `different` with nothing after it. Nothing is guessed: "not the same",
    "same." and a score of 3.5 are unreadable, because a parser that finds a word anywhere in a text also
    finds it in its negation.
    """
    before, *found = FIELD.split(text)
    if before.strip() or tuple(found[::2]) != ANSWER:
        return None
    fields = dict(zip(ANSWER, (words.strip() for words in found[1::2]), strict=True))
    scores = _read_scores(fields.pop("scores"), recipe.parts)
    verdict = fields.pop("verdict")
    if scores is None or verdict not in ("same", "different") or not all(fields.values()):
        return None
    return Answer(**fields, scores=scores, same=verdict == "same")


def turned_back(answer: Answer) -> Answer:
    """Return an answer with its two descriptions swapped; `differences` stays as it was written."""
    return replace(answer, first=answer.second, second=answer.first)


def _read_scores(text: str, parts: tuple[str, ...]) -> dict[str, int] | None:
    """Return the score of each part, or None unless each part occurs once, in any order.

    Both `color 4, shape 3` and `color 4 shape 3` are accepted.
    """
    score = rf"({'|'.join(map(re.escape, parts))})\s+([0-{TOP_SCORE}])"
    if not re.fullmatch(rf"{score}(?:(?:\s*,\s*|\s+){score})*", text):
        return None
    found = re.findall(score, text)
    return (
        {part: int(value) for part, value in found} if sorted(p for p, _ in found) == sorted(parts) else None
    )


# ---------------------------------------------------------------- decisions


def decide(row: Row, thresholds: Thresholds) -> tuple[str, str]:
    """Return verdict and reason from the numbers in a row, so that thresholds can be changed later.

    Pairs without the votes that they need are dropped as "not judged": those that the run's own floor or
    ceiling kept from the judge, once these are loosened, and those that a missing vote could still keep. An
    unreadable vote counts as a no; it is the reason if a yes in its place could have kept the pair.
    """
    if reason := outside(row["similarity"], thresholds):
        return DROP, reason
    votes, lowest = row["votes"][: thresholds.votes], row["lowest"][: thresholds.votes]
    missing = thresholds.votes - len(votes)
    same = sum(vote is True for vote in votes)
    high = sum(
        vote is True and low >= thresholds.minimum_score for vote, low in zip(votes, lowest, strict=True)
    )
    if high >= thresholds.needed:
        return KEEP, SAME
    if high + missing >= thresholds.needed:
        return DROP, UNASKED
    if same + missing >= thresholds.needed:
        return DROP, LOW
    return DROP, UNREADABLE if same + votes.count(None) + missing >= thresholds.needed else DIFFERENT


def outside(similarity: float | None, thresholds: Thresholds) -> str | None:
    """Return the reason to drop a pair by its similarity, or None if the judge is to be asked.

    Pairs without a similarity always go to the judge.
    """
    if similarity is None or thresholds.floor <= similarity <= thresholds.ceiling:
        return None
    return TOO_DIFFERENT if similarity < thresholds.floor else TOO_ALIKE
