"""Reference captions: topics from which the subjects and places of prompts are written.

Without them, a language model asked for many prompts repeats the same few. They come from a text file (one
per line), JSON lines, parquet, or the drawn world, which supplies them without end.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from dsd.files import parquet
from dsd.pocket.words import caption
from dsd.pocket.world import sample_context, sample_critter

COLUMNS = ("caption", "text")  # the usual names of the caption column
POCKET = 1  # separates this use of a seed from other uses
Numbered = Iterator[tuple[int, object]]  # line or row number, value


class CaptionError(ValueError):
    """Raised when a caption file cannot be used; the message states the remedy."""


def pocket(seed: int) -> Iterator[str]:
    """Yield captions of the drawn world without end, from the seed alone, without held-out critters."""
    for index in count():
        rng = np.random.default_rng((seed, index, POCKET))
        yield caption(sample_critter(rng), sample_context(rng))


def read(path: Path, column: str | None = None) -> Iterator[str]:
    """Return the captions of a .txt, .jsonl or .parquet file in order, each on one line.

    Empty captions are returned as "". `column` is the column of a table, `caption` or `text` by default.
    Raise CaptionError if the file or column is missing or empty, or if a line cannot be read; the message
    names the line. Errors in the content are raised when the iterator reaches them.
    """
    if not path.is_file():
        raise CaptionError(f"there is no caption file {path}: check the name")
    if path.suffix == ".txt":
        if column:
            raise CaptionError(f"a text file has no columns: leave out --column {column}, or use .jsonl")
        return _read_texts(path, _read_lines(path))
    if path.suffix == ".jsonl":
        return _read_texts(path, _read_json(path, column))
    if path.suffix == ".parquet":
        return _read_texts(path, _read_parquet(path, column))
    raise CaptionError(f"captions must be a .txt, .jsonl or .parquet file, got {path}")


def _read_texts(path: Path, values: Iterable[tuple[int, object]]) -> Iterator[str]:
    is_empty = True
    for number, value in values:
        if not isinstance(value, str | None):
            raise CaptionError(f"{path} line {number}: a caption must be text, got {value!r:.60}")
        text = " ".join((value or "").split())
        is_empty = is_empty and not text
        yield text
    if is_empty:
        raise CaptionError(f"{path} is empty: write one caption per line")


def _read_lines(path: Path) -> Numbered:
    """Yield the lines, numbered from 1; only a newline ends a line, as captions may hold other separators."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"{path} line {number} is not UTF-8, got {line[:60]!r}"
                raise CaptionError(f"{problem}; save the file as UTF-8") from error


def _read_json(path: Path, column: str | None) -> Numbered:
    for number, line in _read_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"{path} line {number} is not JSON, got {line[:60]!r}"
            raise CaptionError(f"{problem}; write one JSON object per line") from error
        if not isinstance(row, dict):
            raise CaptionError(f'{path} line {number} must look like {{"caption": "..."}}, got {line[:60]!r}')
        yield number, row[_choose_column(f"{path} line {number}", list(row), column)]


def _read_parquet(path: Path, column: str | None) -> Numbered:
    file = parquet.open_file(str(path))
    name, number = _choose_column(str(path), file.schema_arrow.names, column), 0
    for group in range(file.num_row_groups):
        try:
            values = parquet.read_group(file, group, [name])[name].to_pylist()
        except ValueError as error:
            problem = f"row group {group} of {path} is damaged ({error})"
            raise CaptionError(f"{problem}: make or download the file again") from error
        yield from enumerate(values, number + 1)
        number += len(values)


def _choose_column(where: str, names: list[str], column: str | None) -> str:
    candidates = (column,) if column else COLUMNS
    if known := [name for name in candidates if name in names]:
        return known[0]
    remedy = f"only {', '.join(names)}: choose one with --column" if names else "and no other column: add one"
    raise CaptionError(f"{where} has no column {' or '.join(candidates)}, {remedy}")
