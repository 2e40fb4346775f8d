"""A dataset of pairs as the records that the loop reads: the latents, texts and frame size of each row.

The records are made once: images are fitted to a frame and encoded, texts are encoded, and a table on disk
lists the records of each row. Rows are processed in fixed blocks, block k by process k % n. An unusable row
is reported, skipped and counted; over 1 % of unusable rows is an error.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from dsd.files import jsonl
from dsd.files.pairs import IMAGES, WANTED, BadRow, Row
from dsd.model import canvas as diptych
from dsd.training.cache import (
    TOLERATED,
    ImageEncoder,
    Store,
    TextEncoder,
    encode_missing,
    image_hash,
    text_hash,
)
from dsd.training.options import TrainingError, TrainOptions

logger = logging.getLogger(__name__)

BLOCK = 128  # rows per block
NAMED = 5  # unusable rows reported one by one; further ones are only counted
FORMAT = 1  # increment when the same rows need different records

Frame = tuple[int, int]  # width, height in pixels
Fitted = tuple[Row, int, Image.Image, Image.Image]  # a row, the index of its frame, its two fitted images


@dataclass(frozen=True)
class Data:
    """N usable rows; a place is (file, row) in a store, and a canvas is one record or one per frame."""

    latents: Store
    texts: Store
    frames: tuple[Frame, ...]
    buckets: np.ndarray  # [N], index into frames
    canvases: np.ndarray  # [N, parts, 2], places of [reference | target]
    conditions: np.ndarray  # [N, parts, 2], places of [reference | black]
    captions: np.ndarray  # [N, 2], places
    instructions: np.ndarray  # [N, 2], places; -1 where a row has no instruction
    empty: tuple[int, int]  # place of the empty prompt
    skipped: int  # number of unusable rows
    name: str  # hash of the rows' entries

    def __len__(self) -> int:
        return len(self.buckets)


def check_rows(pairs: Sequence[Row], options: TrainOptions) -> None:
    """Raise TrainingError for an empty dataset or a column missing from its first row."""
    if not len(pairs):
        raise TrainingError("the dataset is empty: there is nothing to train on")
    try:
        first = pairs[0]
    except BadRow:
        return  # it is reported and counted when its block is encoded
    missing = [name for name in WANTED if first.get(name) is None]
    if missing:
        raise TrainingError(f"the dataset lacks {', '.join(missing)}; it has {', '.join(first) or 'nothing'}")
    if options.instruction_share and "instruction" not in getattr(pairs, "names", first):
        _refuse_instructions(options)


def _refuse_instructions(options: TrainOptions) -> None:
    raise TrainingError(
        f"instruction_share is {options.instruction_share}, and the dataset has no instructions: pass "
        "--instruction-share 0 to train on the captions alone"
    )


def prepare(
    pairs: Sequence[Row],
    options: TrainOptions,
    images: ImageEncoder,
    texts: TextEncoder,
    frames: tuple[Frame, ...],
    folder: Path,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Data:
    """Encode what the caches lack and return the dataset as records; all processes must call it together.

    A run that was killed continues when restarted. `on_rows(done, total)` receives this process's progress.
    """
    book = _Book(pairs, images, texts, frames, bool(options.instruction_share))
    table = _table_file(book, folder)
    known = {entry["id"]: entry for entry in (jsonl.read_all(table) if table else []) if book.holds(entry)}
    blocks = _blocks(len(pairs))
    todo = [block for block in blocks if any(_id(i) not in known for i in block)]
    encode_missing(texts, {text_hash(""): ""})
    fresh = _encode_blocks(book, todo, table, on_rows)
    PartialState().wait_for_everyone()
    images.store.refresh()
    texts.store.refresh()
    entries = {**known, **{entry["id"]: entry for entry in gather_object(fresh)}}
    return _data([entries[key] for key in sorted(entries)], book, options)


def _blocks(count: int) -> list[range]:
    """Return this process's share of the rows, in blocks."""
    state = PartialState()
    starts = range(state.process_index * BLOCK, count, state.num_processes * BLOCK)
    return [range(start, min(start + BLOCK, count)) for start in starts]


def _encode_blocks(book: "_Book", todo: list[range], table: Path | None, on_rows: Callable) -> list[Row]:
    fresh, total = [], sum(map(len, todo))
    for block in todo:
        entries = book.encode(block)
        if table:
            with jsonl.writing(jsonl.shard(table, PartialState().process_index)) as append:
                append(entries)
        fresh += entries
        on_rows(len(fresh), total)
    return fresh


