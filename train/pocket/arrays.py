"""Arrays that are computed once, on all cores, and kept in a file."""

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from torch import distributed

from train.pocket.loop import ranks


def store(path: Path, shape: tuple[int, ...], dtype: type, chunks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the array in the file; if there is none, the first process writes it from `chunks` of rows."""
    if ranks()[0] == 0:
        write_once(path, shape, dtype, chunks)
    if ranks()[1] > 1:
        distributed.barrier()
    return np.load(path, mmap_mode="r")


def write_once(path: Path, shape: tuple[int, ...], dtype: type, chunks: Iterable[np.ndarray]) -> None:
    """Write an array from `chunks` of rows unless the file is there; the name appears when it is whole."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{os.getpid()}-{path.name}")  # several commands may write at once
    array, start = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape), 0
    for chunk in chunks:
        array[start : start + len(chunk)] = chunk
        start += len(chunk)
    array.flush()
    part.replace(path)


def with_rows(folder: Path, name: str, count: int) -> Path:
    """Return the stored file with at least `count` rows, or where to store them; `{}` in `name` is the count.

    For arrays whose first rows do not depend on how many follow.
    """
    before, after = name.split("{}")
    names = (file.name for file in folder.glob(f"{before}*{after}"))
    numbers = (each.removeprefix(before).removesuffix(after) for each in names)
    counts = sorted(int(number) for number in numbers if number.isdecimal())
    return folder / name.format(next((rows for rows in counts if rows >= count), count))


def checksum(*folders: Path) -> str:
    """Return eight hex digits that identify the weights in these folders."""
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    return f"{zlib.crc32(b''.join(file.read_bytes() for file in files)):08x}"


def on_all_cores(compute: Callable[[range], np.ndarray], count: int, chunk: int) -> Iterator[np.ndarray]:
    """Yield `compute(rows)` for chunks of `count` rows in order; processes compute more than one chunk."""
    ranges = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    if len(ranges) == 1:
        yield compute(ranges[0])
        return
    with get_context("spawn").Pool() as pool:
        yield from pool.imap(compute, ranges)
