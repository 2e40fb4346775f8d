"""Benefit of curation: the share of pairs that truly show one subject, before and after it.

This works only for the drawn world, where a scorer reads a critter's traits back from any image. It makes
errors too (see the card of the pocket weights), above all in images that are too distorted to be read.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dsd.curation.judge import Pair, read_pairs
from dsd.curation.verdict import REASONS
from dsd.evaluation.intervals import intervals
from dsd.files.jsonl import Row, RunError
from dsd.grids.grids import open_panels, read_grids
from dsd.grids.recipes import RECIPES, Recipe
from dsd.pocket.scorer import TOLERANCE, Reading, Scorer, distance, find_differing_parts, same_identity

IN_WORLD = {name: recipe for name, recipe in RECIPES.items() if recipe.in_world}
NAMED = ("color", "shape", "pattern", "ears", "eyes")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BATCH = 32  # grids that the scorer reads at a time


class ReadPair(NamedTuple):
    """A judged pair with its ground truth."""

    pair: Pair
    is_true: bool
    traits: dict[str, bool]  # trait -> whether the two images agree on it


def measure_benefit(
    run: Path, scorer: Scorer, *, on_grids: Callable[[int], None] = lambda count: None
) -> Row:
    """Return the share of true pairs among all pairs of a run and among the kept ones, and more statistics.

    A pair is true if both images show the same critter and, in a task with changes, one change of its kind.
    `recall` is the share of the true pairs that were kept, `traits` how often each trait agrees, and
    `similarity` has quantiles that help to choose floor and ceiling. Shares have 95 % bootstrap intervals
    over grids, because pairs of one grid are not independent. Raise RunError if nothing has been judged yet,
    or if a grid is not of the drawn world.
    """
    pairs = _read_truth(run, scorer, on_grids)
    true = [one for one in pairs if one.is_true]
    by_reason = {reason: [one for one in pairs if one.pair.reason == reason] for reason in REASONS}
    groups = {"of all pairs": pairs, "of the kept": [one for one in pairs if one.pair.is_kept]}
    return {
        "true_pairs": {name: _share_of_true(group) for name, group in groups.items()},
        "recall": {"kept, of the true pairs": _share(true, [one.pair.is_kept for one in true])},
        "by_reason": {reason: _share_of_true(group) for reason, group in by_reason.items() if group},
        "traits": {
            trait: {name: _mean([one.traits[trait] for one in group]) for name, group in groups.items()}
            for trait in (*NAMED, "hue")
        },
        "similarity": {
            "true pairs": _quantiles(true),
            "other pairs": _quantiles([one for one in pairs if not one.is_true]),
        },
    }


def _read_truth(run: Path, scorer: Scorer, on_grids: Callable[[int], None]) -> list[ReadPair]:
    pairs = read_pairs(run)
    names = {pair.grid for pair in pairs}
    grids = [grid for grid in read_grids(run) if grid.id in names]
    if other := [grid.id for grid in grids if grid.recipe not in IN_WORLD]:
        raise RunError(
            f"grid {other[0]} is not of the drawn world, the only one whose truth is known: choose a run "
            f"with one of the recipes {', '.join(IN_WORLD)}"
        )
    recipes = {grid.id: IN_WORLD[grid.recipe] for grid in grids}
    readings: dict[str, list[Reading]] = {}
    for start in range(0, len(grids), BATCH):
        panels = {grid.id: open_panels(run, grid) for grid in grids[start : start + BATCH]}
        batch = iter(scorer.read([panel for images in panels.values() for panel in images]))
        readings |= {name: [next(batch) for _ in images] for name, images in panels.items()}
        on_grids(len(panels))
    result = []
    for pair in pairs:
        a, b = readings[pair.grid][pair.first], readings[pair.grid][pair.second]
        result.append(ReadPair(pair, is_true(recipes[pair.grid], a, b), compare_traits(a, b)))
    return result


def is_true(recipe: Recipe, a: Reading, b: Reading) -> bool:
    """Return whether two images show one critter and, if the recipe asks for a change, exactly one."""
    if not recipe.changes or not same_identity([a, b]):
        return same_identity([a, b])
    differing = find_differing_parts(a, b)
    return len(differing) == 1 and differing <= {*recipe.changes}


def compare_traits(a: Reading, b: Reading) -> dict[str, bool]:
    """Return, for each trait, whether two images agree; the hue may differ by the scorer's tolerance."""
    named = {name: a.choices[name] == b.choices[name] for name in NAMED}
    return {**named, "hue": distance("hue", a.numbers["hue"], b.numbers["hue"]) <= TOLERANCE["hue"]}


def _share_of_true(pairs: Sequence[ReadPair]) -> Row:
    return _share(pairs, [one.is_true for one in pairs])


def _share(pairs: Sequence[ReadPair], values: Sequence[bool]) -> Row:
    mean, low, high, grids = _mean(values), None, None, [one.pair.grid for one in pairs]
    if len(set(grids)) > 1:  # otherwise too few to resample
        mean, low, high = intervals([{"share": value} for value in values], grids)["share"]
    return {"pairs": len(pairs), "share": mean, "low": low, "high": high}


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _quantiles(pairs: Sequence[ReadPair]) -> dict[str, float]:
    values = [one.pair.similarity for one in pairs if one.pair.similarity is not None]
    return {f"{q:.0%}": float(np.quantile(values, q)) for q in QUANTILES} if values else {}
