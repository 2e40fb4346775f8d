"""Counts what a process does to the files of a folder."""

import os
from collections.abc import Callable
from pathlib import Path

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR


class Writes:
    """An audit hook that calls `on_write(number)` before each change of a file below `folder`, from 1."""

    def __init__(self, folder: Path, on_write: Callable[[int], None]) -> None:
        self.folder, self.on_write, self.number = f"{folder}{os.sep}", on_write, 0

    def __call__(self, event: str, values: tuple) -> None:
        path, is_open = str(values[0]) if values else "", event == "open"
        is_write = event in CHANGES or (is_open and isinstance(values[2], int) and values[2] & WRITING)
        if is_write and path.startswith(self.folder) and not path.endswith(".lock"):
            self.number += 1
            self.on_write(self.number)
