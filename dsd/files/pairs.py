"""Training pairs read from parquet: datasets of `dsd.curation` and the published `primecai/dsd_data`.

One reader handles both with a map of column names. Rows are read by index or in order, from disk or streamed
from the hub, with a few dozen rows in memory for a dataset of any size. A damaged row is never dropped
silently: it is reported, and the caller decides what to do.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image

from dsd.files import hub, intake, old_names, parquet
from dsd.files.parquet import PairsError
from dsd.files.rgb import to_rgb

COLUMNS = {  # of our datasets, with their types; `dsd.curation.dataset_card` describes them
    "id": "string", "conditioning": "image", "target": "image", "caption": "string", "instruction": "string",
    "caption_writer": "string", "subject": "string", "prompt": "string", "seed": "int64", "grid": "string",
    "generator": "string", "generator_hash": "string", "generator_license": "string", "license": "string",
    "judge": "string", "reason": "string", "similarity": "float64", "scores": "string",
}  # fmt: skip
WANTED = ("conditioning", "target", "caption")
IMAGES = ("conditioning", "target")

Row = dict[str, Any]


class BadRow(ValueError):
    """A row cannot be read; the message names it and says why."""


def read_pairs(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    streaming: bool = False,
    max_rows: int | None = None,
    on_size: Callable[[str, int], None] | None = None,
) -> "Pairs":
    """Open a run, a folder of parquet files, one such file, or a hub id.

    `columns` maps our column names to the dataset's where they differ. The target column needs no mapping if
    it is the only other image column. A hub dataset is downloaded once; with `streaming` it is read over the
    network each time. `max_rows` keeps the first rows alone; streaming then reads no others. `on_size` gets
    the name and the bytes of a download before it begins. Raise PairsError for missing files or columns, and
    LoadError for hub errors.
    """
    hub.check_source(source, weights=False)
    filesystem = None
    if Path(source).exists():
        files = parquet.local_files(Path(source), split)
    elif streaming:
        files, filesystem = parquet.list_remote_files(str(source), split)
    else:
        files = parquet.download_files(str(source), split, on_size)
    return Pairs(files, columns, filesystem, max_rows)


def join_pairs(parts: Sequence["Pairs"]) -> "Pairs":
    """Return the rows of several datasets, one after another; raise PairsError if they do not fit.

    `max_rows` is kept for one dataset alone, and must be None for several.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if part.names != first.names or (part.filesystem is None) != (first.filesystem is None):
            raise PairsError(
                f"{part.files[0]} has the columns {', '.join(part.names)}, and {first.files[0]} has "
                f"{', '.join(first.names)}: joined datasets need the same ones, all on disk or all streamed"
            )
    files = [file for part in parts for file in part.files]
    if len({*files}) < len(files):
        raise PairsError(f"a dataset is given twice, got {max(files, key=files.count)} again: name each once")
    return Pairs(files, first.columns, first.filesystem)


class Group(NamedTuple):
    """One row group of a file."""

    file: int
    index: int
    first: int  # its first row, counted within the file
    start: int  # its first row, counted within the dataset
    end: int


