"""A dataset that is encoded while it trains: blocks of rows on disk, the least recently used ones dropped.

A block is always encoded alone and as a whole, so that its records are the same however often it is encoded.
Several processes share the folder: the first one that needs a block encodes it.
"""

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from filelock import FileLock, Timeout

from dsd.files import jsonl
from dsd.model.pipeline import DSDPipeline
from dsd.training.cache import Store, encode_missing, text_hash
from dsd.training.data import (
    REPORTED,
    TOLERATED,
    Entry,
    RowEncoder,
    check_instructions,
    dataset_name,
    report_cut,
)
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.order import WindowedOrder, block_of, split

logger = logging.getLogger(__name__)

ENTRIES = "entries.jsonl"


class Block(NamedTuple):
    """The entries of consecutive rows, and the stores of their records."""

    first: int  # its first row
    entries: list[Entry]
    latents: Store
    texts: Store


class StreamedData:
    """The rows of a dataset, encoded when a step needs them; about `options.cache_gb` are kept on disk.

    An unusable row is replaced by the next usable one of its block. Raise TrainingError for rows that are not
    in files, because cached blocks are named after the files.
    """

    def __init__(
        self,
        rows: RowEncoder,
        pipe: DSDPipeline,
        options: TrainOptions,
        folder: Path,
        device: torch.device | str,
    ) -> None:
        name = dataset_name(rows.pairs)
        if name is None:
            kind = type(rows.pairs).__name__
            raise TrainingError(f"cache_gb needs rows in files, got a {kind}: pass cache_gb=0")
        self.rows, self.options, self.device = rows, options, device
        self.encoders = (pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
        self.name = text_hash(rows.name(name), str(len(rows.pairs)))
        self.folder = folder / f"blocks-{self.name}"
        self.frames, self.buckets = rows.frames, np.zeros(len(rows.pairs), np.uint8)
        self.ranges = split(len(rows.pairs))
        self.blocks: dict[int, Block] = {}
        self.has_cut = False  # whether a text was too long, which is reported once
        self.unusable: dict[int, int] = {}  # block -> number of unusable rows, of the blocks used so far
        for part in self.folder.glob(".block.*"):  # of a killed run
            self._remove(part)

    def __len__(self) -> int:
        return len(self.buckets)

    @property
    def skipped(self) -> int:
        return sum(self.unusable.values())

    def order(self, group: int, seed: int) -> WindowedOrder:
        return WindowedOrder(len(self), group, seed)

    def prepare(self, rows: np.ndarray) -> None:
        """Encode the blocks of these rows that are not on disk, and drop others until the rest fits."""
        needed = sorted({block_of(int(row), len(self)) for row in rows})
        missing = [index for index in needed if index not in self.blocks]
        state = PartialState()
        first = state.process_index * len(missing) // state.num_processes  # each begins with another block
        for index in missing[first:] + missing[:first]:
            with self._lock(self._path(index).suffix):
                self.blocks[index] = self._open(index) or self._encode(index)
            self._check(index)
        for index in needed:
            if self._path(index).exists():
                os.utime(self._path(index))
        if missing:
            self._move("cpu")
            self._make_room({self._path(index) for index in needed})

    def find(self, row: int) -> tuple[Entry, Store, Store]:
        """Return the entry of a row, or of the next usable one, and the stores of its latents and texts."""
        block = self.blocks[block_of(row, len(self))]
        place = row - block.first
        usable = (entry for entry in block.entries[place:] + block.entries[:place] if entry.bad is None)
        return next(usable), block.latents, block.texts

    # ------------------------------------------------------------ blocks

    def _path(self, index: int) -> Path:
        return self.folder / f"block.{index:06d}"

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, timeout=timeout)

    def _open(self, index: int) -> Block | None:
        """Return a block that is on disk, or None if it is missing or damaged."""
        path, rows = self._path(index), self.ranges[index]
        try:
            entries = jsonl.read_records(path / ENTRIES, Entry)
            encoder = self.rows.into(path)
        except jsonl.RunError as error:
            logger.warning("a block of encoded rows is damaged and encoded again: %s", error)
            return None
        has_texts = encoder.texts.store.has({text_hash("")})
        if len(entries) == len(rows) and has_texts and all(map(encoder.has_records, entries)):
            return Block(rows.start, entries, encoder.images.store, encoder.texts.store)
        return None

    def _encode(self, index: int) -> Block:
        """Encode a block into a temporary folder, then give it its name."""
        path = self._path(index)
        part = path.with_name(f".{path.name}")
        for old in (path, part):
            shutil.rmtree(old, ignore_errors=True)
        self._move(self.device)
        encoder = self.rows.into(part)
        with jsonl.explain_errors(path):
            encode_missing(encoder.texts, {text_hash(""): ""})
            entries = encoder.encode(self.ranges[index])
            jsonl.write_rows(part / ENTRIES, map(asdict, entries))
            part.replace(path)
        return Block(self.ranges[index].start, entries, encoder.images.store, encoder.texts.store)

    def _move(self, device: torch.device | str) -> None:
        for encoder in self.encoders:
            encoder.to(device)

    def _check(self, index: int) -> None:
        """Report a block's unusable rows; raise TrainingError if none is usable, or too many are not."""
        entries = self.blocks[index].entries
        bad = [entry for entry in entries if entry.bad is not None]
        if not self.unusable:
            without = sum(entry.instruction is None for entry in entries if entry.bad is None)
            check_instructions(self.options, without=without, rows=len(entries) - len(bad))
        for entry in bad[: max(0, REPORTED - self.skipped)] if index not in self.unusable else []:
            logger.warning("skipped row %d: %s", int(entry.id), entry.bad)
        self.has_cut = self.has_cut or report_cut(entries, self.rows.texts.tokens)
        self.unusable[index] = len(bad)
        if len(bad) == len(entries) or self.skipped > TOLERATED * len(self):
            raise TrainingError(
                f"{self.skipped} of {len(self)} rows cannot be used, which is over 1 %, or a whole block of "
                f"{len(entries)}: repair or remove them; one is row {int(bad[0].id)}: {bad[0].bad}"
            )

    def _make_room(self, needed: set[Path]) -> None:
        """Drop the least recently used blocks, until those on disk fit into the limit."""
        with self._lock("room"):  # one process at a time
            paths = sorted(self.folder.glob("block.*"), key=lambda path: path.stat().st_mtime_ns)
            sizes = {path: sum(file.stat().st_size for file in path.rglob("*.*")) for path in paths}
            excess = sum(sizes.values()) - self.options.cache_gb * 1e9
            for path in paths:
                if excess > 0 and path not in needed and self._remove(path):
                    excess -= sizes[path]
        for index in [index for index in self.blocks if not self._path(index).exists()]:
            if self._path(index) not in needed:
                del self.blocks[index]

    def _remove(self, path: Path) -> bool:
        """Remove a block's folder, unless a process is opening or encoding that block; return whether."""
        try:
            with self._lock(path.suffix, timeout=0):
                part = self.folder / f".{path.name.lstrip('.')}"
                if path != part:  # so that a kill leaves no block with some of its files
                    shutil.rmtree(part, ignore_errors=True)
                    path.rename(part)
                shutil.rmtree(part)
        except Timeout:
            return False
        return True
