"""How every command of this folder ends: a person's mistake is one sentence and exit code 2, no traceback."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse whose own complaints are one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_name()}: {message} (--help shows the options)\n")


def run(main: Callable[[], int | None]) -> None:
    """Call `main()`, at the end of a command's file; exits with what it returns, if that is not 0 or None.

    ValueError (with it LoadError, RunError, ...) and OSError are the person's, and end in a sentence;
    anything else is ours, and keeps its traceback.
    """
    try:
        code = main()
    except (ValueError, OSError) as error:
        code = fail(_remedy(error))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "out of memory" not in str(error).lower():
            raise
        code = fail("not enough memory: choose a smaller --batch or a smaller model; what was done is kept")
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        code = 130
    if code:
        sys.exit(code)


def _remedy(error: ValueError | OSError) -> str:
    from dsd.doctor import doctor  # only where it is needed: it takes its time to look around

    return doctor.remedy(error)


def fail(message: str) -> int:
    """Say it in one line on standard error; returns the exit code of a mistake."""
    print(f"{_name()}: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _name() -> str:
    """`train.prompts` for `python -m train.prompts`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
