"""Export of a run's pairs as parquet shards, and upload of the shards to the hub.

Only here the panels of a pair are cut out of their grid and stored as separate lossless PNG images. The bytes
of a dataset depend only on the run's rows and on a `Choice`: it is written again if they change.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi

from dsd.curation.selection import Choice, Item, Run, counts, find_recipe, read_run, select
from dsd.files import contact_sheet, jsonl, parquet, whole
from dsd.files.jsonl import Row, RunError
from dsd.files.pairs import COLUMNS
from dsd.files.upload import upload
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.recipes import IDENTITY

SHARD = re.compile(r"train-\d{5,}-of-\d{5,}\.parquet")
SHARD_ROWS = 1000
GROUP = 50  # rows per row group: 100 images
FORMAT = 2  # increase it when the same rows give different files
CARD = ("README.md", "samples.png")
PARQUET = ("train-*.parquet",)


class Cut(NamedTuple):
    """A row without its images, and the grid and the panel that each of them is cut from, by column."""

    row: Row
    images: dict[str, tuple[Grid, int]]


class Dataset(NamedTuple):
    """A dataset on disk."""

    folder: Path
    shards: list[Path]  # its files: parquet shards, or images and captions
    rows: list[Row]  # all rows of the dataset in order, without images
    new: int  # number of files that were not up to date
    format: str = "parquet"
    patterns: tuple[str, ...] = PARQUET  # of its files, besides the card


def write_dataset(
    run: Run | Path,
    out: Path,
    choice: Choice | None = None,
    *,
    shard_rows: int = SHARD_ROWS,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Write a run's dataset to the folder `out`, `shard_rows` rows per file; keep shards that are up to date.

    An interrupted command that is run again gives the same bytes. `on_rows` gets the rows done and in total.
    Raise RunError for a run without pairs, an unreadable grid, or parquet files in `out` that are not ours.
    """
    run = run if isinstance(run, Run) else read_run(run)
    items = select_some(run, choice or Choice())
    cuts = [
        Cut(it.row, {"conditioning": (it.grid, it.conditioning), "target": (it.grid, it.target)})
        for it in items
    ]
    task = find_recipe(run).task
    task = None if task == IDENTITY.task else task  # its files are as they were before there were others
    digest = digest_of(items, GROUP, shard_rows, *([task] if task else [])).encode()
    settings = {"task": task, "shard_rows": shard_rows, "on_rows": on_rows}
    return write_shards(out, run, cuts, COLUMNS, digest, **settings)


