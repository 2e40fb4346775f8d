"""Does the model keep the subject, follow the prompt, and not merely copy? Scores, chance and ceiling.

Whatever draws (a student, a prompted teacher, a render of the truth) is a callable and runs through the same
lines on the same cases. What a picture is worth says a scorer: `dsd.evaluation.critters` reads drawn
critters, `dsd.evaluation.photographs` asks DINOv2 and CLIP. Higher is better for every score but `copy`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

RESAMPLES = 2000
ROTATIONS = 4  # how many other subjects' pictures each case meets where chance is measured

Draw = Callable[[list[str], list[Image.Image], list[int]], list[Image.Image]]  # prompts, references, seeds
Row = dict[str, float]  # the scores of one picture, by name


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture to draw: the subject of `reference`, as the prompt asks."""

    subject: str  # cases of one subject are resampled together
    reference: Image.Image
    prompt: str  # the context alone, as a user asks
    caption: str  # subject and context, for models that see no picture
    seed: int
    truth: Image.Image | None = None  # the subject, truly there
    facts: Any = None  # what the scorer knows of the case


@dataclass(frozen=True)
class Measure:
    """What a score says, and between which numbers it can lie."""

    name: str
    title: str
    meaning: str
    low: float = 0.0
    high: float = 1.0
    # Raw values are moved so that pictures of other subjects score 0 on average, and `high` stays `high`.
    from_chance: bool = False
    # Whether a picture of the truth is the best there can be. If not, the ceiling is not known.
    truth_is_best: bool = True


