"""JSON Lines files with atomic appends by one writer at a time, and typed rows.

A killed command leaves at most one incomplete line, which the next command drops. Each of several processes
writes its own shard (`grids.0.jsonl`, `grids.1.jsonl`); `merge` combines them.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from filelock import FileLock, Timeout

from dsd.files import old_names

Row = dict[str, Any]  # one line of a file


class RunError(ValueError):
    """A run folder cannot be read or written; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A typed row. Each kind of row is a subclass with the fields of its file."""

    OPTIONAL: ClassVar[frozenset[str]] = frozenset()  # fields that a row on disk may lack

    id: str

    @classmethod
    def from_json(cls, row: Row) -> Self:
        """Return the row as a record, ignoring other keys; raise RunError if fields are missing."""
        names = {field.name for field in fields(cls)}
        if missing := names - cls.OPTIONAL - row.keys():
            raise RunError(
                f"row {row.get('id')!r} lacks {', '.join(sorted(missing))}: it was edited, or written by "
                "another version"
            )
        return cls(**{name: value for name, value in row.items() if name in names})

    def to_json(self) -> Row:
        return asdict(self)


Kind = TypeVar("Kind", bound=Record)


# ---------------------------------------------------------------- reading


def read(path: Path) -> list[Row]:
    """Return all complete rows of a file, or [] if there is no file; skip an incomplete last line.

    Raise RunError, with the file and line number, for a line that is not a JSON object.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # text after the last newline is an incomplete row
    return [_parse(line, f"{path} line {number}") for number, line in enumerate(lines, 1)]


def read_all(path: Path) -> list[Row]:
    """Return the rows of `path` and its shards, sorted by id, one per id."""
    rows = {row["id"]: row for file in (path, *shards(path)) for row in read(file)}
    return [rows[key] for key in sorted(rows)]


def read_records(path: Path, kind: type[Kind]) -> list[Kind]:
    """Return the rows of `path` and its shards as records; raise RunError for a row that lacks a field."""
    try:
        return [kind.from_json(row) for row in read_all(path)]
    except RunError as error:
        raise RunError(f"{path} cannot be used: {error}") from error


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise RunError(f"{where} is not a row: {line[:60]!r}; delete that line and run again")
    return old_names.translate(row)


# ---------------------------------------------------------------- writing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` after the block, or is removed if that fails."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replace the rows of a file, all at once."""
    write_atomic(path, b"".join(map(to_line, rows)))


def to_line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


@contextmanager
def writing(path: Path) -> Iterator[Callable[[list[Row]], None]]:
    """Lock `path` and yield `append(rows)`, which writes all rows or none; raise RunError if locked."""
    with explain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another command is writing {path}; let it finish or stop it") from error
    try:
        yield lambda rows: _append(path, rows)
    finally:
        lock.release()


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
        except OSError:
            file.truncate(end)  # leave no partial row on a full disk
            raise


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Convert an OSError (disk full, read-only, missing) to a RunError about `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot write {path}: {reason}. Finished work is kept; fix this and rerun") from error


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
) -> Iterator[tuple[list[list[str]], Callable[[list[Row]], list[Row]]]]:
    """Lock this process's shard of `path`; yield its unfinished blocks and a function that appends rows.

    The function returns the rows that it wrote, because it leaves out rows that are already on disk. A block
    is always computed as a whole, so the rows are identical, bit for bit, however often the run was killed.
    `item_of(row)` is the id of the item that a row came from. An item with a row is finished, except for the
    last item of a shard: a kill during a write can leave it with only some of its rows.
    """
    with writing(shard(path, process)) as append:
        rows = read_all(path)
        known = {row["id"] for row in rows}
        last = {item_of(written[-1]) for written in map(read, shards(path)) if written}
        finished = {item_of(row) for row in rows} - last

        def append_new(rows: list[Row]) -> list[Row]:
            new = [row for row in rows if row["id"] not in known]
            append(new)
            return new

        yield [block for block in blocks if not finished.issuperset(block)], append_new
