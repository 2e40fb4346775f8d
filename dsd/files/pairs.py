"""Training pairs read from parquet: datasets of `dsd.curation` and the published `primecai/dsd_data`.

One reader handles both with a map of column names. Rows are read by index or in order, from disk or streamed
from the hub, with a few dozen rows in memory however large the dataset. A damaged row is never dropped
silently: it is reported, and the caller decides what to do.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from PIL import Image

from dsd.files import hub, old_names, parquet
from dsd.files.parquet import PairsError
from dsd.files.rgb import to_rgb

COLUMNS = {  # of our datasets, with their types
    "id": "string",  # grid, panel of the conditioning image, panel of the target
    "conditioning": "image",
    "target": "image",
    "caption": "string",  # describes the target
    "instruction": "string",  # describes the change from conditioning to target
    "caption_writer": "string",  # the model that wrote both, or "grid" for text from the grid's prompt
    "subject": "string",
    "prompt": "string",  # of the whole grid
    "seed": "int64",
    "grid": "string",
    "generator": "string",
    "generator_hash": "string",
    "generator_license": "string",
    "judge": "string",
    "reason": "string",  # of the judge's verdict
    "similarity": "float64",
    "scores": "string",  # JSON: part of the subject -> 0 to 4
}
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
) -> "Pairs":
    """Open a run, a folder of parquet files, one such file, or a hub id.

    `columns` maps our column names to the dataset's where they differ. The target column needs no mapping if
    it is the only other image column. A hub dataset is downloaded once; with `streaming` it is read over the
    network each time. Raise PairsError for missing files or columns, and LoadError for hub errors.
    """
    hub.check_source(source, weights=False)
    if Path(source).exists():
        return Pairs(parquet.local_files(Path(source), split), columns=columns)
    if not streaming:
        return Pairs(parquet.downloaded_files(str(source), split), columns=columns)
    files, filesystem = parquet.streamed_files(str(source), split)
    return Pairs(files, columns=columns, filesystem=filesystem)


class Pairs:
    """A dataset of pairs: `len(pairs)`, `pairs[i]`, `for row in pairs`, and `pairs.each(on_bad)`.

    A row is a dict with `id`, `conditioning` and `target` (RGB images), `caption`, `instruction` (None if the
    dataset has none), and any other COLUMNS of the dataset. Indexing reads the row's whole group (50 rows in
    our files), so reading in order is faster. The object is thread-safe and can be pickled.
    """

    def __init__(
        self,
        files: list[str],
        *,
        columns: Mapping[str, str] | None = None,
        filesystem: Any | None = None,
    ) -> None:
        self.files, self.columns, self.filesystem = list(files), columns, filesystem
        self._reading = Lock()  # a file has one read position; images are decoded outside the lock
        self._file = lru_cache(maxsize=8)(self._open)
        self._table = lru_cache(maxsize=4)(self._read)
        self.names = column_names(self._file(0).schema_arrow, columns, where=self.files[0])

    def __reduce__(self):
        return _again, (self.files, self.columns, self.filesystem)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Row:
        """Return the row at `index`; raise BadRow if it is damaged."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no row {index} among {len(self)}")
        index %= len(self)
        place = bisect_right(self._ends, index)
        file, group, first, count = self._groups[place]
        return self._row(file, group, first, index - (self._ends[place] - count))

    def __iter__(self) -> Iterator[Row]:
        return self.each()

    def each(self, on_bad: Callable[[BadRow], None] | None = None) -> Iterator[Row]:
        """Yield all rows in order; call `on_bad` for each damaged row, or raise BadRow if it is None."""
        for file in range(len(self.files)):  # `_groups` would open every file before the first row
            for group, first, count in self._layout(file):
                for offset in range(count):
                    try:
                        row = self._row(file, group, first, offset)
                    except BadRow as error:
                        (on_bad or _raise)(error)
                    else:
                        yield row

    @cached_property
    def _groups(self) -> list[tuple[int, int, int, int]]:
        """All (file, row group, its first row in the file, its number of rows), in order."""
        return [(file, *found) for file in range(len(self.files)) for found in self._layout(file)]

    @cached_property
    def _ends(self) -> list[int]:
        """The end of each row group, counted in rows of the whole dataset."""
        return list(accumulate(count for *_, count in self._groups))

    def _layout(self, file: int) -> list[tuple[int, int, int]]:
        """Return (row group, its first row, its number of rows) for each row group of a file."""
        metadata = self._file(file).metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        firsts = accumulate(counts, initial=0)
        return [
            (group, first, count) for group, (first, count) in enumerate(zip(firsts, counts, strict=False))
        ]

    def _open(self, file: int) -> Any:
        with self._explained():
            return parquet.open_file(self.files[file], self.filesystem)

    def _read(self, file: int, group: int) -> Any:
        with self._explained():
            return parquet.read_group(self._file(file), group, list(self.names.values()))

    def _row(self, file: int, group: int, first: int, offset: int) -> Row:
        where = f"{self.files[file]} row {first + offset}"
        try:
            with self._reading:
                table = self._table(file, group)
            found = {ours: table.column(theirs)[offset].as_py() for ours, theirs in self.names.items()}
        except (hub.LoadError, PairsError):
            raise
        except ValueError as error:
            raise BadRow(f"{where} is damaged: {error}") from error
        row = {"id": f"{Path(self.files[file]).stem}-{first + offset}", "instruction": None} | found
        where = f"{where} ({row['id']})"
        if not isinstance(row["caption"], str):
            raise BadRow(f"{where} has no caption")
        return row | {name: _image(row[name], f"{where}: the {name} image") for name in IMAGES}

    def _explained(self) -> AbstractContextManager:
        return parquet.on_hub("/".join(self.files[0].split("/")[1:3])) if self.filesystem else nullcontext()


