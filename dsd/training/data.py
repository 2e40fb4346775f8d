"""Encode a dataset of pairs into the records that the training loop reads.

The records are computed once: images are fitted to a frame and encoded, texts are encoded, and a table on
disk lists the records of each row. Rows are processed in fixed blocks, block k by process k % n. An unusable
row is reported, skipped and counted; more than 1 % of unusable rows is an error.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image

from dsd.files import jsonl
from dsd.files.pairs import IMAGES, WANTED, BadRow, Row
from dsd.model import canvas
from dsd.model.latents import text_length
from dsd.model.pipeline import DSDPipeline
from dsd.training.cache import ImageEncoder, Store, TextEncoder, encode_missing, image_hash, text_hash
from dsd.training.options import MOST, TrainingError, TrainOptions
from dsd.training.order import BLOCK, Order
from dsd.training.references import Further, find_further

logger = logging.getLogger(__name__)

REPORTED = 5  # unusable rows reported one by one; further ones are only counted
TOLERATED = 0.01  # a larger share of unusable rows is an error
FORMAT = 2  # increment when the same rows need different records

Frame = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True, slots=True)
class Entry:
    """The keys of a row's records, or the reason why the row cannot be used."""

    OPTIONAL: ClassVar = frozenset({"cut"})
    from_json = classmethod(jsonl.Record.from_json.__func__)  # a Record would have no slots
    id: str
    frame: int = 0  # index into the frames
    canvas: list[str] = field(default_factory=list)  # [reference | target], as one record or one per frame
    condition: list[str] = field(default_factory=list)  # [reference | black]
    caption: str = ""
    instruction: str | None = None
    cut: bool = False  # whether the end of its caption or instruction is not read
    bad: str | None = None


@dataclass(frozen=True)
class Data:
    """The N usable rows of a dataset, and the stores of their records."""

    entries: list[Entry]
    latents: Store
    texts: Store
    frames: tuple[Frame, ...]
    buckets: np.ndarray  # [N], index into frames
    skipped: int  # number of unusable rows
    name: str  # hash of the rows' entries
    further: Further = ()  # for each row, those whose references can be added to its own, if wanted

    def __len__(self) -> int:
        return len(self.entries)

    def order(self, group: int, seed: int) -> Order:
        """Return the order of rows; those of a step have one frame size, and as many further references."""
        counts = np.array([len(rows) for rows in self.further] or 0)
        return Order(self.buckets * MOST + counts, group, seed)

    def prepare(self, rows: np.ndarray) -> None:
        """Do nothing: all rows are encoded."""

    def find(self, row: int) -> tuple[Entry, Store, Store]:
        """Return a row's entry, and the stores of its latents and its texts."""
        return self.entries[row], self.latents, self.texts


def check_rows(pairs: Sequence[Row], options: TrainOptions) -> None:
    """Raise TrainingError for an empty dataset or a column missing from its first row."""
    if not len(pairs):
        raise TrainingError("the dataset has no rows: choose another dataset or another --split")
    try:
        first = pairs[0]
    except BadRow:
        return  # it is reported and counted when its block is encoded
    missing = [name for name in WANTED if first.get(name) is None]
    if missing:
        raise TrainingError(
            f"the dataset's first row lacks {', '.join(missing)}; it has {', '.join(first) or 'nothing'}: "
            "add the missing columns, or map them with --columns"
        )
    find_further(pairs, range(len(pairs)), options.references)  # fail now, not after encoding
    if "instruction" not in getattr(pairs, "names", first):
        check_instructions(options, without=1, rows=1)


def check_instructions(options: TrainOptions, *, without: int, rows: int) -> None:
    """Raise TrainingError if instructions are requested and no row has one; warn if some rows have none."""
    if not options.instruction_prob or not without:
        return
    if without == rows:
        raise TrainingError(
            f"instruction_prob is {options.instruction_prob}, but the dataset has no instructions: pass "
            "--instruction-prob 0 to train on the captions alone"
        )
    logger.warning("%d of %d rows have no instruction and use their caption", without, rows)


def report_cut(entries: list[Entry], tokens: int) -> bool:
    """Warn if texts of these rows are longer than is read, and return whether."""
    if cut := sum(entry.cut for entry in entries):
        logger.warning(
            "the texts of %d of %d rows are longer than %d tokens, and their ends are not read: raise "
            "--text-tokens or shorten them", cut, len(entries), tokens,
        )  # fmt: skip
    return cut > 0