def write_shards(
    out: Path,
    run: Run,
    cuts: list[Cut],
    columns: dict[str, str],
    digest: bytes,
    *,
    task: str | None = None,
    shard_rows: int = SHARD_ROWS,
    on_rows: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Write rows to parquet files in `out`, except those that have the same `digest` already.

    `columns` maps names to types of Arrow, or to `image` for an image that `datasets` decodes. `task` is
    what the files say that their pairs teach.
    """
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}")
    blocks = [cuts[i : i + shard_rows] for i in range(0, len(cuts), shard_rows)]
    paths = [out / f"train-{k:05}-of-{len(blocks):05}.parquet" for k in range(len(blocks))]
    about = {parquet.DATASET: digest} | ({parquet.TASK: task} if task else {})
    new = done = 0
    with jsonl.writing(out / "README.md"):  # lock the folder against other commands
        old = _own_shards(out)
        for path, block in zip(paths, blocks, strict=True):
            if old.get(path) != digest:
                schema = _schema(columns, len(block), about)
                for count in _write_shard(path, run.folder, block, schema):
                    on_rows(done + count, len(cuts))
                new += 1
            done += len(block)
            on_rows(done, len(cuts))
        for path in old.keys() - set(paths):
            path.unlink()
    return Dataset(out, paths, [cut.row for cut in cuts], new)


def select_some(run: Run, choice: Choice) -> list[Item]:
    """Return the rows of a dataset, without images; raise RunError if there are none."""
    items = select(run, choice)
    if not items:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts(run)["pairs"].most_common())
        raise RunError(f"no pair of {run.folder} is kept, so there is no dataset ({reasons or 'no pairs'})")
    return items


def digest_of(items: list[Item], *settings: int | str) -> str:
    """Return a digest of everything that the bytes of the dataset depend on."""
    parts = [[row, conditioning, target, _source(grid)] for row, grid, conditioning, target in items]
    return _hash([FORMAT, *settings, parts])


def digest_of_cuts(cuts: list[Cut]) -> str:
    """Return a digest of everything that the bytes of rows with any images depend on."""
    parts = [
        [row, {name: [_source(grid), panel] for name, (grid, panel) in images.items()}]
        for row, images in cuts
    ]
    return _hash([FORMAT, parts])


def _source(grid: Grid) -> list[Any]:
    """Return what the panels of a grid depend on; grids of version 0 have no boxes."""
    return [grid.file, grid.rows, grid.columns, grid.margin, *([grid.boxes] if grid.boxes else [])]


def _hash(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode()).hexdigest()


def _own_shards(folder: Path) -> dict[Path, bytes]:
    """Delete partly written files; return the dataset digest of each shard, b"" for a damaged one."""
    for part in folder.glob(".train-*.part"):
        part.unlink()
    digests = {}
    for path in folder.glob("*.parquet"):
        try:
            digest = parquet.owner(str(path)) if SHARD.fullmatch(path.name) else None
        except parquet.PairsError:
            digest = b""
        if digest is None:
            raise RunError(f"{path} was not written by this command: choose another --out, or move it away")
        digests[path] = digest
    return digests


def _write_shard(path: Path, run: Path, cuts: list[Cut], schema: Any) -> Iterator[int]:
    """Write the whole file or nothing; yield the number of rows so far."""
    by_id = {grid.id: grid for cut in cuts for grid, _ in cut.images.values()}

    @lru_cache(maxsize=16)
    def panels(name: str) -> list[bytes]:
        return [contact_sheet.marked_png(panel) for panel in grids.open_panels(run, by_id[name])]

    def image(column: str, grid: Grid, panel: int) -> Row | bytes:
        content = panels(grid.id)[panel]
        is_binary = str(schema.field(column).type) == "binary"
        return content if is_binary else {"bytes": content, "path": f"{grid.id}-{panel}.png"}

    writer_of = parquet.package().ParquetWriter
    with whole.replacing(path) as part, writer_of(part, schema, write_page_checksum=True) as writer:
        for start in range(0, len(cuts), GROUP):
            rows = [
                row | {column: image(column, *place) for column, place in images.items()}
                for row, images in cuts[start : start + GROUP]
            ]
            writer.write_table(_table(rows, schema))
            yield start + len(rows)


def _table(rows: list[Row], schema: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.Table.from_pylist(rows, schema=schema)
    except (TypeError, ValueError) as error:  # Arrow raises either for a wrong type
        where = f"{rows[0]['id']} to {rows[-1]['id']}"
        raise RunError(f"the rows {where} hold a value of the wrong type: {error}") from error


def _schema(kinds: dict[str, str], rows: int, about: dict[bytes, bytes | str]) -> Any:
    """Return the Arrow schema, with metadata: the image columns for `datasets`, a checksum, and `about`."""
    parquet.package()
    import pyarrow

    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    columns, features = [], {}
    for name, kind in kinds.items():
        columns.append((name, image if kind == "image" else pyarrow.type_for_alias(kind)))
        features[name] = {"_type": "Image"} if kind == "image" else {"_type": "Value", "dtype": kind}
    schema = pyarrow.schema(columns)
    checksum = parquet.layout(schema, [min(GROUP, rows - start) for start in range(0, rows, GROUP)])
    info = json.dumps({"info": {"features": features}})
    return schema.with_metadata({"huggingface": info, **about, parquet.LAYOUT: checksum})


def push(
    folder: Path,
    name: str,
    *,
    private: bool = True,
    api: HfApi | None = None,
    patterns: tuple[str, ...] = PARQUET,
) -> str:
    """Upload a finished dataset and its card as `name` (owner/name) and return the address.

    A new repository is private by default, because the generator's license may forbid publication.
    """
    # Files of a larger dataset that was there before are deleted.
    chosen = {"allow_patterns": [*CARD, *patterns], "delete_patterns": [*patterns]}
    return upload(folder, name, kind="dataset", private=private, api=api, **chosen)