class Pairs:
    """A dataset of pairs: `len(pairs)`, `pairs[i]`, and `for row in pairs`.

    A row is a dict with `id`, `conditioning` and `target` (RGB images), `caption`, `instruction` (None if the
    dataset has none), and any other COLUMNS of the dataset. Indexing reads the row's whole group (50 rows in
    our files), so reading in order is faster. The object is thread-safe and can be pickled.
    """

    def __init__(
        self,
        files: list[str],
        columns: Mapping[str, str] | None = None,
        filesystem: Any | None = None,
        max_rows: int | None = None,
    ) -> None:
        self.files, self.columns, self.max_rows = list(files), columns, max_rows
        self.filesystem = filesystem
        self._reading = Lock()  # a file has one read position; images are decoded outside the lock
        self._file = lru_cache(maxsize=8)(self._open)
        self._table = lru_cache(maxsize=4)(self._read)
        self.names = column_names(self._file(0).schema_arrow, columns, where=self.files[0])

    def __reduce__(self):
        return Pairs, (self.files, self.columns, self.filesystem, self.max_rows)

    def __len__(self) -> int:
        rows = self._groups[-1].end if self._groups else 0
        return rows if self.max_rows is None else min(rows, self.max_rows)

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raise BadRow if it is damaged."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        index %= len(self)
        group = self._groups[bisect_right(self._groups, index, key=lambda group: group.end)]
        offset = index - group.start
        where = f"{self.files[group.file]} row {group.first + offset}"
        try:
            with self._reading:
                table = self._table(group.file, group.index)
            values = {ours: table.column(theirs)[offset].as_py() for ours, theirs in self.names.items()}
        except (hub.LoadError, PairsError):  # of the whole file
            raise
        except ValueError as error:
            raise BadRow(f"{where} is damaged: {error}") from error
        name = f"{Path(self.files[group.file]).stem}-{group.first + offset}"
        row = {"id": name, "instruction": None} | values
        where = f"{where} ({row['id']})"
        if not isinstance(row["caption"], str) or not row["caption"].strip():
            raise BadRow(f"{where} has no caption")
        return row | {name: _decode(row[name], f"{where}: the {name} image") for name in IMAGES}

    def read_texts(self, *names: str) -> list[tuple[str | None, ...]]:
        """Return these columns of all rows, without images; a text that is missing or damaged is None."""
        rows: list[tuple[str | None, ...]] = []
        theirs = [self.names[name] for name in names if name in self.names]
        for group in self._groups:
            try:
                with self._reading, self._explained():
                    table = parquet.read_group(self._file(group.file), group.index, theirs)
                columns = {name: table.column(self.names[name]).to_pylist() for name in names}
            except (hub.LoadError, PairsError):  # of the whole file
                raise
            except (KeyError, ValueError):  # whoever needs the rows' images reports the damage
                columns = dict.fromkeys(names, [None] * (group.end - group.start))
            rows += zip(*columns.values(), strict=True)
        return rows[: len(self)]

    def row_files(self) -> list[str]:
        """Return the file of each row."""
        files = [self.files[group.file] for group in self._groups for _ in range(group.start, group.end)]
        return files[: len(self)]

    def read_tasks(self) -> tuple[str, ...]:
        """Return the tasks that the pairs teach, each once, from a file of each joined dataset."""
        first = {Path(name).parent: index for index, name in reversed([*enumerate(self.files)])}
        with self._reading, self._explained():
            tasks = [parquet.task(self._file(index)) for index in sorted(first.values())]
        return tuple(dict.fromkeys(tasks))

    @cached_property
    def _groups(self) -> list[Group]:
        """Row groups in order, of as many files as `max_rows` needs."""
        groups, end = [], 0
        for file in range(len(self.files)):
            if self.max_rows is not None and end >= self.max_rows:
                break
            metadata, first = self._file(file).metadata, 0
            for index in range(metadata.num_row_groups):
                count = metadata.row_group(index).num_rows
                groups.append(Group(file, index, first, end, end + count))
                first, end = first + count, end + count
        return groups

    def _open(self, file: int) -> Any:
        with self._explained():
            return parquet.open_file(self.files[file], self.filesystem)

    def _read(self, file: int, group: int) -> Any:
        with self._explained():
            return parquet.read_group(self._file(file), group, list(self.names.values()))

    def _explained(self) -> AbstractContextManager:
        return parquet.on_hub("/".join(self.files[0].split("/")[1:3])) if self.filesystem else nullcontext()


def column_names(
    schema: Any, columns: Mapping[str, str] | None = None, *, where: str = "the dataset"
) -> dict[str, str]:
    """Map our column names to those of an Arrow schema, by `columns` or else by the same name.

    A target with another name is recognized if it is the only other image column. Raise PairsError, listing
    the present and required columns, if one is missing or not usable.
    """
    columns, present = columns or {}, schema.names
    names = {name: columns.get(name) or old_names.find_column(name, present) for name in COLUMNS}
    images = [field.name for field in schema if parquet.holds_images(field.type)]
    others = [name for name in images if name != names["conditioning"]]
    if "target" not in {*columns, *present} and len(others) == 1:
        names["target"] = others[0]
    wrong = {name for name in columns if name not in COLUMNS}
    wrong |= {names[name] for name in {*WANTED, *columns} & {*COLUMNS} if names[name] not in present}
    wrong |= {names[name] for name in IMAGES if names[name] not in images}
    if wrong:
        listed = ", ".join(f"{field.name} ({parquet.kind(field.type)})" for field in schema)
        raise PairsError(
            f"{where} has the columns {listed}. It needs conditioning and target, both images, and caption; "
            f"these are missing or do not fit: {', '.join(sorted(wrong))}. Map the names, such as "
            "target=edited; write lists of images as one row each, and addresses as the images' bytes"
        )
    return {ours: theirs for ours, theirs in names.items() if theirs in present}


def _decode(value: Any, what: str) -> Image.Image:
    """Decode an image's bytes, or Arrow's struct of bytes and path, to RGB; raise BadRow if that fails."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise BadRow(f"{what} is empty: store its bytes in the file")
    try:
        return to_rgb(intake.decode(content))
    except Exception as error:  # an untrusted file can raise anything
        raise BadRow(f"{what} cannot be read: {error}") from error