def column_names(
    schema: Any, columns: Mapping[str, str] | None = None, *, where: str = "the dataset"
) -> dict[str, str]:
    """Map our column names to those of an Arrow schema, by `columns` or else by the same name.

    A target with another name is found if it is the only other image column. Raise PairsError, listing the
    present and required columns, if one is missing or not usable.
    """
    given = dict(columns or {})
    names = {name: given.get(name) or old_names.present(name, schema.names) for name in COLUMNS}
    images = [field.name for field in schema if parquet.holds_images(field.type)]
    others = [name for name in images if name != names["conditioning"]]
    if "target" not in {*given, *schema.names} and len(others) == 1:
        names["target"] = others[0]
    wrong = [name for name in given if name not in COLUMNS]
    wrong += [names[name] for name in {*WANTED, *given} & {*COLUMNS} if names[name] not in schema.names]
    wrong += [names[name] for name in IMAGES if names[name] not in images]
    if wrong:
        _refuse(where, schema.names, images, sorted(set(wrong)))
    return {ours: theirs for ours, theirs in names.items() if theirs in schema.names}


def _refuse(where: str, found: list[str], images: list[str], wrong: list[str]) -> NoReturn:
    listed = ", ".join(f"{name} (images)" if name in images else name for name in found)
    raise PairsError(
        f"{where} has the columns {listed}. Wanted are conditioning and target, both images, and "
        f"caption; what does not fit: {', '.join(wrong)}. Say what they are called, such as target=edited"
    )


def _image(value: Any, what: str) -> Image.Image:
    """Decode encoded bytes, or Arrow's struct of bytes and path, to RGB; raise BadRow if that fails."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise BadRow(f"{what} is not in the file")
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
        return to_rgb(image)
    except Exception as error:  # an untrusted file can raise anything
        raise BadRow(f"{what} cannot be read: {error}") from error


def _again(files: list[str], columns: Mapping[str, str] | None, filesystem: Any | None) -> Pairs:
    return Pairs(files, columns=columns, filesystem=filesystem)


def _raise(error: BadRow) -> NoReturn:
    raise error
