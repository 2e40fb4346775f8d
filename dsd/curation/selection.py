"""Selection of a run's pairs for a dataset, with their order and texts: the run's files joined.

The judged pairs are the training dataset. The pairs that passed only the similarity thresholds, and all
pairs, are datasets to compare it with, made equal in size by a sample that depends only on seed and id.
"""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import ClassVar, NamedTuple

from dsd.curation import judge
from dsd.curation.captions import GRID, Caption, both_orders, caption_id, grid_words
from dsd.curation.judge import Pair
from dsd.curation.licenses import UNKNOWN, license_of, strictest
from dsd.curation.verdict import KEEP, TOO_ALIKE, TOO_DIFFERENT
from dsd.files import jsonl
from dsd.files.jsonl import Record, Row, RunError
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.recipes import IDENTITY, RECIPES, Recipe
from dsd.model.origin import FREE

WHICH = ("judge", "floor", "all")
WORDS = ("written", "grid")
IN_WORLD = {name for name, recipe in RECIPES.items() if recipe.in_world}
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
    trigger: str = ""  # begins every caption and instruction that does not contain it

    def __post_init__(self) -> None:
        for name, allowed in (("which", WHICH), ("words", WORDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if (rows := self.max_rows) is not None and (rows < 2 or rows % 2):
            raise ValueError(f"max_rows must be even, because both orders of a pair go together, got {rows}")
        if self.labels and self.which != "judge":
            raise ValueError(f"labels overrule the judge, so which must be 'judge', got {self.which!r}")
        if self.trigger != " ".join(self.trigger.split()):
            raise ValueError(f"trigger must be words with single spaces between them, got {self.trigger!r}")

    def flags(self) -> list[str]:
        """Return the command line options of `train.dataset` that differ from the defaults."""
        names = {"which": "only", "max_rows": "max-rows"}
        changes = {name: value for name, value in asdict(self).items() if value != getattr(Choice, name)}
        options = {f"--{names.get(name, name)}": value for name, value in changes.items()}
        return [name if value is True else f"{name} {quote(str(value))}" for name, value in options.items()]

    def mark(self, text: str) -> str:
        """Return the text with the trigger in it, at its start if it was not there."""
        if not self.trigger or re.search(rf"(?<!\w){re.escape(self.trigger)}(?!\w)", text):
            return text
        return f"{self.trigger}, {text}"

    def lot(self, name: str) -> str:
        """Return a sort key, random but fixed by seed and id: a larger sample contains every smaller one."""
        return hashlib.sha256(f"{self.seed} {name}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Writer(Record):
    """What is read of a row of `prompts.jsonl`: who wrote its subject; earlier versions did not say."""

    OPTIONAL: ClassVar = frozenset({"writer"})

    writer: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The rows that the earlier stages wrote."""

    folder: Path
    grids: dict[str, Grid]
    pairs: list[Pair]
    captions: dict[str, Caption]
    labels: dict[str, str]
    writers: dict[str, str]  # prompt -> its writer, where prompts.jsonl is there


class Item(NamedTuple):
    """A row of the dataset without its two images, and the panels to cut them from."""

    row: Row
    grid: Grid
    conditioning: int
    target: int


def read_run(folder: Path) -> Run:
    """Read the rows of a run; raise RunError, naming the command to run, if a file is missing."""
    for path, command in ((grids.table(folder), "train.grids"), (folder / "pairs.jsonl", "train.curate")):
        if not path.exists() and not jsonl.shards(path):
            raise RunError(f"there is no {path}: python -m {command} makes it")
    return Run(
        folder=folder,
        grids={grid.id: grid for grid in grids.read_grids(folder)},
        pairs=jsonl.read_records(folder / "pairs.jsonl", Pair),
        captions={row.id: row for row in jsonl.read_records(folder / "captions.jsonl", Caption)},
        labels=judge.labels(folder),
        writers={row.id: row.writer for row in jsonl.read_records(folder / "prompts.jsonl", Writer)},
    )


def find_recipe(run: Run) -> Recipe:
    """Return the recipe of a run's grids, which are of one task; that of identity if it is not known."""
    return RECIPES.get(next(iter(run.grids.values())).recipe, IDENTITY)


def select(run: Run, choice: Choice) -> list[Item]:
    """Return the dataset's rows in order, without images; raise RunError for rows that do not match."""
    labels, pairs = run.labels if choice.labels else {}, run.pairs
    if choice.which == "judge":
        pairs = [pair for pair in pairs if labels.get(pair.id, pair.verdict) == KEEP]
    elif choice.which == "floor":
        pairs = [pair for pair in pairs if pair.reason not in (TOO_DIFFERENT, TOO_ALIKE)]
    if choice.max_rows is not None:
        pairs = sorted(pairs, key=lambda pair: choice.lot(pair.id))[: choice.max_rows // 2]
    items = [item for pair in pairs for item in _items(pair, run, choice)]
    if choice.which == "judge" and choice.words == "written":
        _check_captions(pairs, run)
    return sorted(items, key=lambda item: choice.lot(item.row["id"]) if choice.shuffle else item.row["id"])


def find_grid(pair: Pair, run: Run) -> Grid:
    """Return the grid of a pair; raise RunError if the run does not have it, or it lacks these panels."""
    grid = run.grids.get(pair.grid)
    if grid is None:
        raise RunError(
            f"pair {pair.id} is of a grid that grids.jsonl does not have: run train.grids again, which draws "
            "what is missing"
        )
    if not 0 <= min(pair.first, pair.second) <= max(pair.first, pair.second) < len(grid.places):
        raise RunError(f"pair {pair.id} is of panels that its grid does not have: delete its row and rerun")
    return grid


def _items(pair: Pair, run: Run, choice: Choice) -> list[Item]:
    """Return two items: each panel of the pair is the conditioning image once and the target once."""
    grid, items = find_grid(pair, run), []
    for conditioning, target in both_orders([(pair.first, pair.second)]):
        name = caption_id(grid.id, conditioning, target)
        caption = run.captions.get(name) if choice.words == "written" else None
        if caption is None:
            words, instruction = grid_words(grid, target)
            caption = Caption(id=name, caption=words, instruction=instruction, cut=False, writer=GRID)
        caption = replace(
            caption, caption=choice.mark(caption.caption), instruction=choice.mark(caption.instruction)
        )
        row = _row(pair, grid, caption)
        row["license"] = strictest(part_licenses(pair, grid, caption.writer, run).values())
        items.append(Item(row, grid, conditioning, target))
    return items


def _row(pair: Pair, grid: Grid, caption: Caption) -> Row:
    row = {"id": caption.id, "caption": caption.caption, "instruction": caption.instruction}
    row["caption_writer"] = caption.writer
    row |= {
        name: getattr(grid, name) for name in ("subject", "prompt", "seed", "generator", "generator_hash")
    }
    row |= {"grid": grid.id, "generator_license": license(grid)}
    row |= {name: getattr(pair, name) for name in ("judge", "reason", "similarity")}
    return row | {"scores": json.dumps(pair.scores) if pair.scores else None}


def part_licenses(pair: Pair, grid: Grid, captioner: str, run: Run) -> dict[str, str]:
    """Return the license of everything that a row is made by.

    The drawn world has reference captions of its own; those of other recipes are the user's.
    """
    writer = run.writers.get(grid.id, run.writers.get(grids.prompt_id(grid.id), ""))
    return {
        f"generator {grid.generator}": license(grid),
        f"writer {writer or 'of the prompts'}": license_of(writer),
        f"judge {pair.judge}": license_of(pair.judge),
        f"captions by {captioner}": license_of(captioner),
        "reference captions": FREE if grid.recipe in IN_WORLD else UNKNOWN,
    }


def license(grid: Grid) -> str:
    """Return the license of a grid's images.

    FLUX.1-dev and its derivatives are recognized by the generator's name and always non-commercial.
    """
    return FLUX_DEV if re.search(r"flux.*dev", grid.generator.lower()) else grid.license


def _check_captions(pairs: list[Pair], run: Run) -> None:
    """Raise RunError if a pair that the judge kept has no caption, because two kinds of texts would mix.

    Pairs kept only by a person's label get no caption.
    """
    kept = [(pair.grid, [(pair.first, pair.second)]) for pair in pairs if pair.is_kept]
    names = [caption_id(grid, *order) for grid, panels in kept for order in both_orders(panels)]
    missing = [name for name in names if name not in run.captions]
    if missing:
        raise RunError(
            f"{len(missing)} of {len(names)} rows have no caption yet, such as {missing[0]}: run "
            "train.curate again without --no-captions, or use the grids' own words with --words grid"
        )


def counts(run: Run) -> dict[str, Counter]:
    """Return the numbers on a dataset's card: grids by outcome and pairs by reason."""
    judged = {pair.grid for pair in run.pairs}
    outcomes = Counter(
        f"rejected: {grid.rejected}" if grid.rejected else "judged" if grid.id in judged else "not judged yet"
        for grid in run.grids.values()
    )
    return {"grids": outcomes, "pairs": Counter(pair.reason for pair in run.pairs)}
