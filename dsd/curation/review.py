"""Review a judged run: decide again with other thresholds, filter, and show page by page.

Nothing is written and the judge is not asked: a row holds every number that its verdict depends on
(`dsd.curation.verdict`). The rows of 100,000 pairs are read in seconds; images are opened when they are
shown.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
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
        """Return the thresholds that the run was judged with."""
        return self.pairs[0].thresholds

    @cached_property
    def decided(self) -> Callable[[Thresholds], Decisions]:
        """Return a function from thresholds to the decisions on all pairs.

        The function caches its last four results, so that turning a page is fast.
        """
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
    """Return the indices of the pairs to show.

    `show` is ALL, KEEP, DROP, UNLABELED, LABELED, DISAGREE or one of the reasons.
    """
    selections = (ALL, KEEP, DROP, UNLABELED, LABELED, DISAGREE, *REASONS)
    if show not in selections:
        raise ValueError(f"show must be one of {', '.join(selections)}, got {show!r}")
    indices = []
    for index, (pair, (verdict, reason)) in enumerate(zip(review.pairs, decided, strict=True)):
        label = labels.get(pair.id)
        groups = {ALL, verdict, reason, LABELED if label else UNLABELED}
        if label and label != verdict:
            groups.add(DISAGREE)
        if show in groups:
            indices.append(index)
    return indices


def agreement(review: Review, decided: Decisions, labels: Mapping[str, str]) -> Agreement:
    """Return the agreement between the labels and these decisions."""
    ids = (pair.id for pair in review.pairs)
    return judge.agreement(zip(ids, (verdict for verdict, _ in decided), strict=True), dict(labels))


def images(review: Review, pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Return the two panels of a pair; raise RunError if one is missing."""
    grid = review.grids.get(pair.grid)
    if grid is None:
        raise RunError(
            f"grid {pair.grid} of pair {pair.id} is not in {grids.table(review.run)}: restore the rows "
            "of the grids that the pairs were cut from"
        )
    panels = grids.open_panels(review.run, grid)
    if max(pair.first, pair.second) >= len(panels):
        raise RunError(
            f"grid {grid.id} has {len(panels)} panels, but pair {pair.id} needs panels {pair.first} and "
            f"{pair.second}: restore the {grids.table(review.run)} that the pairs were cut from"
        )
    return panels[pair.first], panels[pair.second]


def command(review: Review, thresholds: Thresholds) -> str | None:
    """Return the command that applies these thresholds to the run.

    Return None if floor, ceiling and minimum score are the run's own.
    """
    old, new = asdict(review.thresholds), asdict(thresholds)
    flags = [
        f"--{name.replace('_', '-')} {new[name]:g}"
        for name in ("floor", "ceiling", "minimum_score")
        if new[name] != old[name]
    ]
    return f"python -m train.curate RUN --redecide {' '.join(flags)}" if flags else None
