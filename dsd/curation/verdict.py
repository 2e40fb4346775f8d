"""From a judge's words to keep or drop: pure functions of a text or of a row, with no model and no file.

A pair is kept when its similarity lies between floor and ceiling and enough votes call it the same subject
without scoring a part low. The row keeps every number that this rests on, so that it can be decided again by
other thresholds, live, without the judge.
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
    """What a pair must reach to be kept."""

    floor: float = 0.5  # cosine similarity; below it the pair is too different
    ceiling: float = 0.98  # above it the pair is too alike (SynCD's ceiling)
    minimum_score: int = 3  # of every part, 0-4; a vote that scores one part lower is a no
    needed: int = 1  # votes for keeping ...
    votes: int = 1  # ... of so many: one for each order of the pictures, then sampled ones

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


# ---------------------------------------------------------------- reading an answer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The judge's chain of thought, taken apart."""

    subject: str
    first: str
    second: str
    differences: str
    scores: dict[str, int]  # part -> 0-4
    same: bool


def read_answer(text: str, recipe: Recipe) -> Answer | None:
    """The answer to `recipe.compare`, or None if it is not exactly what was asked for.

    All fields of ANSWER, once each, in order and none empty; each part of the recipe scored once, 0-4; the
    verdict `same` or `different` and nothing after it. Nothing is guessed: "not the same", "same." or a
    score of 3.5 are unreadable, because a reader that finds a word anywhere in a text also finds it in its
    opposite.
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
    """An answer about the pictures in the other order, as one about them in theirs; not its `differences`."""
    return replace(answer, first=answer.second, second=answer.first)


def _read_scores(text: str, parts: tuple[str, ...]) -> dict[str, int] | None:
    """`color 4, shape 3` or `color 4 shape 3`: each part once, in any order."""
    score = rf"({'|'.join(map(re.escape, parts))})\s+([0-{TOP_SCORE}])"
    if not re.fullmatch(rf"{score}(?:(?:\s*,\s*|\s+){score})*", text):
        return None
    found = re.findall(score, text)
    return (
        {part: int(value) for part, value in found} if sorted(p for p, _ in found) == sorted(parts) else None
    )


# ---------------------------------------------------------------- deciding


def decide(row: Row, thresholds: Thresholds) -> tuple[str, str]:
    """Verdict and reason from the numbers in a row alone, so that thresholds can be moved afterwards.

    What was never asked cannot be known: a pair that the run's own floor or ceiling kept from the judge
    stays dropped when these are loosened, as "not judged"; so does one that votes never cast could keep. A
    vote that cannot be read counts as a no. It is the reason where it could have kept the pair as a yes.
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
    """The first stage; None if the judge is to be asked, as always where nothing was embedded."""
    if similarity is None or thresholds.floor <= similarity <= thresholds.ceiling:
        return None
    return TOO_DIFFERENT if similarity < thresholds.floor else TOO_ALIKE
