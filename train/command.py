"""The frame of the commands in this folder: help, and errors that end with one sentence."""

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dsd.files.errors import escape_output


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that keeps the line breaks of its description and reports an error in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_name()}: {message} (--help shows the options)\n")


def run(main: Callable[[], int | None]) -> None:
    """Call `main()`, and exit with its return value unless it is 0 or None.

    ValueError (including LoadError and RunError), OSError and running out of memory end with one sentence and
    exit code 2. Any other error is a bug and keeps its traceback. SIGTERM ends the command as Ctrl-C does, so
    that its unfinished files are removed and its locks released. Control characters are printed escaped.
    """
    escape_output()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = main()
    except (ValueError, OSError) as error:
        from dsd.doctor import doctor  # imported only when needed, because it is slow

        code = fail(doctor.remedy(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
            raise
        code = fail("not enough memory: choose a smaller --batch or a smaller model; finished work is kept")
    except KeyboardInterrupt as stop:
        print("stopped; run the same command again to continue", file=sys.stderr)
        code = 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
    if code:
        sys.exit(code)


class _Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends at once
    raise _Terminated


def fail(message: str) -> int:
    """Print the message in one line on standard error and return exit code 2."""
    print(f"{_name()}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _name() -> str:
    """Return the command's name, such as `train.prompts` for `python -m train.prompts`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
