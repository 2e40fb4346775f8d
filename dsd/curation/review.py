"""Review of a judged run: decide again with other thresholds, filter, and show page by page.

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
from dsd.curation.verdict import DROP, KEEP, REASONS, SAME, Thresholds, decide
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.grids import grids

ALL, UNLABELLED, LABELLED, DISAGREE = "all", "unlabelled", "labelled", "disagree"
NEEDED = frozenset(
    "id grid first second similarity answers subject descriptions differences scores votes lowest verdict "
    "reason judge thresholds".split()
)
Decisions = list[tuple[str, str]]  # verdict and reason of each pair


@dataclass(frozen=True, kw_only=True, eq=False)
class Review:
    """A run's pairs in the order of their ids, and the grids that they were cut from."""

    run: Path
    pairs: list[Row]
    grids: dict[str, Row]

    @property
    def thresholds(self) -> Thresholds:
        """Return the thresholds that the run was judged with."""
        return Thresholds(**self.pairs[0]["thresholds"])

    @cached_property
    def decided(self) -> Callable[[Thresholds], Decisions]:
        """Return a function from thresholds to the decisions on all pairs.

        The function caches its last four results, so that turning a page is fast.
        """
        return lru_cache(maxsize=4)(lambda thresholds: [decide(pair, thresholds) for pair in self.pairs])


def open_review(run: Path) -> Review:
    """Open a judged run; raise RunError if nothing has been judged yet or a row lacks a field."""
    pairs = judge.read_pairs(run)
    for pair in pairs:
        if not pair.keys() >= NEEDED:
            lacking = ", ".join(sorted(NEEDED - pair.keys()))
            raise RunError(
                f"pair {pair.get('id')} of {run} lacks {lacking}: it was edited, or is of another version"
            )
    return Review(run=run, pairs=pairs, grids={grid["id"]: grid for grid in jsonl.read_all(grids.table(run))})


def changed(run: Path) -> tuple:
    """Return a fingerprint that changes when pairs or grids are written."""
    tables = (run / "pairs.jsonl", grids.table(run))
    files = [file for table in tables for file in (table, *jsonl.shards(table)) if file.exists()]
    return tuple((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def counts(decided: Decisions) -> dict[str, int]:
    """Return the number of pairs by reason, in the order of `REASONS`; `SAME` counts the kept pairs."""
    found = Counter(reason for _, reason in decided)
    return {reason: found[reason] for reason in REASONS if found[reason] or reason == SAME}


def select(review: Review, decided: Decisions, show: str, labels: Mapping[str, str]) -> list[int]:
    """Return the indices of the pairs to show.

    `show` is ALL, KEEP, DROP, UNLABELLED, LABELLED, DISAGREE or one of the reasons.
    """
    if show == ALL:
        return list(range(len(decided)))
    if show in (KEEP, DROP):
        return [place for place, (verdict, _) in enumerate(decided) if verdict == show]
    if show in REASONS:
        return [place for place, (_, reason) in enumerate(decided) if reason == show]
    said = [labels.get(pair["id"]) for pair in review.pairs]
    if show == UNLABELLED:
        return [place for place, label in enumerate(said) if label is None]
    if show == LABELLED:
        return [place for place, label in enumerate(said) if label is not None]
    if show == DISAGREE:
        return [place for place, label in enumerate(said) if label not in (None, decided[place][0])]
    raise ValueError(f"there is no selection {show!r}")


def agreement(review: Review, decided: Decisions, labels: Mapping[str, str]) -> Row:
    """Return the agreement of labels with these decisions, as counted by `dsd.curation.judge.agreement`."""
    now = [
        {"id": pair["id"], "verdict": verdict}
        for pair, (verdict, _) in zip(review.pairs, decided, strict=True)
        if pair["id"] in labels
    ]
    return judge.agreement(now, dict(labels))


def images(review: Review, pair: Row) -> tuple[Image.Image, Image.Image]:
    """Return the two panels of a pair; raise RunError if they are missing."""
    grid = review.grids.get(pair["grid"])
    if grid is None:
        raise RunError(f"grid {pair['grid']} is not in grids.jsonl")
    try:
        panels = judge.open_panels(review.run, grid)
        return panels[pair["first"]], panels[pair["second"]]
    except IndexError as error:
        raise RunError(f"grid {grid['id']} has no panels {pair['first']} and {pair['second']}") from error


def command(review: Review, thresholds: Thresholds) -> str | None:
    """Return the command that applies these thresholds to the run.

    Return None if floor, ceiling and minimum score are the run's own.
    """
    was, now = asdict(review.thresholds), asdict(thresholds)
    flags = [
        f"--{name.replace('_', '-')} {now[name]:g}"
        for name in ("floor", "ceiling", "minimum_score")
        if now[name] != was[name]
    ]
    return f"python -m train.curate RUN --redecide {' '.join(flags)}" if flags else None
