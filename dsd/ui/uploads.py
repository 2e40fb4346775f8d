"""Where uploads and pictures lie while they are needed: in a folder of one's own, and not for long.

Gradio's own folder is shared by all users of a machine, and what an app that was killed has left there stays
for ever. Here nobody else may look, and whatever is older than six hours goes, whoever left it.
"""

import contextlib
import os
import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from dsd.files import intake
from dsd.generate import provenance

KEPT = 6 * 3600  # seconds
EVERY = 3600  # seconds between two sweeps
VARIABLE = "GRADIO_TEMP_DIR"  # where gradio keeps its files; read again each time it needs to know
NAME = "dsd-uploads"
PREVIEW = 75  # quality of a JPEG


def settle() -> Path:
    """Make gradio keep its files in a folder that is this user's alone; sweeps what earlier runs left."""
    given = Path(os.environ.get(VARIABLE) or _own())
    folder = given if given.name == NAME else given / NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(folder.resolve())
    for place in (folder, _own()):
        sweep(place, KEPT)
    return folder


def settled() -> Path:
    """Return the folder that `settle` made, where alone gradio keeps what visitors send."""
    return Path(os.environ[VARIABLE])


def workplace() -> tempfile.TemporaryDirectory:
    """For pictures on their way to gradio, which copies them: outside its folder, where it would not."""
    (folder := _own() / "work").mkdir(mode=0o700, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=folder)


def preview(picture: Image.Image, folder: Path, number: int = 1) -> str:
    """A picture that is only looked at while another one is drawn, as a file in `folder`.

    Gradio keeps a copy of every one for hours: as the PNG that it would make of 512 pixels they fill a disk.
    """
    path = folder / f"preview-{number}.jpg"
    picture.convert("RGB").save(path, quality=PREVIEW, comment=provenance.MARK)
    return str(path)


def _own() -> Path:
    """In the machine's folder for temporary files, made for this user and closed to others."""
    folder = Path(tempfile.gettempdir(), f"dsd-{os.getuid()}" if hasattr(os, "getuid") else "dsd")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if hasattr(os, "getuid") and (folder.is_symlink() or folder.stat().st_uid != os.getuid()):
        raise ValueError(f"{folder} belongs to somebody else: set the variable TMPDIR to a folder of yours")
    return folder


def sweep(folder: Path, age: float) -> None:
    """Remove files older than `age` seconds, and folders that have been empty for as long."""
    oldest = time.time() - age
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        with contextlib.suppress(OSError):  # somebody else's, or gone already, or not empty
            if path.lstat().st_ctime > oldest:  # as gradio counts: a copy may bring its original's mtime
                continue
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def keep_sweeping(folder: Path) -> None:
    """Again every hour, while the app runs."""

    def work() -> None:
        while True:
            time.sleep(EVERY)
            for place in (folder, _own()):
                sweep(place, KEPT)

    threading.Thread(target=work, daemon=True, name="sweep").start()


def open_upload(path: str) -> Image.Image:
    """`intake.open_image`, for a page that was left open until its picture was gone."""
    if not Path(path).is_file():
        raise ValueError("your picture is gone, because uploads are not kept for long: upload it again")
    return intake.open_image(path)
