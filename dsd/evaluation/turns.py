"""Two turns of the wheel compared: what was kept, what of it is true, and how varied it still is.

A teacher that is tuned on its own kept grids may draw the same few subjects again and again. Diversity falls
as a run grows, so both turns are measured on equally many of their kept grids, drawn at random.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from dsd.curation.judge import Pair, find_recipe, read_pairs
from dsd.curation.kept_grids import kept_shares
from dsd.evaluation.benefit import BATCH, IN_WORLD, measure_benefit
from dsd.evaluation.intervals import around, intervals
from dsd.files.jsonl import Row, RunError
from dsd.files.markdown import table
from dsd.grids.grids import Grid, describe_lora, open_panels, read_grids
from dsd.grids.prompts import diversity
from dsd.pocket.scorer import ANGLES, RANGES, Reading, Scorer, numbers_of

TRAITS = (*ANGLES, *RANGES)
RESAMPLES, MOST = 200, 1000  # samples of kept grids, and most grids in one
WORDS = {"subjects": "distinct subjects", **{f"distinct_{n}": f"distinct {n}-grams" for n in (1, 2, 3)}}
PAGE = """\
Turn one is {first}, turn two is {second}. Intervals are 95 %: shares by resampling grids, diversity
over {resamples} random samples of {size} kept grids of each turn, one of each prompt. The spread of a trait
that no prompt names is 0 where all subjects of one color have the same: the circular variance, at most 1, of
an angle, and the standard deviation of another number as a share of its range.

{table}