class Scorer(Protocol):
    """Gives each picture its raw scores."""

    measures: Sequence[Measure]

    def score(self, cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[Row]:
        """One row for each picture, with a number for each measure."""


class Interval(NamedTuple):
    """A mean and its 95 % bootstrap interval over subjects."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Levels:
    """What chance and the truth score on these cases, measured by the same scorer."""

    chance: dict[str, Interval]
    ceiling: dict[str, Interval]  # only where the truth is known and is the best there can be
    raw_chance: dict[str, float]  # before `from_chance` has moved it to 0


@dataclass(frozen=True)
class Scores:
    """What one way of drawing scored."""

    means: dict[str, Interval]  # by the name of the measure
    levels: Levels
    rows: list[Row]  # one a case, in their order
    subjects: list[str]
    pictures: list[Image.Image]

    def flat(self) -> dict[str, float]:
        """`{"identity": 0.61, "identity_low": ..., "_high", "_chance", "_ceiling"}` for a log of numbers."""
        numbers = {}
        for name, interval in self.means.items():
            numbers |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
            numbers[f"{name}_chance"] = self.levels.chance[name].mean
            if name in self.levels.ceiling:
                numbers[f"{name}_ceiling"] = self.levels.ceiling[name].mean
        return numbers


def evaluate(
    draw: Draw,
    cases: Sequence[Case],
    scorer: Scorer,
    *,
    described: bool = False,
    levels: Levels | None = None,
) -> Scores:
    """Draw every case and score it. `described` asks with the full caption instead of the context alone.

    `levels` are those of the same cases and scorer, measured here when left out. Two subjects are the least:
    chance is what a picture of somebody else scores (ValueError otherwise).
    """
    levels = levels or measure_levels(cases, scorer)
    prompts = [case.caption if described else case.prompt for case in cases]
    pictures = list(draw(prompts, [case.reference for case in cases], [case.seed for case in cases]))
    if len(pictures) != len(cases):
        raise ValueError(f"{len(cases)} pictures were asked for and {len(pictures)} were drawn")
    rows = _moved(scorer.score(cases, pictures), scorer.measures, levels.raw_chance)
    subjects = [case.subject for case in cases]
    return Scores(intervals(rows, subjects), levels, rows, subjects, pictures)


def measure_levels(cases: Sequence[Case], scorer: Scorer) -> Levels:
    """Chance: the pictures of other subjects, scored as if asked for. Ceiling: the true pictures."""
    subjects = [case.subject for case in cases]
    raw = _chance_rows(cases, scorer)
    zero = {measure.name: fmean(row[measure.name] for row in raw) for measure in scorer.measures}
    chance = intervals(_moved(raw, scorer.measures, zero), subjects)
    true = [case for case in cases if case.truth is not None]
    ceiling = {}
    if len({case.subject for case in true}) > 1:
        rows = _moved(scorer.score(true, [case.truth for case in true]), scorer.measures, zero)
        ceiling = intervals(rows, [case.subject for case in true])
    best = {measure.name for measure in scorer.measures if measure.truth_is_best}
    return Levels(chance, {name: value for name, value in ceiling.items() if name in best}, zero)


def _chance_rows(cases: Sequence[Case], scorer: Scorer) -> list[Row]:
    """For each case the mean row over the pictures of `ROTATIONS` other subjects."""
    groups: dict[str, list[int]] = {}
    for index, case in enumerate(cases):
        groups.setdefault(case.subject, []).append(index)
    if len(groups) < 2:
        raise ValueError(
            f"at least 2 subjects are needed, got {len(groups)}: chance is what a picture of another scores"
        )
    turns = min(ROTATIONS, len(groups) - 1)
    rounds = [scorer.score(cases, _others(cases, list(groups.values()), turn + 1)) for turn in range(turns)]
    return [
        {name: fmean(row[name] for row in rows) for name in rows[0]} for rows in zip(*rounds, strict=True)
    ]


def _others(cases: Sequence[Case], groups: list[list[int]], turn: int) -> list[Image.Image]:
    """For each case a picture of the subject that comes `turn` subjects later."""
    pictures: list[Image.Image] = [case.reference for case in cases]
    for place, group in enumerate(groups):
        donors = groups[(place + turn) % len(groups)]
        for position, index in enumerate(group):
            donor = cases[donors[position % len(donors)]]
            pictures[index] = donor.truth or donor.reference
    return pictures


def _moved(rows: list[Row], measures: Sequence[Measure], chance: dict[str, float]) -> list[Row]:
    """Measures that count from chance are stretched so that chance is 0 and their upper end stays."""
    result = [dict(row) for row in rows]
    for measure in measures:
        if measure.from_chance:
            zero, span = chance[measure.name], measure.high - chance[measure.name]
            for row in result:  # where chance already has all there is, nothing can be told from it
                row[measure.name] = measure.high * (row[measure.name] - zero) / span if span > 0 else 0.0
    return result


# ---------------------------------------------------------------- intervals


def intervals(rows: Sequence[Row], subjects: Sequence[str]) -> dict[str, Interval]:
    """Mean and 95 % interval of each number: whole subjects are drawn again, with all of their rows.

    Prompts of one subject are not independent: resampling rows would make the interval too narrow.
    """
    names = sorted(set(subjects))
    if len(names) < 2:
        raise ValueError(f"an interval over subjects needs at least 2 of them, got {len(names)}")
    place = [names.index(subject) for subject in subjects]
    counts = np.bincount(place, minlength=len(names))  # [subjects]
    again = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
    result = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], dtype=float)
        sums = np.bincount(place, weights=values, minlength=len(names))  # [subjects]
        means = sums[again].sum(1) / counts[again].sum(1)  # [resamples]
        low, high = np.quantile(means, (0.025, 0.975))
        result[name] = Interval(float(values.mean()), float(low), float(high))
    return result


def interval(values: Sequence[float]) -> Interval:
    """The same for plain numbers, each from a subject of its own."""
    rows = [{"value": float(value)} for value in values]
    return intervals(rows, [str(index) for index in range(len(rows))])["value"]


def difference(ours: Scores, theirs: Scores) -> dict[str, Interval]:
    """How much more `ours` scored than `theirs`, case by case: narrower than the two intervals suggest."""
    if ours.subjects != theirs.subjects:
        raise ValueError("only scores of the same cases can be compared case by case")
    rows = [{name: a[name] - b[name] for name in a} for a, b in zip(ours.rows, theirs.rows, strict=True)]
    return intervals(rows, ours.subjects)


# ---------------------------------------------------------------- tables


def table(results: dict[str, dict[str, Interval]], measures: Sequence[Measure]) -> str:
    """A markdown table: a row for each way of drawing, a column for each measure."""
    lines = [["", *(measure.title for measure in measures)], ["---"] * (len(measures) + 1)]
    for name, means in results.items():
        lines.append([name, *(str(means.get(measure.name, "not known")) for measure in measures)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def legend(measures: Sequence[Measure], levels: Levels) -> str:
    """One line for each measure: what it says, its range, its chance level and its ceiling."""
    lines = []
    for measure in measures:
        known = levels.ceiling.get(measure.name)
        top = f"the truth {known.mean:.3f}" if known else "its ceiling is not known"
        chance = levels.chance[measure.name].mean
        ends = f"from {_end(measure, measure.low, levels):.2g} to {measure.high:.2g}"
        lines.append(f"- {measure.title}: {measure.meaning}; {ends}, chance {chance:.3f}, {top}")
    return "\n".join(lines)


def _end(measure: Measure, raw: float, levels: Levels) -> float:
    return _moved([{measure.name: raw}], [measure], levels.raw_chance)[0][measure.name]


# ---------------------------------------------------------------- the alarm


WINDOW, FEWEST = 10, 8  # evaluations that the alarm looks back on, and without which it says nothing
STEADY = 0.6  # tau from where a trend counts
COPIED, LOST = 0.05, 0.07  # and by how much: of copying, and of following's share above chance


def alarm(history: Sequence[dict[str, float]]) -> str | None:
    """A line when copying climbs while prompt following falls over the last evaluations; else None.

    `history` holds the flat scores of each evaluation, oldest first; rows without scores are passed over.
    Following is measured by what it has above chance, because CLIP's scores lie close together: a fall from
    0.31 to 0.27 is half of it. Both trends must hold over most pairs of evaluations (Kendall's tau) and be
    large enough to see (Theil-Sen slope), so that neither one bad evaluation nor steady noise raises it: of
    1500 made-up runs of noise alone, however large and with the two scores mirroring each other, less than
    1 % did.
    """
    rows = [row for row in history if "copy" in row and "following" in row][-WINDOW:]
    if len(rows) < FEWEST:
        return None
    copy, following = _trend([row["copy"] for row in rows]), _trend([row["following"] for row in rows])
    above = max(row["following"] for row in rows) - rows[-1].get("following_chance", 0.0)
    climbs = copy[0] >= STEADY and copy[1] >= COPIED
    falls = following[0] <= -STEADY and following[1] <= -LOST * above
    if not (climbs and falls):
        return None
    return (
        f"alarm: over the last {len(rows)} evaluations copying rose by {copy[1]:.2f} while prompt following "
        f"fell by {-following[1]:.2f}: the model learns to paste its reference. Look for near-copies among "
        "the pairs, or take an earlier checkpoint"
    )


def _trend(values: list[float]) -> tuple[float, float]:
    """Kendall's tau (-1 always falls, 1 always climbs) and the change along the median slope."""
    y = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(y), 1)
    rises = y[second] - y[first]
    return float(np.sign(rises).mean()), float(np.median(rises / (second - first)) * (len(y) - 1))
