"""JSON Lines files with atomic appends by one writer at a time, and typed rows.

A killed command leaves at most one incomplete line, which the next command drops. Each row ends with a
checksum of its line. Each of several processes writes its own shard (`grids.0.jsonl`, `grids.1.jsonl`);
`merge` combines them.
"""

import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from dsd.files import old_names, typed
from dsd.files.whole import RunError, explain_errors, flush, locked, write_atomic

Row = dict[str, Any]  # one line of a file
CHECKSUM = "row_crc32"  # the last key of a row on disk; rows of version 0 have none
_ENDING = re.compile(rb', "row_crc32": "([0-9a-f]{8})"\}$')


@dataclass(frozen=True, kw_only=True)
class Record:
    """A typed row. Each kind of row is a subclass with the fields of its file."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset()  # fields that a row on disk may lack

    id: str

    @classmethod
    def from_json(cls, row: Row) -> Self:
        """Return the row as a record, ignoring other keys; raise RunError for missing or wrong fields."""
        hints = typed.hints(cls)
        if missing := hints.keys() - cls.OPTIONAL - row.keys():
            raise RunError(f"row {row.get('id')!r:.60} lacks {', '.join(sorted(missing))}: {EDITED}")
        values = {name: value for name, value in row.items() if name in hints}
        for name, value in values.items():
            if not typed.fits(value, hints[name]):
                wrong = f"{name} {value!r:.60} of the wrong type, not {typed.name(hints[name])}"
                raise RunError(f"row {row.get('id')!r:.60} has {wrong}: {EDITED}")
            if is_dataclass(hints[name]):
                values[name] = _nested(name, value, hints[name])
        return cls(**values)

    def to_json(self) -> Row:
        return asdict(self)


Kind = TypeVar("Kind")
EDITED = "it was edited, or written by another version"


def _nested(name: str, value: Row, kind: type) -> Any:
    try:
        return kind(**value)
    except (TypeError, ValueError) as error:
        raise RunError(f"{name} {value!r:.60} cannot be used ({error}): {EDITED}") from error


# ---------------------------------------------------------------- reading


def read(path: Path) -> list[Row]:
    """Return all complete rows of a file, or [] if there is no file; skip an incomplete last line.

    Raise RunError, with the file and line number, for a line that is damaged or not a JSON object.
    """
    return [row for _, row in _lines(path)]


def read_all(path: Path) -> list[Row]:
    """Return the rows of `path` and its shards, sorted by id, one per id."""
    rows = {}
    for where, row in _all_lines(path):
        if not isinstance(row.get("id"), str):
            raise RunError(f"{where} has the id {row.get('id')!r:.60}, which is not a text: {EDITED}")
        rows[row["id"]] = row
    return [rows[key] for key in sorted(rows)]


def read_typed(path: Path, hint: Any) -> list[Row]:
    """Return the rows of a file; raise RunError, with line and field, for one that does not fit the hint."""
    rows = list(_lines(path))
    for where, row in rows:
        _check(row, hint, where)
    return [row for _, row in rows]


def read_object(path: Path, hint: Any) -> Any:
    """Return the JSON value of a whole file; raise RunError, with the field, if it does not fit the hint."""
    return parse_object(path.read_bytes(), hint, str(path))


def parse_object(content: str | bytes, hint: Any, where: str) -> Any:
    """Return a JSON value that fits the hint; raise RunError, naming the field, for another."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is not JSON ({error}): {EDITED}") from error
    _check(value, hint, where)
    return value


def _check(value: Any, hint: Any, where: str) -> None:
    try:
        typed.check(value, hint, where)
    except ValueError as error:
        raise RunError(f"{error}: {EDITED}") from error


def read_records(path: Path, kind: type[Kind]) -> list[Kind]:
    """Return the rows of `path` and its shards as records; raise RunError for a missing or wrong field.

    `kind` is a Record, or another dataclass with an `id` and `from_json`.
    """
    records = {}
    for where, row in _all_lines(path):
        try:
            record = kind.from_json(row)
        except RunError as error:
            raise RunError(f"{where} cannot be used: {error}") from error
        records[record.id] = record
    return [records[key] for key in sorted(records)]


