"""Rows for tests of files of rows, and writing them."""

from collections.abc import Sequence
from pathlib import Path

from dsd.files import jsonl

ROWS = [{"id": f"{i:06}", "text": "Grüße, 世界 " * 40} for i in range(60)]


def append(path: Path, *rows: jsonl.Row) -> None:
    with jsonl.writing(path) as write:
        write(list(rows))


def filled(path: Path, rows: Sequence[jsonl.Row] = ROWS) -> Path:
    append(path, *rows)
    return path
