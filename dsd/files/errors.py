"""Errors that several packages raise, and how entry points print; this module imports nothing of dsd."""

import re
import sys
from collections.abc import Callable

# What tqdm writes beside text: a return before a bar, and moves between the lines of several bars.
_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)+\Z|\r+")


class LoadError(ValueError):
    """Raised when a model cannot be opened; the message states the remedy."""


def printable(text: str) -> str:
    """Return text with its control characters escaped: text from a file must not steer the terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )


def escape_output() -> None:
    """Escape control characters in all that this process prints, except what moves progress bars.

    Every entry point calls this first. Texts from files and servers reach the terminal in many ways: as
    messages, in progress bars, logged warnings and tracebacks. The streams are changed in place, because the
    handlers of libraries may hold them already.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and "write" not in vars(stream):  # pythonw has no streams
            stream.write = _escaping(stream.write)


def _escaping(write: Callable[[str], int]) -> Callable[[str], int]:
    def write_escaped(text: str) -> int:
        moves = _MOVES.match(text)
        start = moves.end() if moves else 0
        return write(text[:start] + printable(text[start:]))

    return write_escaped
