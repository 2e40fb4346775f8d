"""Benefit of curation: the share of pairs that truly show one subject, before and after it.

This works only for the drawn world, where a scorer reads a critter's traits back from any image and no judge
is needed. The scorer makes some errors too (see the card of the pocket weights), and an image that is too
distorted to be read counts as whatever the scorer reads in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsd.curation.judge import Pair, read_pairs
from dsd.curation.verdict import REASONS
from dsd.evaluation.scores import intervals
from dsd.files.jsonl import Row, RunError
from dsd.grids.grids import open_panels, read_grids
from dsd.grids.recipes import CRITTERS
from dsd.pocket.scorer import TOLERANCE, Reading, Scorer, distance, same_identity

NAMED = ("color", "shape", "pattern", "ears", "eyes")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BATCH = 32  # grids that the scorer reads at a time


@dataclass(frozen=True)
class ReadPair:
    """A judged pair with its ground truth."""

    grid: str
    reason: str
    similarity: float | None
    is_kept: bool
    is_true: bool
    traits: dict[str, bool]  # trait -> whether the two images agree on it


def measure_benefit(
    run: Path, scorer: Scorer, *, on_grids: Callable[[int], None] = lambda count: None
) -> Row:
    """Return the share of true pairs among all pairs of a run and among the kept ones, and more statistics.

    A pair is true if both images show the same critter. `recall` is the share of the true pairs that were
    kept. `traits` is how often each trait agrees. `similarity` holds the quantiles of the similarity of true
    and of other pairs, which help to choose floor and ceiling. Shares have 95 % bootstrap intervals over
    grids, because pairs of one grid are not independent. Raise RunError if nothing has been judged yet, or if
    a grid is not of the drawn world.
    """
    pairs = _read_truth(run, scorer, on_grids)
    kept, true = [pair for pair in pairs if pair.is_kept], [pair for pair in pairs if pair.is_true]
    by_reason = {reason: [pair for pair in pairs if pair.reason == reason] for reason in REASONS}
    groups = {"of all pairs": pairs, "of the kept": kept}
    return {
        "true_pairs": {name: _share(group, "is_true") for name, group in groups.items()},
        "recall": {"kept, of the true pairs": _share(true, "is_kept")},
        "by_reason": {reason: _share(group, "is_true") for reason, group in by_reason.items() if group},
        "traits": {
            trait: {name: _mean([pair.traits[trait] for pair in group]) for name, group in groups.items()}
            for trait in (*NAMED, "hue")
        },
        "similarity": {
            "true pairs": _quantiles(true),
            "other pairs": _quantiles([pair for pair in pairs if not pair.is_true]),
        },
    }


def _read_truth(run: Path, scorer: Scorer, on_grids: Callable[[int], None]) -> list[ReadPair]:
    pairs = read_pairs(run)
    names = {pair.grid for pair in pairs}
    grids = [grid for grid in read_grids(run) if grid.id in names]
    if other := [grid.id for grid in grids if grid.recipe != CRITTERS.name]:
        raise RunError(
            f"grid {other[0]} is not of the drawn world, the only one whose truth is known: choose a run "
            f"with the recipe {CRITTERS.name}"
        )
    readings: dict[str, list[Reading]] = {}
    for start in range(0, len(grids), BATCH):
        panels = {grid.id: open_panels(run, grid) for grid in grids[start : start + BATCH]}
        batch = iter(scorer.read([panel for images in panels.values() for panel in images]))
        readings |= {name: [next(batch) for _ in images] for name, images in panels.items()}
        on_grids(len(panels))
    return [_compare(pair, readings[pair.grid]) for pair in pairs]


def _compare(pair: Pair, readings: list[Reading]) -> ReadPair:
    a, b = readings[pair.first], readings[pair.second]
    fields = {name: getattr(pair, name) for name in ("grid", "reason", "similarity", "is_kept")}
    return ReadPair(**fields, is_true=same_identity([a, b]), traits=compare_traits(a, b))


def compare_traits(a: Reading, b: Reading) -> dict[str, bool]:
    """Return, for each trait, whether two images agree; the hue may differ by the scorer's tolerance."""
    named = {name: a.choices[name] == b.choices[name] for name in NAMED}
    return {**named, "hue": distance("hue", a.numbers["hue"], b.numbers["hue"]) <= TOLERANCE["hue"]}


def _share(pairs: Sequence[ReadPair], name: str) -> dict[str, float | int | None]:
    values, names = [getattr(pair, name) for pair in pairs], [pair.grid for pair in pairs]
    if len(set(names)) < 2:  # too few to resample
        return {"pairs": len(pairs), "share": _mean(values), "low": None, "high": None}
    mean, low, high = intervals([{name: value} for value in values], names)[name]
    return {"pairs": len(pairs), "share": mean, "low": low, "high": high}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantiles(pairs: Sequence[ReadPair]) -> dict[str, float]:
    values = [pair.similarity for pair in pairs if pair.similarity is not None]
    if not values:
        return {}
    return dict(zip((f"{q:.0%}" for q in QUANTILES), np.quantile(values, QUANTILES).tolist(), strict=True))
