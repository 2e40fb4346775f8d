"""Scores for identity, prompt following and copying, each with its chance level and ceiling.

Everything that draws images (a student, a prompted teacher, a render of the truth) is a callable and is
evaluated by the same code on the same cases. Higher is better for every score except `copy`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Protocol

import numpy as np
from PIL import Image

from dsd.evaluation.intervals import Interval, intervals
from dsd.files import markdown

CRITTERS = "critters"  # name of the benchmark of held-out critters
ROTATIONS = 4  # other subjects whose images measure the chance level of a case

Draw = Callable[[list[str], list[Image.Image], list[int]], list[Image.Image]]  # prompts, references, seeds
Numbers = dict[str, float]  # the scores of one image, by name; NaN where an image has none


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image to draw: the subject of `reference` in the context that the prompt describes."""

    subject: str  # cases of one subject are resampled together
    reference: Image.Image
    prompt: str  # the context alone, as a user would write it
    caption: str  # subject and context, for models that do not see the reference
    seed: int
    truth: Image.Image | None = None  # the subject as requested, or another photograph of it
    facts: Any = None  # ground truth for the scorer
    groups: tuple[str, ...] = ()  # parts of the benchmark that it belongs to, such as "animal"


@dataclass(frozen=True)
class Measure:
    """The name, meaning and range of a score."""

    name: str
    title: str
    meaning: str
    low: float = 0.0
    high: float = 1.0
    # Rescale raw values so that images of other subjects score 0 on average and `high` stays the same.
    from_chance: bool = False
    # Whether the true image gets the best possible score. If not, the ceiling is unknown.
    truth_is_best: bool = True
    is_identity: bool = False  # whether it says if the subject is the same, so that labels can check it


class Scorer(Protocol):
    measures: Sequence[Measure]
    # Further numbers of a row: 1 for each trait, or part of the context, that the image keeps, 0 if not.
    traits: Sequence[str] = ()
    backbones: dict[str, str]  # networks that score, with their hashes

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return one row per image, with a raw number for each measure and trait."""

    def explain(self, cases: Sequence[Case], scores: "Scores") -> list[str]:
        """Return the reason for each image's scores in words, or "" where the scorer has none."""


@dataclass(frozen=True)
class Levels:
    """The scores of chance and of the truth on a set of cases, measured by the same scorer.

    A measure that fewer than 2 subjects have a number for is in neither `chance` nor `ceiling`.
    """

    chance: dict[str, Interval]
    ceiling: dict[str, Interval]  # only for known truths, and not for measures without `truth_is_best`
    raw_chance: dict[str, float]  # before `from_chance` rescales it to 0


@dataclass(frozen=True)
class Scores:
    """The result of evaluating one way of drawing."""

    means: dict[str, Interval]  # by measure name
    levels: Levels
    rows: list[Numbers]  # one per case, in the order of the cases
    subjects: list[str]
    images: list[Image.Image]

    def flat(self) -> Numbers:
        """Return `{"identity": 0.61, "identity_low": ..., "_high", "_chance", "_ceiling"}` for a log."""
        numbers = {}
        for name in self.levels.raw_chance:  # the measures, without the traits
            interval = self.means[name]
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
    """Draw all cases and score them; raise ValueError for fewer than 2 subjects.

    With `described` the prompt is the full caption instead of the context alone. `levels` must come from the
    same cases and scorer; they are measured here if omitted.
    """
    levels = levels or measure_levels(cases, scorer)
    images = list(draw(*requests(cases, described=described)))
    if len(images) != len(cases):
        raise ValueError(f"{len(cases)} images were requested, but {len(images)} were drawn")
    rows = _rescale(scorer.score(cases, images), scorer.measures, levels.raw_chance)
    subjects = [case.subject for case in cases]
    return Scores(intervals(rows, subjects), levels, rows, subjects, images)


def requests(
    cases: Sequence[Case], *, described: bool = False
) -> tuple[list[str], list[Image.Image], list[int]]:
    """Return the prompts, references and seeds of the cases, as a `Draw` takes them."""
    prompts = [case.caption if described else case.prompt for case in cases]
    return prompts, [case.reference for case in cases], [case.seed for case in cases]


def measure_levels(cases: Sequence[Case], scorer: Scorer, *, rotations: int = ROTATIONS) -> Levels:
    """Return each measure's chance level, by images of other subjects, and ceiling, by the true images."""
    rows = _chance_rows(cases, scorer, rotations)
    raw = {measure.name: fmean(row[measure.name] for row in rows) for measure in scorer.measures}
    chance = intervals(_rescale(rows, scorer.measures, raw), [case.subject for case in cases])
    true = [case for case in cases if case.truth is not None]
    ceiling = {}
    if len({case.subject for case in true}) > 1:
        rows = _rescale(scorer.score(true, [case.truth for case in true]), scorer.measures, raw)
        ceiling = intervals(rows, [case.subject for case in true])
    unknown = {measure.name for measure in scorer.measures if not measure.truth_is_best}
    return Levels(chance, {name: ceiling[name] for name in ceiling if name not in unknown}, raw)


