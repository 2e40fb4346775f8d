"""Temporary storage for uploads and images: a private folder for each user, swept regularly.

All users of a machine share gradio's default folder, where files left by a killed app stay forever. Only one
user can read the folder used here, and files older than five hours are deleted, also those of earlier runs.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from dsd.files import intake
from dsd.generate import provenance

KEPT = 5 * 3600  # seconds
EVERY = 3600  # seconds between sweeps
HOURS = (KEPT + EVERY) // 3600  # after which no file is left: what visitors are promised
MAX_TOTAL = 2_000_000_000  # bytes in the folder, of uploads and of images made here
SMALLEST = 50_000  # bytes that a file counts as at least, which limits their number, too
IN_USE = 600  # seconds after its last use for which a file is kept even if space is short
VARIABLE = "GRADIO_TEMP_DIR"  # gradio's variable for its file folder; gradio reads it again at every use
NAME = "dsd-uploads"
PREVIEW = 75  # JPEG quality
FULL = "there is no space for more uploads now: try again in ten minutes"
_used: dict[str, float] = {}  # path -> time when a request last named it
_arriving: list[int] = []  # bytes of each upload on its way
GONE = "your image is gone, because uploads are not kept for long: upload it again"


def settle() -> Path:
    """Make gradio use this user's private folder, sweep old files, and return the folder."""
    parent = Path(os.environ.get(VARIABLE) or _own())
    folder = parent if parent.name == NAME else parent / NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder.resolve())
    for place in (folder, _own()):
        sweep(place, KEPT)
    return folder


def workplace() -> tempfile.TemporaryDirectory:
    """Return a temporary folder outside gradio's own, for images that gradio is to copy.

    Gradio does not copy files that are already in its folder.
    """
    return tempfile.TemporaryDirectory(dir=workplace_folder())


def workplace_folder() -> Path:
    """Return the folder that holds the workplaces of all running requests; create it if needed."""
    (folder := _own() / "work").mkdir(mode=0o700, exist_ok=True)
    return folder


def preview(image: Image.Image, folder: Path, number: int = 1) -> str:
    """Save an image that is shown only during drawing as a JPEG in `folder`, and return its path.

    Gradio keeps a copy of every preview for hours. The 512-pixel PNGs that it would write itself fill a disk.
    """
    path = folder / f"preview-{number}.jpg"
    image.convert("RGB").save(path, quality=PREVIEW, comment=provenance.MARK)
    return str(path)


def _own() -> Path:
    """Return this user's private folder in the system's temporary folder; create it if needed."""
    folder = Path(tempfile.gettempdir(), f"dsd-{os.getuid()}" if hasattr(os, "getuid") else "dsd")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise ValueError(f"{folder} belongs to somebody else: set the variable TMPDIR to a folder of yours")
    return folder


def sweep(folder: Path, age: float) -> None:
    """Remove files older than `age` seconds, and folders that have been empty for as long."""
    oldest = time.time() - age
    for path in _list_tree(folder):
        with contextlib.suppress(OSError):  # another user's, already deleted, or a folder that is not empty
            if path.lstat().st_ctime > oldest:  # ctime, like gradio: a copy may keep its original's mtime
                continue
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _list_tree(folder: Path) -> list[Path]:
    """Return files and folders, the contents of a folder before it; another app may delete some meanwhile."""
    tree = os.walk(folder, topdown=False)  # unlike rglob, it skips folders that are gone
    return [Path(place, name) for place, folders, files in tree for name in (*files, *folders)]


def use(path: Path) -> None:
    """Note that a request has named this file just now."""
    _used[str(path)] = time.time()


@contextlib.contextmanager
def arriving(size: int) -> Iterator[None]:
    """Reserve space for an upload of `size` bytes until it is a file that `make_room` counts."""
    _arriving.append(size)
    try:
        yield
    finally:
        _arriving.remove(size)


def make_room(size: int = 0) -> bool:
    """Remove the oldest files that are not in use until uploads on their way and `size` more bytes fit.

    Return whether they do.
    """
    folder, now = Path(os.environ[VARIABLE]), time.time()
    files = {}
    for path in _list_tree(folder):
        with contextlib.suppress(OSError):  # already deleted
            if path.is_file() and not path.is_symlink():
                files[path] = path.stat()
    last = {path: max(_used.get(str(path), 0.0), stat.st_ctime) for path, stat in files.items()}
    sizes = {path: max(SMALLEST, stat.st_size) for path, stat in files.items()}
    total = size + sum(_arriving) + sum(sizes.values())
    for path in sorted(files, key=last.__getitem__):
        if total <= MAX_TOTAL or last[path] > now - IN_USE:
            break
        path.unlink(missing_ok=True)
        total -= sizes[path]
    for gone in _used.keys() - {str(path) for path in files}:
        _used.pop(gone, None)
    return total <= MAX_TOTAL


def keep_sweeping() -> None:
    """Sweep the upload folders every hour while the app runs."""

    def work() -> None:
        while True:
            time.sleep(EVERY)
            settle()

    threading.Thread(target=work, daemon=True, name="sweep").start()


def open_upload(path: str | None, gone: str = GONE) -> Image.Image:
    """Open an upload with `intake.open_image`; raise ValueError, saying `gone`, if it has been deleted."""
    if not path or not Path(path).is_file():
        raise ValueError(gone)
    return intake.open_image(path)
