"""Files written completely or not at all, also when the power fails; locks; what kills leave behind."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

# What `replacing` writes to, and the folders of a training's states and of its checkpoint.
PART = re.compile(r"\.(.+\.\d+|step-\d+|checkpoint)\.part")


class RunError(ValueError):
    """A run folder cannot be read or written; the message says what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` after the block, or is removed if that fails.

    The content is on the disk before it gets the name, and the name before this returns: without that, a
    power failure leaves files of the right size that are full of zeros.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            flush(part)
            part.replace(path)
            flush(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    with replacing(path) as part:
        part.write_bytes(content)


def flush(*paths: Path) -> None:
    """Wait until files, or the names in folders, are on the disk."""
    for path in paths:
        if os.name == "nt" and path.is_dir():  # Windows opens no folders
            continue
        number = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def replace_folder(part: Path, folder: Path) -> None:
    """Move a written folder to its name, in the place of an older one, once all of it is on the disk."""
    flush(*(path for path in part.rglob("*")), part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)
    flush(folder.parent)


def sweep(folder: Path) -> None:
    """Remove the unfinished files and folders of killed processes; call it only while no process writes.

    They are known by their names: other programs also write to hidden files that end in `.part`.
    """
    for part in [path for path in folder.rglob(".*.part") if PART.fullmatch(path.name)]:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock `path`, a file or folder, against other commands; raise RunError if one of them has locked it."""
    with explain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another command is writing {path}; let it finish or stop it") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Convert an error of the disk (full, read-only, missing) to a RunError about `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"cannot write {path}: {reason}. Finished work is kept; fix this and rerun") from error