def encode(
    pairs: Sequence[Row],
    pipe: DSDPipeline,
    options: TrainOptions,
    folder: Path,
    device: torch.device | str,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Data:
    """Encode the records missing from `folder` and return the dataset; all processes must call this together.

    The encoders are on `device` only meanwhile. `on_rows(done, total)` receives this process's progress.
    """
    pipe.to(device)
    rows = open_rows(pairs, pipe, options, folder)
    table = rows.table_file(folder)
    old = jsonl.read_records(table, Entry) if table else []
    entries = {entry.id: entry for entry in old if rows.has_records(entry)}
    encode_missing(rows.texts, {text_hash(""): ""})
    new = _encode_blocks(rows, entries, table, on_rows)
    pipe.to("cpu")
    PartialState().wait_for_everyone()
    rows.images.store.refresh()
    rows.texts.store.refresh()
    entries |= {entry.id: entry for entry in gather_object(new)}
    # The table may hold more, of a run without --max-rows.
    return _collect([entries[_id(index)] for index in range(len(pairs))], rows, options)


def open_rows(pairs: Sequence[Row], pipe: DSDPipeline, options: TrainOptions, folder: Path) -> "RowEncoder":
    """Return the encoder of a dataset's rows, with its caches below `folder`."""
    tokens = options.text_tokens or text_length(pipe.tokenizer_2)
    frames = options.frames or (pipe.frame,)
    images, texts = ImageEncoder(pipe.vae, folder), TextEncoder(pipe, tokens, folder)
    needs = bool(options.instruction_prob), options.shows_references
    return RowEncoder(pairs, images, texts, frames, *needs)


def _encode_blocks(
    rows: "RowEncoder", old: dict[str, Entry], table: Path | None, on_rows: Callable[[int, int], None]
) -> list[Entry]:
    """Encode this process's blocks, except those whose rows are all in `old`, and return their entries."""
    state, count = PartialState(), len(rows.pairs)
    starts = range(state.process_index * BLOCK, count, state.num_processes * BLOCK)
    blocks = [range(start, min(start + BLOCK, count)) for start in starts]
    blocks = [block for block in blocks if any(_id(index) not in old for index in block)]
    new = []
    for block in blocks:
        entries = rows.encode(block)
        if table:
            with jsonl.writing(jsonl.shard(table, state.process_index)) as append:
                append([asdict(entry) for entry in entries])
        new += entries
        on_rows(len(new), sum(map(len, blocks)))
    return new


@dataclass(frozen=True)
class RowEncoder:
    """The rows of a dataset, and the encoders of their records."""

    pairs: Sequence[Row]
    images: ImageEncoder
    texts: TextEncoder
    frames: tuple[Frame, ...]
    with_instructions: bool
    with_conditions: bool  # otherwise entries name them, as always, but they are not encoded

    def encode(self, block: range) -> list[Entry]:
        """Encode the rows of a block and return one entry for each."""
        entries, images, texts = [], {}, {}
        with ThreadPoolExecutor() as pool:  # decoding and resizing take the most time
            for entry, row_images, row_texts in pool.map(self._open, block):
                entries.append(entry)
                images |= row_images
                texts |= row_texts
        encode_missing(self.images, images)
        encode_missing(self.texts, texts)
        overlong = self.texts.find_overlong(texts)
        for place, entry in enumerate(entries):
            is_cut = not overlong.isdisjoint((entry.caption, entry.instruction))
            bad = Entry(entry.id, bad="its encodings are not finite")
            entries[place] = replace(entry, cut=is_cut) if self.has_records(entry) else bad
        return entries

    def has_records(self, entry: Entry) -> bool:
        """Return whether an entry's frame is one of these, and the stores contain all records it names."""
        has_texts = self.texts.store.has({key for key in (entry.caption, entry.instruction) if key})
        images = {*entry.canvas, *(entry.condition if self.with_conditions else ())}
        return has_texts and self.images.store.has(images) and entry.frame in range(len(self.frames))

    def _open(self, index: int) -> tuple[Entry, dict[str, Image.Image], dict[str, str]]:
        """Return a row's entry, and the images and texts that it needs, by their keys."""
        try:
            row = self.pairs[index]
            frame, reference, target = self._fit(row)
        except BadRow as error:
            return Entry(_id(index), bad=str(error)), {}, {}
        images, canvases = {}, []
        for right in (target, Image.new("RGB", target.size)):  # the right half of a condition is black
            parts = [reference, right]
            if not self.images.encodes_frames:
                parts = [Image.fromarray(np.hstack(parts))]
            canvases.append([image_hash(part) for part in parts])
            if right is target or self.with_conditions:
                images |= zip(canvases[-1], parts, strict=True)
        instruction = row.get("instruction") if self.with_instructions else None
        keys = [text_hash(row["caption"]), text_hash(instruction) if instruction else None]
        texts = {key: text for key, text in zip(keys, (row["caption"], instruction), strict=True) if key}
        return Entry(_id(index), frame, *canvases, *keys), images, texts

    def _fit(self, row: Row) -> tuple[int, Image.Image, Image.Image]:
        """Fit both images to the frame closest to the target's shape; return its index and the images."""
        try:
            shape = np.log(row["target"].width / row["target"].height)
            frame = int(np.argmin([abs(np.log(width / height) - shape) for width, height in self.frames]))
            return frame, *(canvas.fit(row[name], *self.frames[frame]) for name in IMAGES)
        except (ValueError, ArithmeticError) as error:
            raise BadRow(f"row {row.get('id', '')}: {error}") from error

    def table_file(self, folder: Path) -> Path | None:
        """Return the file of the entries, named by all that they depend on; None for rows not from files."""
        name = dataset_name(self.pairs)
        return folder / "tables" / f"{self.name(name)}.jsonl" if name else None

    def name(self, dataset: str | None) -> str:
        """Return a hash of all that the entries of a dataset with this name depend on."""
        stores = (self.images.store.folder.name, self.texts.store.folder.name)
        encoding = (stores, self.frames, self.images.encodes_frames, self.with_instructions)
        return text_hash(str((FORMAT, BLOCK, dataset, *encoding)))

    def into(self, folder: Path) -> "RowEncoder":
        """Return the same encoder with stores of its own in `folder`."""
        images, texts = copy(self.images), copy(self.texts)
        images.store, texts.store = Store(folder / "latents"), Store(folder / "texts")
        return replace(self, images=images, texts=texts)


def _id(index: int) -> str:
    return f"{index:09d}"


def dataset_name(pairs: Any) -> str | None:
    """Return a hash of the dataset's local files, or of its files' facts on the hub; None without files."""
    facts: list[Any] = []
    for file in getattr(pairs, "files", None) or ():
        if pairs.filesystem is None:  # the content, as size and time can stay when it changes
            with open(file, "rb") as stream:
                facts.append((file, hashlib.file_digest(stream, "blake2b").hexdigest()))
        else:
            facts.append((file, sorted(map(str, pairs.filesystem.info(file).items()))))
    return text_hash(str([*facts, pairs.columns])) if facts else None


def _collect(entries: list[Entry], rows: RowEncoder, options: TrainOptions) -> Data:
    """Return the usable rows and report the others; raise TrainingError if there are too many of those."""
    good = [entry for entry in entries if entry.bad is None]
    bad = [entry for entry in entries if entry.bad is not None]
    for entry in bad[:REPORTED] if PartialState().is_main_process else []:
        logger.warning("skipped row %d: %s", int(entry.id), entry.bad)
    if bad:
        logger.warning("skipped %d of %d rows", len(bad), len(entries))
    if len(bad) > TOLERATED * len(entries):
        raise TrainingError(
            f"{len(bad)} of {len(entries)} rows cannot be used, which is over 1 %: repair or remove them; "
            f"the first is row {int(bad[0].id)}: {bad[0].bad}"
        )
    report_cut(good, rows.texts.tokens)
    check_instructions(options, without=sum(entry.instruction is None for entry in good), rows=len(good))
    hidden = ("bad", "cut")
    contents = [sorted(item for item in asdict(entry).items() if item[0] not in hidden) for entry in good]
    further = find_further(rows.pairs, [int(entry.id) for entry in good], options.references)
    buckets, name = np.array([entry.frame for entry in good]), text_hash(*map(str, contents))
    return Data(good, rows.images.store, rows.texts.store, rows.frames, buckets, len(bad), name, further)