class _Book:
    """The encoder of rows into entries: the keys of a row's records, or why it cannot be used."""

    def __init__(
        self,
        pairs: Sequence[Row],
        images: ImageEncoder,
        texts: TextEncoder,
        frames: tuple[Frame, ...],
        instructed: bool,
    ) -> None:
        self.pairs, self.images, self.texts = pairs, images, texts
        self.frames, self.instructed = frames, instructed

    def encode(self, block: range) -> list[Row]:
        """Encode the rows of a block and return one entry for each."""
        images: dict[str, Image.Image] = {}
        texts: dict[str, str] = {}
        with ThreadPoolExecutor() as pool:  # decoding and resizing large images takes longest
            opened = list(pool.map(self._open, block))
        entries = [self._entry(*one, images, texts) for one in zip(block, opened, strict=True)]
        encode_missing(self.images, images)
        encode_missing(self.texts, texts)
        return [
            entry if self.holds(entry) else _bad(entry["id"], "it gives no finite numbers")
            for entry in entries
        ]

    def _open(self, index: int) -> Fitted | BadRow:
        try:
            row = self.pairs[index]
            return row, *self._fit(row)
        except BadRow as error:
            return error

    def _entry(
        self, index: int, opened: Fitted | BadRow, images: dict[str, Image.Image], texts: dict[str, str]
    ) -> Row:
        if isinstance(opened, BadRow):
            return _bad(_id(index), str(opened))
        row, bucket, reference, target = opened
        black = _black(reference.size)
        words = {
            "caption": row["caption"],
            "instruction": (self.instructed and row.get("instruction")) or None,
        }
        return {
            "id": _id(index),
            "frame": bucket,
            "canvas": self._note(reference, target, images),
            "condition": self._note(reference, black, images),
            **{name: None if text is None else _note_text(text, texts) for name, text in words.items()},
        }

    def _fit(self, row: Row) -> tuple[int, Image.Image, Image.Image]:
        """Fit both images to the frame closest to the target's shape; return its index and the images."""
        try:
            wide = np.log(row["target"].width / row["target"].height)
            bucket = int(np.argmin([abs(np.log(width / height) - wide) for width, height in self.frames]))
            return bucket, *(diptych.fit(row[name], *self.frames[bucket]) for name in IMAGES)
        except (ValueError, ArithmeticError) as error:
            raise BadRow(f"row {row.get('id', '')}: {error}") from error

    def _note(self, left: Image.Image, right: Image.Image, images: dict[str, Image.Image]) -> list[str]:
        """Return a canvas's keys and add the images to encode to `images`: its frames, or all of it."""
        parts = [left, right] if self.images.apart else [_beside(left, right)]
        keys = [image_hash(part) for part in parts]
        images |= zip(keys, parts, strict=True)
        return keys

    def holds(self, entry: Row) -> bool:
        """Return whether the stores contain all records that an entry names."""
        if "bad" in entry:
            return True
        words = [entry[name] for name in ("caption", "instruction") if entry[name] is not None]
        return all(key in self.images.store for key in entry["canvas"] + entry["condition"]) and all(
            key in self.texts.store for key in words
        )


def _id(index: int) -> str:
    return f"{index:09d}"


def _bad(name: str, why: str) -> Row:
    return {"id": name, "bad": why}


def _note_text(text: str, texts: dict[str, str]) -> str:
    key = text_hash(text)
    texts[key] = text
    return key


@lru_cache(maxsize=16)
def _black(size: Frame) -> Image.Image:
    """Return a black image for the target's place in a condition (`diptych.BLACK`)."""
    return Image.new("RGB", size)


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (left.width + right.width, left.height))
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width, 0))
    return canvas


def _table_file(book: _Book, folder: Path) -> Path | None:
    """Return the entries' file, named by all they depend on; None for rows that came from no files."""
    name = dataset_name(book.pairs)
    if name is None:
        return None
    stores = (book.images.store.folder.name, book.texts.store.folder.name)
    about = (FORMAT, BLOCK, name, stores, book.frames, book.images.apart, book.instructed)
    return folder / "tables" / f"{text_hash(str(about))}.jsonl"


def dataset_name(pairs: Any) -> str | None:
    """Return a hash of the dataset's files as they are now; None for rows that came from no files."""
    files = getattr(pairs, "files", None)
    if not files:
        return None
    if pairs.filesystem is None:
        stats = [(Path(file).stat().st_size, Path(file).stat().st_mtime_ns) for file in files]
    else:
        stats = [sorted(map(str, pairs.filesystem.info(file).items())) for file in files]
    return text_hash(str([*zip(files, stats, strict=True), pairs.columns]))


def _data(entries: list[Row], book: _Book, options: TrainOptions) -> Data:
    good = [entry for entry in entries if "bad" not in entry]
    _report_bad([entry for entry in entries if "bad" in entry], len(entries))
    wordless = sum(entry["instruction"] is None for entry in good)
    if options.instruction_share and wordless == len(good):
        _refuse_instructions(options)
    if options.instruction_share and wordless:
        logger.warning("%d of %d rows have no instruction and use their caption", wordless, len(good))
    latents, texts = book.images.store, book.texts.store
    places = lambda name: np.array([[latents.place(key) for key in e[name]] for e in good])  # noqa: E731
    words = lambda name: np.array([texts.place(e[name]) if e[name] else (-1, -1) for e in good])  # noqa: E731
    return Data(
        latents=latents,
        texts=texts,
        frames=book.frames,
        buckets=np.array([entry["frame"] for entry in good]),
        canvases=places("canvas"),
        conditions=places("condition"),
        captions=words("caption"),
        instructions=words("instruction"),
        empty=texts.place(text_hash("")),
        skipped=len(entries) - len(good),
        name=text_hash(*(str(sorted(entry.items())) for entry in good)),
    )


def _report_bad(bad: list[Row], total: int) -> None:
    for entry in bad[:NAMED] if PartialState().is_main_process else []:
        logger.warning("skipped row %d: %s", int(entry["id"]), entry["bad"])
    if bad:
        logger.warning("skipped %d of %d rows", len(bad), total)
    if len(bad) > TOLERATED * total:
        raise TrainingError(
            f"{len(bad)} of {total} rows cannot be used, which is over 1 %: the first is row "
            f"{int(bad[0]['id'])}: {bad[0]['bad']}"
        )
