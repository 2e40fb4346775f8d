"""Review a judged run: decide again with other thresholds, filter, and show page by page.

Nothing is written and the judge is not asked: a row holds every number that its verdict depends on. The rows
of 100,000 pairs are read in seconds; images are opened when they are shown.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image

from dsd.curation import judge
from dsd.curation.judge import Agreement, Pair
from dsd.curation.verdict import DROP, KEEP, REASONS, SAME, Thresholds, decide
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.grids import grids
from dsd.grids.grids import Grid

ALL, UNLABELED, LABELED, DISAGREE = "all", "unlabelled", "labelled", "disagree"
Decisions = list[tuple[str, str]]  # verdict and reason of each pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Review:
    """A run's pairs in the order of their ids, and the grids that they were cut from."""

    run: Path
    pairs: list[Pair]
    grids: dict[str, Grid]

    @property
    def thresholds(self) -> Thresholds:
        return self.pairs[0].thresholds

    @cached_property
    def decided(self) -> Callable[[Thresholds], Decisions]:
        """Return a function from thresholds to all decisions, cached so that turning a page is fast."""
        return lru_cache(maxsize=4)(lambda thresholds: [decide(pair, thresholds) for pair in self.pairs])


def open_review(run: Path) -> Review:
    """Open a judged run; raise RunError if nothing has been judged yet or a row lacks a field."""
    pairs = judge.read_pairs(run)
    return Review(run=run, pairs=pairs, grids={grid.id: grid for grid in grids.read_grids(run)})


def state_of(run: Path) -> tuple:
    """Return a value that changes when pairs or grids are written."""
    tables = (run / "pairs.jsonl", grids.table(run))
    files = [file for table in tables for file in (table, *jsonl.shards(table)) if file.exists()]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def counts(decided: Decisions) -> dict[str, int]:
    """Return the number of pairs by reason, in the order of `REASONS`; `SAME` counts the kept pairs."""
    numbers = Counter(reason for _, reason in decided)
    return {reason: numbers[reason] for reason in REASONS if numbers[reason] or reason == SAME}


def select(review: Review, decided: Decisions, show: str, labels: Mapping[str, str]) -> list[int]:
    """Return the indices of the pairs to show; raise ValueError for an unknown selection."""
    selections = (ALL, KEEP, DROP, UNLABELED, LABELED, DISAGREE, *REASONS)
    if show not in selections:
        raise ValueError(f"show must be one of {', '.join(selections)}, got {show!r}")

    def is_shown(pair: Pair, verdict: str, reason: str) -> bool:
        label = labels.get(pair.id)
        groups = {ALL, verdict, reason, LABELED if label else UNLABELED}
        return show in groups or bool(show == DISAGREE and label and label != verdict)

    pairs = zip(review.pairs, decided, strict=True)
    return [index for index, (pair, decision) in enumerate(pairs) if is_shown(pair, *decision)]


def agreement(review: Review, decided: Decisions, labels: Mapping[str, str]) -> Agreement:
    """Return the agreement between the labels and these decisions."""
    pairs = zip(review.pairs, decided, strict=True)
    return judge.agreement([(pair.id, verdict) for pair, (verdict, _) in pairs], dict(labels))


def images(review: Review, pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Return the two panels of a pair; raise RunError if one is missing."""
    grid, table = review.grids.get(pair.grid), grids.table(review.run)
    if grid is None:
        raise RunError(
            f"grid {pair.grid} of pair {pair.id} is not in {table}: restore the rows of the grids that the "
            "pairs were cut from"
        )
    panels = grids.open_panels(review.run, grid)
    if max(pair.first, pair.second) >= len(panels):
        raise RunError(
            f"grid {grid.id} has {len(panels)} panels, but pair {pair.id} needs panels {pair.first} and "
            f"{pair.second}: restore the {table} that the pairs were cut from"
        )
    return panels[pair.first], panels[pair.second]


def command(review: Review, thresholds: Thresholds) -> str | None:
    """Return the command that applies these thresholds, or None if they are the run's own."""
    names = ("floor", "ceiling", "minimum_score")
    changes = {name: getattr(thresholds, name) for name in names}
    changes = {name: new for name, new in changes.items() if new != getattr(review.thresholds, name)}
    flags = [f"--{name.replace('_', '-')} {new:g}" for name, new in changes.items()]
    return f"python -m train.curate RUN --redecide {' '.join(flags)}" if flags else None
