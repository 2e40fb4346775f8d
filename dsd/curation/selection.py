"""Selection of a run's pairs for a dataset, with their order and texts: the run's files joined.

The judged pairs are the training dataset. The pairs that passed only the similarity thresholds, and all
pairs, are datasets to compare it with. Their sizes are made equal by a sample that depends only on seed and
id.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dsd.curation import captions, judge
from dsd.curation.verdict import KEEP, TOO_ALIKE, TOO_DIFFERENT
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError

WHICH = ("judge", "floor", "all")
WORDS = ("written", "grid")
FLUX_DEV = "FLUX.1 [dev] Non-Commercial License"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The pairs to select from a run, their texts and their order."""

    which: str = "judge"  # kept by the judge; within the similarity thresholds (floor); or all pairs
    words: str = "written"  # captions where they exist; or always the words of the grid's prompt
    labels: bool = False  # a person's verdict overrules the judge's
    max_rows: int | None = None  # at most this many, sampled by `seed`; even, because each pair gives two
    shuffle: bool = False  # order by `seed` instead of by id
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("which", WHICH), ("words", WORDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.max_rows is not None and (self.max_rows < 2 or self.max_rows % 2):
            raise ValueError(
                f"max_rows must be even, because both orders of a pair go together, got {self.max_rows}"
            )
        if self.labels and self.which != "judge":
            raise ValueError(f"labels overrule the judge, who has no say in which={self.which!r}")

    def changed(self) -> dict[str, object]:
        """Return the values that differ from the defaults, by their command-line names."""
        names = {"which": "only", "max_rows": "max-rows"}
        fields = asdict(self).items()
        return {names.get(name, name): value for name, value in fields if value != getattr(Choice, name)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """The rows that the earlier stages wrote."""

    folder: Path
    grids: dict[str, Row]
    pairs: list[Row]
    captions: dict[str, Row]
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A row of the dataset without its two images, and the panels to cut them from."""

    row: Row
    grid: Row
    conditioning: int
    target: int


def read_run(folder: Path) -> Run:
    """Read the rows of a run; raise RunError, naming the command to run, if a file is missing."""
    for name, command in (("grids/grids.jsonl", "train.grids"), ("pairs.jsonl", "train.curate")):
        path = folder / name
        if not path.exists() and not jsonl.shards(path):
            raise RunError(f"there is no {path}: python -m {command} makes it")
    return Run(
        folder=folder,
        grids={row["id"]: row for row in jsonl.read_all(folder / "grids" / "grids.jsonl")},
        pairs=jsonl.read_all(folder / "pairs.jsonl"),
        captions={row["id"]: row for row in jsonl.read_all(folder / "captions.jsonl")},
        labels=judge.labels(folder),
    )


def select(run: Run, choice: Choice) -> list[Item]:
    """Return the dataset's rows in order, without images; raise RunError for rows that do not match."""
    pairs = [pair for pair in run.pairs if _is_chosen(pair, run, choice)]
    if choice.max_rows is not None:
        pairs = sorted(pairs, key=_lot(choice))[: choice.max_rows // 2]
    try:
        items = [item for pair in pairs for item in _both_orders(pair, run, choice)]
    except (KeyError, IndexError) as error:
        raise RunError(
            f"a row of {run.folder} lacks what it should have ({error!r}): it was edited, or another version "
            "wrote it"
        ) from error
    if choice.which == "judge" and choice.words == "written":
        _check_captioned(pairs, run)
    return sorted(items, key=lambda item: _lot(choice)(item.row) if choice.shuffle else item.row["id"])


def _is_chosen(pair: Row, run: Run, choice: Choice) -> bool:
    if choice.which == "judge":
        label = run.labels.get(pair["id"]) if choice.labels else None
        return (label or pair["verdict"]) == KEEP
    return choice.which == "all" or pair["reason"] not in (TOO_DIFFERENT, TOO_ALIKE)


def _lot(choice: Choice) -> Callable[[Row], str]:
    """Return a sort key that is random but depends only on seed and id.

    A larger sample therefore contains every smaller one.
    """
    return lambda row: hashlib.sha256(f"{choice.seed} {row['id']}".encode()).hexdigest()


def _both_orders(pair: Row, run: Run, choice: Choice) -> Iterator[Item]:
    """Yield two items: each panel of the pair is the conditioning image once and the target once."""
    if pair["grid"] not in run.grids:
        raise RunError(
            f"pair {pair['id']} is of a grid that grids.jsonl does not have: run train.grids again, which "
            "draws what is missing"
        )
    grid = run.grids[pair["grid"]]
    for one, other in _orders(pair):
        name = f"{grid['id']}-{one}-{other}"
        words = run.captions.get(name) if choice.words == "written" else None
        words = words or {**captions.grid_words(grid, other), "writer": captions.GRID}
        row = _row(name, pair, grid, words)
        yield Item(row=row, grid=grid, conditioning=one, target=other)


def _orders(pair: Row) -> tuple[tuple[int, int], tuple[int, int]]:
    return (pair["first"], pair["second"]), (pair["second"], pair["first"])


def _row(name: str, pair: Row, grid: Row, words: Row) -> Row:
    return {
        "id": name,
        "caption": words["caption"],
        "instruction": words["instruction"],
        "caption_writer": words["writer"],
        **{key: grid[key] for key in ("subject", "prompt", "seed", "generator", "generator_hash")},
        "grid": grid["id"],
        "generator_license": license(grid),
        **{key: pair[key] for key in ("judge", "reason", "similarity")},
        "scores": json.dumps(pair["scores"]) if pair["scores"] else None,
    }


def license(grid: Row) -> str:
    """Return the license of a grid's images.

    FLUX.1-dev and its derivatives are recognized by the generator's name and always non-commercial.
    """
    is_dev = re.search(r"flux.*dev", grid["generator"].lower())
    return FLUX_DEV if is_dev else grid["license"]


def _check_captioned(pairs: list[Row], run: Run) -> None:
    """Raise RunError if a pair that the judge kept has no caption.

    The dataset would otherwise mix two kinds of texts.
    """
    names = [
        f"{pair['grid']}-{one}-{other}"
        for pair in pairs
        if pair["verdict"] == KEEP  # pairs kept only by a person's label get no caption
        for one, other in _orders(pair)
    ]
    missing = [name for name in names if name not in run.captions]
    if missing:
        raise RunError(
            f"{len(missing)} of {len(names)} rows have no caption yet, such as {missing[0]}: run "
            "train.curate again, without --no-captions, or take the grids' own words with --words grid"
        )


# ---------------------------------------------------------------- counting


def counts(run: Run) -> dict[str, Counter]:
    """Return the numbers on a dataset's card: grids by outcome and pairs by reason."""
    judged = {pair["grid"] for pair in run.pairs}
    return {
        "grids": Counter(_fate(grid, judged) for grid in run.grids.values()),
        "pairs": Counter(pair["reason"] for pair in run.pairs),
    }


def _fate(grid: Row, judged: set[str]) -> str:
    if grid["rejected"]:
        return f"rejected: {grid['rejected']}"
    return "judged" if grid["id"] in judged else "not judged yet"
