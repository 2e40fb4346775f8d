"""Parquet files: find those of a dataset, open one, and tell damage from disk or network errors."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from dsd.files import hub

DATASET = b"dsd.dataset"  # metadata key for the id of the dataset that a shard belongs to
LAYOUT = b"dsd.layout"  # metadata key for a checksum of the columns and row groups
TASK = b"dsd.task"  # metadata key for the task that the pairs teach, unless it is identity
SHARD = "-of-"  # in the names of numbered files; a dataset has all of them in one folder
SPLITS = ("train", "validation", "valid", "val", "test")


class PairsError(ValueError):
    """Raised when a dataset cannot be read; the message states the reason and the remedy."""


def package() -> Any:
    """Import pyarrow.parquet only here, because the app never needs it; raise PairsError if it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise PairsError(
            "parquet files need the package pyarrow, which is missing: pip install -r train/requirements.txt"
        ) from error
    return pyarrow.parquet


def open_file(file: str, filesystem: Any | None = None) -> Any:
    """Open a `ParquetFile` and read its footer; raise PairsError if it is damaged or not parquet."""
    parquet = package()
    try:
        opened = parquet.ParquetFile(file, filesystem=filesystem, page_checksum_verification=True)
        _check_layout(opened)
        return opened
    except (ValueError, OSError) as error:
        if not _is_damage(error):
            raise
        message = f"{file} is damaged or not a parquet file ({error}): make or download it again"
        raise PairsError(message) from error


def layout(schema: Any, groups: list[int]) -> bytes:
    """Return a checksum of the columns and of the number of rows in each group.

    Parquet's own checksums cover pages of values, and not the footer: without this one, a column whose name
    is damaged would look like a column that the dataset does not have.
    """
    columns = [[field.name, str(field.type)] for field in schema]
    text = json.dumps([columns, groups])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest().encode()


def _check_layout(file: Any) -> None:
    """Raise ValueError if a file's columns or row groups are not those that it names, if it names any."""
    said = (file.schema_arrow.metadata or {}).get(LAYOUT)
    groups = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    if said is not None and said != layout(file.schema_arrow, groups):
        raise ValueError(
            "its columns or rows are not those that were written; a program that changes them on purpose "
            f"must drop the metadata {LAYOUT.decode()}"
        )


def read_group(file: Any, group: int, columns: list[str]) -> Any:
    """Return a row group as a table; raise ValueError if it is damaged."""
    try:
        # One thread: a process forked while Arrow's pool has threads would wait for them forever.
        return file.read_row_group(group, columns=columns, use_threads=False)
    except OSError as error:
        if not _is_damage(error):
            raise
        raise ValueError(str(error)) from error


def _is_damage(error: Exception) -> bool:
    """Return whether the data are invalid, not just unavailable: Arrow raises OSError for both."""
    return isinstance(error, ValueError) or (type(error) is OSError and error.errno is None)


def owner(file: str) -> bytes | None:
    """Return the id of the dataset that a file belongs to, or None if this project did not write it."""
    return (open_file(file).schema_arrow.metadata or {}).get(DATASET)


def task(file: Any) -> str:
    """Return the task that an open file's pairs teach; identity if it names none, as the published data."""
    return (file.schema_arrow.metadata or {}).get(TASK, b"identity").decode(errors="replace")


def holds_images(kind: Any) -> bool:
    """Return whether an Arrow type can hold encoded images: binary, or a struct with a `bytes` field."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    return types.is_binary(kind) or types.is_large_binary(kind)


def kind(arrow: Any) -> str:
    """Return what a column of an Arrow type holds: `images`, `lists of images`, or the type's name."""
    if holds_images(arrow):
        return "images"
    return f"lists of {kind(arrow.value_type)}" if hasattr(arrow, "value_type") else str(arrow)[:40]


def local_files(path: Path, split: str) -> list[str]:
    """Return the split's files in a run or dataset folder, or `path` itself if it is a file.

    Raise PairsError if a folder's files are incomplete or of several datasets.
    """
    if path.is_file():
        return [str(path)]
    folder = path / "dataset" if (path / "dataset").is_dir() else path
    files = _of_split([file.as_posix() for file in folder.rglob("[!.]*.parquet")], split, folder.as_posix())
    totals = {int(total) for file in files for total in re.findall(r"-of-(\d+)\.parquet$", file)}
    versions = len({owner(file) for file in files})
    if totals - {len(files)} or versions > 1:
        raise PairsError(
            f"the dataset in {folder} is not complete: {len(files)} of {max(totals, default=len(files))} "
            f"files, {versions} versions; rerun the command that wrote or downloaded it"
        )
    return files


def download_files(name: str, split: str, on_size: Callable[[str, int], None] | None = None) -> list[str]:
    """Download a hub dataset once and return the split's files; raise LoadError for hub errors.

    Before the download, `on_size` gets the name and the bytes, unless the hub is out of reach.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import DryRunError

    which = {"repo_type": "dataset", "allow_patterns": ["*.parquet", "README.md"]}
    with on_hub(name):
        if on_size and not constants.HF_HUB_OFFLINE:
            with suppress(DryRunError):
                files = snapshot_download(name, **which, dry_run=True)
                if size := sum(file.file_size or 0 for file in files if file.will_download):
                    on_size(name, size)
        folder = snapshot_download(name, **which)
    return local_files(Path(folder), split)


def list_remote_files(name: str, split: str) -> tuple[list[str], Any]:
    """Return the split's files on the hub and the filesystem that reads them over the network."""
    from huggingface_hub import HfFileSystem

    filesystem = HfFileSystem()
    with on_hub(name):
        files = filesystem.glob(f"datasets/{name}/**/*.parquet")
    return _of_split(files, split, f"datasets/{name}"), filesystem


def on_hub(name: str) -> AbstractContextManager:
    """Return a context that converts errors about a hub dataset to LoadError."""
    return hub.explain_errors(name, [f"datasets/{name}"])


def _of_split(files: list[str], split: str, folder: str) -> list[str]:
    """Return the files below `folder` named after `split`; files without a split name count as "train"."""
    names = {file: file.removeprefix(folder).strip("/") for file in sorted(files)}
    matches = [file for file, name in names.items() if _is_called(name, split)]
    if not matches and split == "train":
        matches = [file for file, name in names.items() if not _is_called(name, "|".join(SPLITS))]
    if not matches:
        some = ", ".join(list(names.values())[:5]) or "none at all"
        raise PairsError(
            f"{folder} has no parquet files of the split {split!r}; its parquet files are: {some}"
        )
    configs = sorted({names[file].rpartition("/")[0] for file in matches if SHARD in names[file]})
    if len(configs) > 1:
        raise PairsError(
            f"{folder} has {len(configs)} configurations ({', '.join(configs)}), each a dataset of its own: "
            f"download it and pass the folder of one, such as {folder}/{configs[0]}"
        )
    return matches


def _is_called(name: str, split: str) -> bool:
    """Match `train-00000-of-00002.parquet`, `train.parquet` and `train/0000.parquet`."""
    return any(re.match(rf"({split})(\W|_|$)", part) for part in name.split("/")[-2:])
