"""Which pairs of a run make a dataset, in which order, with which words: the run's files joined.

Judged pairs make the dataset to train on; those that only passed the cheap floor, or all of them, make those
to compare it with. Sizes are made equal by a draw that depends on nothing but seed and id.
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
WORDS = ("written", "sheet")
FLUX_DEV = "FLUX.1 [dev] Non-Commercial License"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which pairs of a run, with which words, in which order."""

    which: str = "judge"  # kept by the judge; or all that passed the cheap floor and ceiling; or all pairs
    words: str = "written"  # captions where there are any; or always the sheet's own words
    labels: bool = False  # a person's verdict overrules the judge's
    max_rows: int | None = None  # at most so many, drawn by `seed`; even, because both orders go together
    shuffle: bool = False  # an order drawn by `seed` in place of the order of the ids
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
        """What differs from the defaults, by the command line's names."""
        names = {"which": "only", "max_rows": "max-rows"}
        fields = asdict(self).items()
        return {names.get(name, name): value for name, value in fields if value != getattr(Choice, name)}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the stages before left on disk."""

    folder: Path
    sheets: dict[str, Row]
    pairs: list[Row]
    captions: dict[str, Row]
    labels: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A row of the dataset, all but its two pictures, and where those are to be cut."""

    row: Row
    sheet: Row
    conditioning: int
    target: int


def read_run(folder: Path) -> Run:
    """RunError says which command is still to be run."""
    for name, command in (("grids/grids.jsonl", "train.grids"), ("pairs.jsonl", "train.curate")):
        path = folder / name
        if not path.exists() and not jsonl.shards(path):
            raise RunError(f"there is no {path}: python -m {command} makes it")
    return Run(
        folder=folder,
        sheets={row["id"]: row for row in jsonl.read_all(folder / "grids" / "grids.jsonl")},
        pairs=jsonl.read_all(folder / "pairs.jsonl"),
        captions={row["id"]: row for row in jsonl.read_all(folder / "captions.jsonl")},
        labels=judge.labels(folder),
    )


def select(run: Run, choice: Choice) -> list[Item]:
    """The dataset's rows in their order, without pictures; RunError for rows that do not fit together."""
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
    """Draws a row's lot from seed and id alone, so that a larger sample contains every smaller one."""
    return lambda row: hashlib.sha256(f"{choice.seed} {row['id']}".encode()).hexdigest()


def _both_orders(pair: Row, run: Run, choice: Choice) -> Iterator[Item]:
    """Each panel of the pair is once the picture shown and once the one to be drawn."""
    if pair["grid"] not in run.sheets:
        raise RunError(
            f"pair {pair['id']} is of a sheet that grids.jsonl does not have: run train.grids again, which "
            "draws what is missing"
        )
    sheet = run.sheets[pair["grid"]]
    for one, other in _orders(pair):
        name = f"{sheet['id']}-{one}-{other}"
        words = run.captions.get(name) if choice.words == "written" else None
        words = words or {**captions.sheet_words(sheet, other), "writer": captions.SHEET}
        row = _row(name, pair, sheet, words)
        yield Item(row=row, sheet=sheet, conditioning=one, target=other)


def _orders(pair: Row) -> tuple[tuple[int, int], tuple[int, int]]:
    return (pair["first"], pair["second"]), (pair["second"], pair["first"])


def _row(name: str, pair: Row, sheet: Row, words: Row) -> Row:
    return {
        "id": name,
        "caption": words["caption"],
        "instruction": words["instruction"],
        "caption_writer": words["writer"],
        **{key: sheet[key] for key in ("subject", "prompt", "seed", "generator", "generator_hash")},
        "grid": sheet["id"],
        "generator_licence": licence(sheet),
        **{key: pair[key] for key in ("judge", "reason", "similarity")},
        "scores": json.dumps(pair["scores"]) if pair["scores"] else None,
    }


def licence(sheet: Row) -> str:
    """Of what the generator drew. FLUX.1-dev and its kin stay non-commercial whatever name they go by."""
    is_dev = re.search(r"flux.*dev", sheet["generator"].lower())
    return FLUX_DEV if is_dev else sheet["licence"]


def _check_captioned(pairs: list[Row], run: Run) -> None:
    """What the judge kept is captioned first, or a dataset would mix two kinds of words unasked."""
    names = [
        f"{pair['grid']}-{one}-{other}"
        for pair in pairs
        if pair["verdict"] == KEEP  # those kept by hand alone were never up for a caption
        for one, other in _orders(pair)
    ]
    missing = [name for name in names if name not in run.captions]
    if missing:
        raise RunError(
            f"{len(missing)} of {len(names)} rows have no caption yet, such as {missing[0]}: run "
            "train.curate again, without --no-captions, or take the sheets' own words with --words sheet"
        )


# ---------------------------------------------------------------- counting


def counts(run: Run) -> dict[str, Counter]:
    """Sheets by fate and pairs by reason, the numbers on a dataset's card."""
    judged = {pair["grid"] for pair in run.pairs}
    return {
        "sheets": Counter(_fate(sheet, judged) for sheet in run.sheets.values()),
        "pairs": Counter(pair["reason"] for pair in run.pairs),
    }


def _fate(sheet: Row, judged: set[str]) -> str:
    if sheet["rejected"]:
        return f"rejected: {sheet['rejected']}"
    return "judged" if sheet["id"] in judged else "not judged yet"
