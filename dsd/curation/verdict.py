"""The vote that a judge's answer gives and the decision to keep or drop a pair, as pure functions.

A pair is kept if its similarity lies between floor and ceiling and enough votes call it the same subject
without giving any part a low score. If the recipe names `changes`, exactly one of these parts must have a low
score: the pair shows one change. The row keeps all these numbers, so that it can be decided again.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from dsd.files.jsonl import Record
from dsd.grids.recipes import RANKER, Recipe
from dsd.vlm.answers import TOP_SCORE, read_judgment
from dsd.vlm.base import is_refused

KEEP, DROP = "keep", "drop"
SAME, DIFFERENT, LOW, UNREADABLE = "same subject", "judged different", "a part scores low", "unreadable"
TOO_DIFFERENT, TOO_ALIKE, UNASKED, REFUSED = "too different", "too alike", "not judged", "refused"
UNCHANGED = "nothing changes"  # although the recipe asks for a change
REASONS = (SAME, TOO_DIFFERENT, TOO_ALIKE, DIFFERENT, LOW, UNCHANGED, UNREADABLE, REFUSED, UNASKED)


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
            limits = f"{self.floor} and {self.ceiling}"
            raise ValueError(f"floor and ceiling must be in -1..1 and in this order, got {limits}")
        if (score := self.minimum_score) not in range(TOP_SCORE + 1):
            raise ValueError(f"minimum_score must be a whole number in 0..{TOP_SCORE}, got {score}")
        if not 1 <= self.needed <= self.votes:
            raise ValueError(f"needed votes must be in 1..{self.votes} (all votes), got {self.needed}")


def own_thresholds(recipe: Recipe, embedder: str | None = None) -> Thresholds:
    """Return a recipe's thresholds for its own similarity model, or for the one of this name.

    Those of the ranker suit no other model, which then gets the defaults. Raise ValueError if the ranker is
    to compare anything but critters.
    """
    if embedder == RANKER and not recipe.in_world:
        raise ValueError(f"--embedder {RANKER} compares critters alone: leave it out for {recipe.name}")
    other = recipe.embedder == RANKER and embedder not in (None, RANKER)
    return Thresholds(**({} if other else recipe.thresholds))


@dataclass(frozen=True, kw_only=True)
class Judged(Record):
    """A pair of images, the judge's answers about it, and the verdict.

    `subject`, `descriptions`, `differences` and `scores` are those of the last readable answer: voting stops
    once a pair is decided, so it is the decisive one.
    """

    # Earlier versions did not write these.
    OPTIONAL: ClassVar = frozenset({"turned", "judge_hash", "repeated", "changes"})

    recipe: str
    seed: int
    similarity: float | None  # cosine of the two images' embeddings; None if they were not compared
    answers: list[str] = field(default_factory=list)  # of each vote; the last if it was asked twice
    repeated: dict[str, str] = field(default_factory=dict)  # vote -> its first answer, which was unreadable
    subject: str | None = None
    descriptions: list[str] | None = None  # of the first and the second image
    differences: str | None = None
    turned: bool = False  # whether that answer saw the second image first
    scores: dict[str, int] | None = None  # part -> 0-4
    votes: list[bool | None] = field(default_factory=list)  # None is an unreadable answer
    lowest: list[int | None] = field(default_factory=list)  # score of each vote, of the parts that must agree
    changes: list[int | None] = field(default_factory=list)  # score of the part that changed, if one must
    judge: str = ""
    judge_hash: str | None = None
    verdict: str = DROP
    reason: str = UNASKED
    thresholds: Thresholds = Thresholds()

    @property
    def is_kept(self) -> bool:
        return self.verdict == KEEP


def add_answer(pair: Judged, text: str, recipe: Recipe) -> Judged:
    """Return the pair with one more vote; every other vote has seen the second image first.

    The vote is None if the answer has no verdict, or says "same" without a score for every part.
    """
    read, turned = read_judgment(text, recipe.parts), len(pair.answers) % 2 == 1
    vote = None if read.scores is None and read.same else read.same
    agreeing, changing = _split_scores(read.scores if vote is not None else None, recipe)
    lowest = min(agreeing + changing[1:], default=None)
    votes, lowests = [*pair.votes, vote], [*pair.lowest, lowest]
    changes = [*pair.changes, changing[0] if changing else None] if recipe.changes else []
    pair = replace(pair, answers=[*pair.answers, text], votes=votes, lowest=lowests, changes=changes)
    if vote is None:
        return pair
    descriptions = [read.second, read.first] if turned else [read.first, read.second]
    fields = {"subject": read.subject, "differences": read.differences, "scores": read.scores}
    return replace(pair, turned=turned, descriptions=descriptions, **fields)


def _split_scores(scores: dict[str, int] | None, recipe: Recipe) -> tuple[list[int], list[int]]:
    """Return the scores of the parts that must agree, and of those that may change, the lowest first."""
    scores = scores or {}
    changing = sorted(score for part, score in scores.items() if part in recipe.changes)
    return [score for part, score in scores.items() if part not in recipe.changes], changing


def hear(pair: Judged, text: str, recipe: Recipe) -> Judged:
    """Return the pair with an answer; an unreadable one is set aside once, to be asked for again."""
    number, new = str(len(pair.votes)), add_answer(pair, text, recipe)
    if new.votes[-1] is not None or number in pair.repeated or is_refused(text):
        return new
    return replace(pair, repeated=pair.repeated | {number: text})


def decide(pair: Judged, thresholds: Thresholds) -> tuple[str, str]:
    """Return verdict and reason from the pair's numbers, so that thresholds can be changed later.

    Pairs that a missing vote could still keep are dropped as "not judged", also if the run's own floor or
    ceiling kept them from the judge. An unreadable or refused vote counts as a no; it is the reason if a yes
    in its place could have kept the pair.
    """
    similarity = pair.similarity
    if similarity is not None and not thresholds.floor <= similarity <= thresholds.ceiling:
        return DROP, TOO_DIFFERENT if similarity < thresholds.floor else TOO_ALIKE
    votes, lowest = pair.votes[: thresholds.votes], pair.lowest[: thresholds.votes]
    missing, changes = thresholds.votes - len(votes), pair.changes or [-1] * len(pair.votes)  # -1: need not
    same = [scores for vote, *scores in zip(votes, lowest, changes, strict=False) if vote]
    high = [change for low, change in same if low >= thresholds.minimum_score]
    right = sum(change < thresholds.minimum_score for change in high)
    if right >= thresholds.needed:
        return KEEP, SAME
    if right + missing >= thresholds.needed:
        return DROP, UNASKED
    if len(high) + missing >= thresholds.needed:
        return DROP, UNCHANGED
    if len(same) + missing >= thresholds.needed:
        return DROP, LOW
    if len(same) + votes.count(None) + missing >= thresholds.needed:
        return DROP, REFUSED if any(map(is_refused, pair.answers)) else UNREADABLE
    return DROP, DIFFERENT


def apply(pair: Judged, thresholds: Thresholds) -> Judged:
    """Return the pair with its verdict by these thresholds."""
    verdict, reason = decide(pair, thresholds)
    return replace(pair, verdict=verdict, reason=reason, thresholds=thresholds)
