"""The frame of the commands in this folder: help, and errors that end with one sentence."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from dsd.files import signals
from dsd.files.errors import escape_output
from dsd.model.memory import is_out_of_memory


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
    signals.watch()
    try:
        code = main()
    except BaseException as error:
        code = _explain(error)
    if code:
        sys.exit(code)


def _explain(error: BaseException) -> int:
    """Print why the command ends and return its exit code; raise the error again if it is a bug."""
    if code := signals.code_of(error):
        print("stopped; run the same command again to continue", file=sys.stderr)
        return code
    if isinstance(error, ValueError | OSError):
        from dsd.doctor import doctor  # imported only when needed, because it is slow

        return fail(doctor.remedy(error))
    if is_out_of_memory(error):
        return fail("not enough memory: choose a smaller --batch or a smaller model; finished work is kept")
    raise error


def fail(message: str) -> int:
    """Print the message in one line on standard error and return exit code 2."""
    print(f"{_name()}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _name() -> str:
    """Return the command's name, such as `train.prompts` for `python -m train.prompts`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
