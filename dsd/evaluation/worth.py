"""Effect of curation: the share of pairs that truly show one subject, before and after it.

This works only for the drawn world, where a scorer reads a critter's traits back from any image and no judge
is needed. The scorer makes some errors too (see the card of the pocket weights), and an image that is too
distorted to be read counts as whatever the scorer reads in it.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from dsd.curation.judge import Pair, read_pairs
from dsd.curation.verdict import REASONS
from dsd.evaluation.scores import intervals
from dsd.files.jsonl import Row, RunError
from dsd.grids.grids import Grid, open_panels, read_grids
from dsd.grids.recipes import CRITTERS
from dsd.pocket.scorer import TOLERANCE, Reading, distance, same_identity

NAMED = ("color", "shape", "pattern", "ears", "eyes")
TRAITS = (*NAMED, "hue")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
AT_ONCE = 32  # grids that the scorer reads at a time


class Reader(Protocol):
    """Reads the traits back from images; `dsd.pocket.scorer.Scorer` is one."""

    def read(self, images: list[Image.Image]) -> list[Reading]: ...


def worth(run: Path, scorer: Reader, *, on_grids: Callable[[int], None] = lambda count: None) -> Row:
    """Return the share of true pairs among all pairs of a run and among the kept ones, and more statistics.

    `recall` is the share of the true pairs that were kept. `traits` is how often each trait agrees.
    `similarity` holds the quantiles of true and other pairs, which help to choose floor and ceiling. Shares
    have 95 % intervals over grids, because pairs of one grid are not independent. Raise RunError if nothing
    has been judged yet.
    """
    found = list(_read(run, read_pairs(run), scorer, on_grids))
    kept, true = [one for one in found if one["kept"]], [one for one in found if one["true"]]
    reasons = {reason: [one for one in found if one["reason"] == reason] for reason in REASONS}
    return {
        "true_pairs": {"of all pairs": _share(found, "true"), "of the kept": _share(kept, "true")},
        "recall": {"kept, of the true pairs": _share(true, "kept")},
        "by_reason": {reason: _share(those, "true") for reason, those in reasons.items() if those},
        "traits": {
            trait: {"of all pairs": _mean(found, trait), "of the kept": _mean(kept, trait)}
            for trait in TRAITS
        },
        "similarity": {
            "true pairs": _quantiles(true),
            "other pairs": _quantiles([one for one in found if not one["true"]]),
        },
    }


def _read(run: Path, pairs: list[Pair], scorer: Reader, on_grids: Callable[[int], None]):
    """Yield the ground truth of each pair with its verdict."""
    rows = iter(_grids(run, {pair.grid for pair in pairs}))
    readings: dict[str, list[Reading]] = {}
    while some := list(islice(rows, AT_ONCE)):
        cut = [open_panels(run, grid) for grid in some]
        read = iter(scorer.read([panel for one in cut for panel in one]))
        readings |= {grid.id: list(islice(read, len(one))) for grid, one in zip(some, cut, strict=True)}
        on_grids(len(some))
    for pair in pairs:
        both = [readings[pair.grid][panel] for panel in (pair.first, pair.second)]
        yield {
            **{name: getattr(pair, name) for name in ("grid", "reason", "similarity")},
            "kept": pair.is_kept,
            "true": same_identity(both),
            **agreeing(*both),
        }


def _grids(run: Path, wanted: set[str]) -> list[Grid]:
    found = [grid for grid in read_grids(run) if grid.id in wanted]
    for grid in found:
        if grid.recipe != CRITTERS.name:
            raise RunError(f"grid {grid.id} is not of the drawn world: only there the truth can be read back")
    return found


def agreeing(a: Reading, b: Reading) -> dict[str, bool]:
    """Return, for each trait, whether two images agree; the hue may differ by the scorer's tolerance."""
    named = {name: a.choices[name] == b.choices[name] for name in NAMED}
    return {**named, "hue": distance("hue", a.numbers["hue"], b.numbers["hue"]) <= TOLERANCE["hue"]}


def _share(found: Sequence[Row], name: str) -> dict[str, float | int | None]:
    if len({one["grid"] for one in found}) < 2:  # too few to resample
        return {"pairs": len(found), "share": _mean(found, name), "low": None, "high": None}
    mean, low, high = intervals([{name: one[name]} for one in found], [one["grid"] for one in found])[name]
    return {"pairs": len(found), "share": mean, "low": low, "high": high}


def _mean(found: Sequence[Row], name: str) -> float | None:
    return sum(one[name] for one in found) / len(found) if found else None


def _quantiles(found: Sequence[Row]) -> dict[str, float]:
    values = [one["similarity"] for one in found if one["similarity"] is not None]
    return (
        {f"{q:.0%}": float(v) for q, v in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)}
        if values
        else {}
    )
