"""Run a command as `python -m` does, inside this process, and keep what it prints."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image

SMALL = ("--width", "128", "--height", "128", "--steps", "2", "--seed", "1")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """Return the last line on standard error, where commands say why they failed."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def run(module: str, *arguments: object) -> Ended:
    """Run a command; an error that it does not turn into a sentence is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = mock.patch.object(sys, "argv", [module, *map(str, arguments)])
    with argv, redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def succeed(module: str, *arguments: object) -> Ended:
    ended = run(module, *arguments)
    assert ended.code == 0, ended.err
    return ended


def draw(out: Path, subject: Path, *flags: object, size: tuple = SMALL) -> Image.Image:
    """Draw one image into the file `out` with `dsd.generate`."""
    succeed("dsd.generate", subject, "a red hat on the beach", "-o", out, *size, *flags)
    return Image.open(out).convert("RGB")