def _chance_rows(cases: Sequence[Case], scorer: Scorer, rotations: int) -> list[Numbers]:
    """Return, for each case, the mean scores of images of up to `rotations` other subjects."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        groups[case.subject].append(index)
    if len(groups) < 2:
        raise ValueError(
            f"at least 2 subjects are needed, got {len(groups)}: chance is the score of another subject"
        )
    turns = range(1, min(rotations, len(groups) - 1) + 1)
    rounds = [scorer.score(cases, _rotate(cases, list(groups.values()), turn)) for turn in turns]
    columns = zip(*rounds, strict=True)
    return [{name: fmean(row[name] for row in rows) for name in rows[0]} for rows in columns]


def _rotate(cases: Sequence[Case], groups: list[list[int]], turn: int) -> list[Image.Image]:
    """Return, for each case, an image of the subject that comes `turn` subjects later."""
    images = [case.reference for case in cases]
    for place, group in enumerate(groups):
        others = groups[(place + turn) % len(groups)]
        for position, index in enumerate(group):
            other = cases[others[position % len(others)]]
            images[index] = other.truth or other.reference
    return images


def _rescale(rows: list[Numbers], measures: Sequence[Measure], chance: Numbers) -> list[Numbers]:
    """Rescale the `from_chance` measures so that chance becomes 0 and `high` stays the same."""
    rows = [dict(row) for row in rows]
    for measure in measures:
        if measure.from_chance:
            zero, span = chance[measure.name], measure.high - chance[measure.name]
            for row in rows:  # if chance already reaches `high`, the score means nothing
                row[measure.name] = measure.high * (row[measure.name] - zero) / span if span > 0 else 0.0
    return rows


def difference(ours: Scores, theirs: Scores) -> dict[str, Interval]:
    """Return how much higher `ours` scored than `theirs`, paired by case, which gives narrow intervals."""
    if ours.subjects != theirs.subjects:
        raise ValueError("only scores of the same cases can be compared case by case")
    rows = [{name: a[name] - b[name] for name in a} for a, b in zip(ours.rows, theirs.rows, strict=True)]
    return intervals(rows, ours.subjects)


# ---------------------------------------------------------------- tables


def table(results: dict[str, dict[str, Interval]], measures: Sequence[Measure]) -> str:
    """Return a Markdown table with a row for each way of drawing and a column for each measure."""
    return columns_table(results, {measure.name: measure.title for measure in measures})


def columns_table(results: dict[str, dict[str, Interval]], columns: dict[str, str]) -> str:
    """Return a Markdown table of the columns, name -> title, that at least one way of drawing has."""
    names = [name for name in columns if any(name in means for means in results.values())]
    rows = [[way, *(means.get(name, "not known") for name in names)] for way, means in results.items()]
    return markdown.table(["", *(columns[name] for name in names)], rows)


def legend(measures: Sequence[Measure], levels: Levels) -> str:
    """Return one line per measure: its meaning, range, chance level and ceiling."""
    lines = []
    for measure in measures:
        ceiling = levels.ceiling.get(measure.name)
        top = f"the truth {ceiling.mean:.3f}" if ceiling else "its ceiling is not known"
        chance = levels.chance.get(measure.name)
        bottom = f"chance {chance.mean:.3f}" if chance else "chance is not known"
        (lowest,) = _rescale([{measure.name: measure.low}], [measure], levels.raw_chance)
        ends = f"from {lowest[measure.name]:.2g} to {measure.high:.2g}"
        lines.append(f"- {measure.title}: {measure.meaning}; {ends}, {bottom}, {top}")
    return "\n".join(lines)


# ---------------------------------------------------------------- alarm


MOST, FEWEST = 10, 8  # evaluations that the alarm considers
STEADY = 0.6  # least absolute tau of a trend
COPIED, LOST = 0.05, 0.07  # least rise of copying, least fall of following as a share above chance


def alarm(history: Sequence[Numbers]) -> str | None:
    """Return a warning if copying rises while prompt following falls over the last evaluations, else None.

    `history` holds the flat scores of each evaluation, oldest first; rows without scores are skipped. The
    fall of following is relative to its height above chance, because CLIP's scores lie close together: a fall
    from 0.31 to 0.27 is half of that height. Both trends must hold over most pairs of evaluations (Kendall's
    tau) and be large enough (Theil-Sen slope), so that neither a single bad evaluation nor noise raises it.
    Fewer than 1 % of 1500 simulated runs of pure noise, with the two scores mirroring each other, did.
    """
    rows = [row for row in history if "copy" in row and "following" in row][-MOST:]
    if len(rows) < FEWEST:
        return None
    copy_tau, copy_change = _trend([row["copy"] for row in rows])
    following_tau, following_change = _trend([row["following"] for row in rows])
    above = max(row["following"] for row in rows) - rows[-1].get("following_chance", 0.0)
    rises = copy_tau >= STEADY and copy_change >= COPIED
    falls = following_tau <= -STEADY and following_change <= -LOST * above
    warning = (
        f"alarm: over the last {len(rows)} evaluations copying rose by {copy_change:.2f} while prompt "
        f"following fell by {-following_change:.2f}: the model is learning to copy its reference. Look for "
        "near-copies among the pairs, or use an earlier checkpoint"
    )
    return warning if rises and falls else None


def _trend(values: list[float]) -> tuple[float, float]:
    """Return Kendall's tau (-1 always falls, 1 always rises) and the total change along the median slope."""
    y = np.asarray(values, dtype=float)
    first, second = np.triu_indices(len(y), 1)
    rises = y[second] - y[first]
    return float(np.sign(rises).mean()), float(np.median(rises / (second - first)) * (len(y) - 1))
