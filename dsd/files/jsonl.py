"""JSON Lines files with atomic appends by one writer at a time.

A run is a folder of such files. A killed command leaves at most one incomplete line, which the next command
drops. Each of several processes writes its own shard (`grids.0.jsonl`, `grids.1.jsonl`); `merge` combines
them.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dsd.files import old_names

Row = dict[str, object]


class RunError(ValueError):
    """A run folder cannot be read or written; the message says what to do."""


def read(path: Path) -> list[Row]:
    """Return all complete rows of a file, or [] if there is no file; skip an incomplete last line.

    Raise RunError, with the file and line number, for a row that is not JSON.
    """
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # text after the last newline is an incomplete row
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def read_all(path: Path) -> list[Row]:
    """Return the rows of `path` and its shards, sorted by id, one per id."""
    rows = {row["id"]: row for file in (path, *shards(path)) for row in read(file)}
    return [rows[key] for key in sorted(rows)]


def shards(path: Path) -> list[Path]:
    """Return the shards of `path`: `grids.0.jsonl`, `grids.1.jsonl` ... next to `grids.jsonl`."""
    return sorted(path.parent.glob(f"{path.stem}.*{path.suffix}"))


def shard(path: Path, process: int) -> Path:
    return path.with_name(f"{path.stem}.{process}{path.suffix}")


def merge(path: Path, *, keep: Callable[[Row], bool] = lambda row: True) -> None:
    """Write all rows, or those to keep, to `path`, sorted by id, and remove the shards.

    Only one process may call this, while no other process writes.
    """
    rows, files = read_all(path), shards(path)
    write(path, b"".join(_line(row) for row in rows if keep(row)))
    for file in files:
        file.unlink()


@contextmanager
def writing(path: Path) -> Iterator[Callable[[list[Row]], None]]:
    """Lock `path` and yield `append(rows)`, which writes all rows or none; raise RunError if locked."""
    with explained(path):
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


def write(path: Path, content: bytes) -> None:
    """Write the file atomically: write to a temporary name, then rename."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def run_blocks(
    path: Path,
    items: list[Row],
    do: Callable[[list[Row]], list[Row]],
    *,
    batch: int,
    process: int = 0,
    processes: int = 1,
    item_of: Callable[[Row], str] = lambda row: row["id"],
    on_rows: Callable[[list[Row]], None] = lambda rows: None,
) -> None:
    """Append the rows of `do(block)` to this process's shard of `path`, skipping blocks already done.

    Block k is always `items[k * batch : (k + 1) * batch]` and belongs to process k % processes, so the rows
    are identical, bit for bit, however often the run was killed. `item_of(row)` is the id of the item that a
    row came from. Every item has at least one row (a rejection is a row too), so an item with a row is done,
    except for the last item of a shard, which is computed again. A partly done block is computed as a whole,
    and only its missing rows are kept.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    with writing(shard(path, process)) as append:
        found = read_all(path)
        known = {row["id"] for row in found}
        # A kill during a write can leave the last item of a shard with only some of its rows.
        last = {item_of(rows[-1]) for rows in map(read, shards(path)) if rows}
        done = {item_of(row) for row in found} - last
        for start in range(process * batch, len(items), processes * batch):
            block = items[start : start + batch]
            missing = {item["id"] for item in block} - done
            if not missing:
                continue
            rows = [row for row in do(block) if item_of(row) in missing]
            if silent := missing - {item_of(row) for row in rows}:
                raise RuntimeError(f"{do} returned no row for {sorted(silent)}")
            if rows := [row for row in rows if row["id"] not in known]:
                append(rows)
                on_rows(rows)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Convert an OSError (disk full, read-only, missing) to a RunError about `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(
            f"cannot write {path}: {why}. What was done before is kept; mend this and run the same command "
            "again"
        ) from error


def _append(path: Path, rows: list[Row]) -> None:
    # Unbuffered: on a full disk, a buffer would retry the failed write when the file is closed.
    with explained(path), path.open("r+b" if path.exists() else "w+b", buffering=0) as file:
        end = _end_of_whole_rows(file)
        file.seek(end)
        file.truncate()
        left = memoryview(b"".join(map(_line, rows)))
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)  # leave no partial row on a full disk
            raise


def _end_of_whole_rows(file) -> int:
    """Return the offset after the last newline."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        cut = file.read(end - start).rfind(b"\n")
        if cut >= 0:
            return start + cut + 1
        end = start
    return 0


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RunError(
            f"{path} line {number} is not a row: {line[:60]!r}; delete that line and run again"
        ) from error
    return old_names.translated(row) if isinstance(row, dict) else row
