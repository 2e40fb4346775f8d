"""Further references of a training row: other panels of its grid, all of which were kept with each other.

A row's id is GRID-CONDITIONING-TARGET, with the numbers of its two panels. The rows of one grid and target
show that target beside several references, which are encoded already: composing them reads no image.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from dsd.training.options import TrainingError
from dsd.training.order import REFERENCES, random

Further = Sequence[tuple[int, ...]]


class Place(NamedTuple):
    """The panels of a row."""

    grid: tuple[str, str]  # the folder of its dataset, and its id, which other datasets may have too
    conditioning: int
    target: int


def find_further(pairs: Sequence[dict[str, Any]], rows: Sequence[int], most: int) -> Further:
    """Return for each of these rows the others, at most `most` - 1, whose references can be added to its own.

    They are numbered by their place in `rows`. Raise TrainingError if none of them has so many, because the
    weights would state more than they have seen. No image is read from files.
    """
    if most == 1:
        return ()
    places = _read_places(pairs)
    places = [places[row] for row in rows]
    numbers = {place: number for number, place in enumerate(places) if place}
    kept = {(grid, frozenset(panels)) for grid, *panels in numbers}
    beside: dict[tuple, list[int]] = {}  # grid, target -> the panels that it was kept with
    for grid, conditioning, target in sorted(numbers):
        beside.setdefault((grid, target), []).append(conditioning)
    further = []
    for place in places:
        panels = _choose_panels(place, beside[place.grid, place.target], kept, most) if place else []
        further.append(tuple(numbers[place._replace(conditioning=panel)] for panel in panels))
    highest = 1 + max(map(len, further))
    if highest < most:
        raise TrainingError(
            f"references is {most}, but the dataset has at most {highest} of one target, by the columns id "
            f"and grid: pass --references {highest}, or make grids of more panels"
        )
    return further


def _read_places(pairs: Sequence[dict[str, Any]]) -> list[Place | None]:
    if hasattr(pairs, "read_texts"):
        rows = [
            (*row, file) for row, file in zip(pairs.read_texts("id", "grid"), pairs.row_files(), strict=True)
        ]
    else:
        rows = [(row.get("id"), row.get("grid"), "") for row in pairs]
    return [_parse(*row) for row in rows]


def _parse(name: str | None, grid: str | None, file: str) -> Place | None:
    panels = re.fullmatch(rf"{re.escape(grid)}-(\d+)-(\d+)", name) if name and grid else None
    return Place((str(PurePath(file).parent), grid), int(panels[1]), int(panels[2])) if panels else None


def _choose_panels(
    place: Place, panels: list[int], kept: set[tuple[tuple, frozenset]], most: int
) -> list[int]:
    """Return the panels that were kept with the target, the own reference and each other."""
    chosen = [place.conditioning]
    for panel in panels:
        if len(chosen) < most and all((place.grid, frozenset((panel, one))) in kept for one in chosen):
            chosen.append(panel)
    return chosen[1:]


def choose(further: Further, rows: np.ndarray, seed: int, step: int) -> list[list[int]]:
    """Return for each row of a step the rows whose references it shows: itself, then some further ones.

    All rows of a step show equally many, and every number is equally likely. The choice is a function of the
    seed and the step.
    """
    generator = random(seed, REFERENCES, step)
    count = int(generator.integers(0, len(further[rows[0]]) + 1))
    return [[int(row), *generator.permutation(further[row])[:count].astype(int).tolist()] for row in rows]
