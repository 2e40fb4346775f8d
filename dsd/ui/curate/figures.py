"""Figures of the Results view: which files hold a run's curves, scores, samples and benefit of curation.

`train.train`, `train.evaluate` and `train.curate --worth` write these files; nothing is measured here.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd.curation.judge import Pair
from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.training.curves import Series, read_series

BESIDE = ("student", "scores")  # folders beside a run, as docs/training.md names them
LEVELS = ("low", "high", "chance", "ceiling")
MEASURES = {  # name in curves.jsonl -> its meaning for visitors
    "identity": "same subject as in the reference",
    "named": "traits that words can name",
    "unnamed": "traits that words cannot name",
    "following": "place, pose and accessory as asked",
    "product": "same subject and as asked, multiplied",
    "debiased": "same subject, as asked and not copied, multiplied",
    "copy": "copied from the reference, though not asked for",
    "clip_i": "alike to the reference (CLIP)",
}


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is known of a run; None or empty where its file is missing."""

    curves: Series
    scores: Row | None  # the last validation of the training
    tables: str | None  # Markdown of `train.evaluate`
    samples: list[Path]
    worth: Row | None


def find(run: Path | None, *, own: bool) -> Figures:
    """Return the figures of a run, or those that are shipped beside the sample run.

    Raise ValueError for a file that cannot be read.
    """
    folders = list(_folders(run, own=own)) if run else []
    rows = jsonl.read(file) if (file := _first(folders, "curves.jsonl")) else []
    pages = _first(folders, "scores.md")
    worth = _first(folders, "worth.json")
    return Figures(
        curves=read_series(rows),
        scores=next((row for row in reversed(rows) if "identity" in row or "clip_i" in row), None),
        tables=pages.read_text(encoding="utf-8") if pages else None,
        samples=[image for folder in folders for image in _samples(folder)],
        worth=_read(worth) if worth else None,
    )


def _folders(run: Path, *, own: bool) -> Iterator[Path]:
    yield run
    if not own:
        yield run.parent
        return
    yield from sorted(path for path in run.iterdir() if path.is_dir())
    yield from (run.parent / name for name in BESIDE if (run.parent / name).is_dir())


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _samples(folder: Path) -> list[Path]:
    """Return a folder's sample sheets: its final one, or all if there is none."""
    final, sheets = folder / "samples.png", (folder / "samples").glob("*")
    return [final] if final.is_file() else sorted(one for one in sheets if one.suffix in (".png", ".webp"))


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON ({error}): write it again") from error


def is_current(worth: Row, pairs: Sequence[Pair]) -> bool:
    """Return whether the benefit was measured on as many pairs, kept and not, as there are now."""
    measured = [worth["true_pairs"][name]["pairs"] for name in ("of all pairs", "of the kept")]
    return measured == [len(pairs), sum(pair.is_kept for pair in pairs)]