def _all_lines(path: Path) -> Iterator[tuple[str, Row]]:
    for file in (path, *shards(path)):
        yield from _lines(file)


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield file and line number, as text, and the row of each complete line."""
    if path.exists():
        *lines, _ = path.read_bytes().split(b"\n")  # text after the last newline is an incomplete row
        for number, line in enumerate(lines, 1):
            where = f"{path} line {number}"
            yield where, parse(line, where)


def parse(line: bytes, where: str) -> Row:
    """Return a line's row; raise RunError if it is not one or does not match its checksum."""
    ending = _ENDING.search(line)
    content = line[: ending.start()] + b"}" if ending else line
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise RunError(f"{where} is not a row: {line[:60]!r}; delete that line and run again")
    if CHECKSUM in row or (ending and int(ending[1], 16) != zlib.crc32(content)):
        raise RunError(
            f"{where} does not match its checksum: {line[:60]!r}; delete that line and run again, or only "
            f"its {CHECKSUM} if you edited it"
        )
    return old_names.translate(row)


# ---------------------------------------------------------------- writing


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the rows of a file, all at once."""
    write_atomic(path, b"".join(map(to_line, rows)))


def to_line(row: Row) -> bytes:
    """Return a row as a line that ends with its checksum."""
    content = json.dumps(row, ensure_ascii=False).encode()
    return content[:-1] + b', "%s": "%08x"}\n' % (CHECKSUM.encode(), zlib.crc32(content))


@contextmanager
def writing(path: Path) -> Iterator[Callable[[list[Row]], None]]:
    """Lock `path` and yield `append(rows)`, which writes all rows or none; raise RunError if locked."""
    with locked(path):
        yield lambda rows: _append(path, rows)


def _append(path: Path, rows: list[Row]) -> None:
    # Unbuffered: on a full disk, a buffer would retry the failed write when the file is closed.
    with explain_errors(path), path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if end and file.read(1) != b"\n":  # a killed command left an incomplete line
            end = path.read_bytes().rfind(b"\n") + 1
            file.truncate(end)
        rest = memoryview(b"".join(map(to_line, rows)))
        try:
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
            if not end:
                flush(path.parent)
        except OSError:
            file.truncate(end)  # leave no partial row on a full disk
            raise


# ---------------------------------------------------------------- several processes, killed and resumed


def check_same(where: str | Path, row: Row, settings: Row, remedy: str = "use those again") -> None:
    """Raise RunError, naming the differences, if a row on disk was made with other settings."""
    changes = {name: value for name, value in settings.items() if row.get(name) != value}
    if changes:
        differences = "; ".join(
            f"{name} was {row.get(name)!r}, now {value!r}" for name, value in changes.items()
        )
        raise RunError(f"{where} was made with other settings ({differences}): {remedy}, or another folder")


def shards(path: Path) -> list[Path]:
    """Return the shards of `path`: `grids.0.jsonl`, `grids.1.jsonl` ... next to `grids.jsonl`."""
    return sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))


def shard(path: Path, process: int) -> Path:
    return path.with_name(f"{path.stem}.{process}{path.suffix}")


def merge(path: Path, *, keep: Callable[[Row], bool] = lambda row: True) -> None:
    """Write all rows, or those to keep, to `path`, sorted by id, and remove the shards.

    Only one process may call this, while no other process writes.
    """
    files = shards(path)
    write_rows(path, filter(keep, read_all(path)))
    for file in files:
        file.unlink()


def split_blocks(ids: list[str], *, batch: int, process: int = 0, processes: int = 1) -> list[list[str]]:
    """Return the blocks of a process: block k is always the same ids and belongs to k % processes."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    starts = range(process * batch, len(ids), processes * batch)
    return [ids[start : start + batch] for start in starts]


@contextmanager
def resuming(
    path: Path,
    blocks: list[list[str]],
    *,
    process: int = 0,
    item_of: Callable[[Row], str] = lambda row: row["id"],
    rows_of: Callable[[str], int] = lambda item: 1,
) -> Iterator[tuple[list[list[str]], Callable[[list[Row]], list[Row]]]]:
    """Lock this process's shard of `path`; yield its unfinished blocks and a function that appends rows.

    The function returns the rows that it wrote, because it leaves out rows that are already on disk. A block
    is always computed as a whole, so the rows are identical, bit for bit, however often the run was killed.
    `item_of(row)` is the id of the item that a row came from, and `rows_of(item)` the number of its rows: an
    item with fewer is not finished, because a kill during a write or a damaged disk took the others.
    """
    with writing(shard(path, process)) as append:
        rows = read_all(path)
        known = {row["id"] for row in rows}
        finished = {item for item, count in Counter(map(item_of, rows)).items() if count >= rows_of(item)}

        def append_new(rows: list[Row]) -> list[Row]:
            new = [row for row in rows if row["id"] not in known]
            append(new)
            return new

        yield [block for block in blocks if not finished.issuperset(block)], append_new