The students of both turns are compared by `python -m train.evaluate one=STUDENT two=STUDENT --out FOLDER`."""


@dataclass(frozen=True)
class Turn:
    """A judged run."""

    run: Path
    grids: list[Grid]
    pairs: list[Pair]

    @cached_property
    def kept(self) -> dict[str, list[int]]:
        """Return the kept panels of each grid that has any."""
        panels: dict[str, set[int]] = {}
        for pair in self.pairs:
            if pair.is_kept:
                panels.setdefault(pair.grid, set()).update((pair.first, pair.second))
        return {grid.id: sorted(panels[grid.id]) for grid in self.grids if grid.id in panels}

    @cached_property
    def kept_grids(self) -> list[Grid]:
        """Return one grid with kept panels for each prompt, with the places of these panels alone."""
        by_prompt: dict[str, Grid] = {}  # a prompt may be drawn with several seeds
        for grid in self.grids:
            if grid.id in self.kept:
                by_prompt.setdefault(grid.prompt, grid)
        grids = by_prompt.values()
        return [replace(grid, places=[grid.places[i] for i in self.kept[grid.id]]) for grid in grids]


def read_turn(run: Path) -> Turn:
    """Read a judged run; raise RunError if nothing has been judged yet."""
    return Turn(run, read_grids(run), read_pairs(run))


def compare(
    first: Path, second: Path, scorer: Scorer, on_grids: Callable[[int], None] = lambda count: None
) -> Row:
    """Return the measures of two judged runs, by name, as `one` and `two`.

    True pairs and the spread of traits are known in the drawn world alone, where `scorer` reads them, and
    diversity where both runs kept at least two grids. Raise RunError for runs of different tasks.
    """
    turns = [read_turn(first), read_turn(second)]
    _check_tasks(*turns)
    size = min(MOST, *(len(turn.kept_grids) // 2 for turn in turns))
    is_drawn = all(grid.recipe in IN_WORLD for turn in turns for grid in turn.grids)
    one, two = ({**_shares(turn), **_diversity(turn, size)} for turn in turns)
    if is_drawn:
        for turn, measures in zip(turns, (one, two), strict=True):
            measures |= _true_pairs(turn, scorer, on_grids) | _spreads(turn, scorer, size)
    measures = {name: {"one": one[name], "two": two[name]} for name in one}
    drawn = [_drawn_with(turn.grids) for turn in turns]
    return {"runs": [str(first), str(second)], "drawn": drawn, "grids": size, "measures": measures}


def _drawn_with(grids: Sequence[Grid]) -> list[str]:
    """Return what the teacher of a turn drew with: its LoRAs, shared noise and refinement."""
    loras = {f"the {describe_lora(grid.teacher_lora)}" for grid in grids if grid.teacher_lora}
    noises = {f"shared noise {grid.shared_noise:g}" for grid in grids if grid.shared_noise}
    again = {f"panels drawn again at strength {grid.refine:g}" for grid in grids if grid.refine}
    return sorted(loras) + sorted(noises) + sorted(again)


def _check_tasks(*turns: Turn) -> None:
    one, two = (", ".join(sorted({find_recipe(grid.recipe).task for grid in turn.grids})) for turn in turns)
    if one != two:
        raise RunError(
            f"{turns[0].run} is of the task {one} and {turns[1].run} of {two}: compare two runs of one task"
        )


def page(found: Row) -> str:
    """Return the comparison as a page."""
    first, second = map(_name, found["runs"], found["drawn"])
    rows = [(name, _cell(turns["one"]), _cell(turns["two"])) for name, turns in found["measures"].items()]
    about = {"first": first, "second": second, "resamples": RESAMPLES, "size": found["grids"]}
    return PAGE.format(**about, table=table(("", "turn one", "turn two"), rows))


def _name(run: str, drawn: Sequence[str]) -> str:
    return f"{run}, drawn with {' and '.join(drawn)}" if drawn else run


def _cell(measure: Row) -> str:
    if measure["mean"] is None:
        return "not known"
    if measure["low"] is None:
        return f"{measure['mean']:.4g}"
    return f"{measure['mean']:.4g} ({measure['low']:.4g} to {measure['high']:.4g})"


# ---------------------------------------------------------------- shares


def _shares(turn: Turn) -> dict[str, Row]:
    """Return the shares of grids that have panels, of pairs kept, and of grids kept whole."""
    whole = kept_shares(turn.pairs, turn.grids)
    return {
        "grids with panels": _share([not grid.rejected for grid in turn.grids], [it.id for it in turn.grids]),
        "pairs kept": _share([pair.is_kept for pair in turn.pairs], [pair.grid for pair in turn.pairs]),
        "grids with every pair kept": _share([share == 1 for share in whole.values()], list(whole)),
    }


def _share(values: Sequence[bool], grids: Sequence[str]) -> Row:
    if len(set(grids)) < 2:  # too few to resample
        return {"mean": float(np.mean(values)) if values else None, "low": None, "high": None}
    return intervals([{"share": value} for value in values], grids)["share"]._asdict()


def _true_pairs(turn: Turn, scorer: Scorer, on_grids: Callable[[int], None]) -> dict[str, Row]:
    shares = measure_benefit(turn.run, scorer, on_grids=on_grids)["true_pairs"]
    return {
        f"true pairs, {which}": {"mean": one["share"], "low": one["low"], "high": one["high"]}
        for which, one in shares.items()
    }


# ---------------------------------------------------------------- diversity


def _diversity(turn: Turn, size: int) -> dict[str, Row]:
    grids = turn.kept_grids

    def measure(chosen: np.ndarray) -> dict[str, float]:
        found = diversity([grids[i] for i in chosen])
        return {title: found[name] for name, title in WORDS.items()}

    return _resample(measure, len(grids), size)


def _resample(measure: Callable[[np.ndarray], dict[str, float]], count: int, size: int) -> dict[str, Row]:
    """Return mean and interval of a measure over random samples of `size` of `count` grids.

    Samples of half of the grids vary as a mean over all of them does, and smaller ones vary more, so that an
    interval is not too narrow.
    """
    if size < 1:
        return {}
    random = np.random.default_rng(0)
    rows = [measure(random.choice(count, size, replace=False)) for _ in range(RESAMPLES)]
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        result[name] = around(np.mean(values), values)._asdict()
    return result


def _spreads(turn: Turn, scorer: Scorer, size: int) -> dict[str, Row]:
    """Return the spread of every numeric trait, as one kept panel of each grid shows it."""
    readings = _read(turn, scorer)
    colors = np.unique([reading.choices["color"] for reading in readings], return_inverse=True)[1]

    def measure(chosen: np.ndarray) -> dict[str, float]:
        parts = [readings[i] for i in chosen]
        return {f"spread of {name.replace('_', ' ')}": spread(name, parts, colors[chosen]) for name in TRAITS}

    return _resample(measure, len(readings), size)


def _read(turn: Turn, scorer: Scorer) -> list[Reading]:
    grids, readings = turn.kept_grids, []
    by_id = {grid.id: grid for grid in turn.grids}
    for start in range(0, len(grids), BATCH):
        names = [grid.id for grid in grids[start : start + BATCH]]
        readings += scorer.read([open_panels(turn.run, by_id[name])[turn.kept[name][0]] for name in names])
    return readings


def spread(name: str, readings: Sequence[Reading], colors: np.ndarray) -> float:
    """Return how much a trait varies among the subjects of one color that show it; 0 if they are all alike.

    It is the circular variance of an angle, and the standard deviation of a number as a share of its range.
    """
    shown = [name in numbers_of(it.choices["pattern"], it.choices["ears"]) for it in readings]
    values = np.array([it.numbers.get(name, 0.0) for it in readings])[shown]
    groups = [values[colors[shown] == color] for color in np.unique(colors[shown])]
    if not groups:
        return 0.0
    if name in ANGLES:
        lengths = [abs(np.exp(1j * np.radians(ANGLES[name] * group)).sum()) for group in groups]
        return float(1 - sum(lengths) / len(values))
    low, high = RANGES[name]
    return float(
        np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / len(values)) / (high - low)
    )
