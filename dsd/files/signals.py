"""SIGTERM and Ctrl-C, remembered: how entry points end, also when a library catches their exception."""

import signal

_received: list[int] = []


def watch() -> None:
    """Let SIGTERM raise KeyboardInterrupt as Ctrl-C does, so that unfinished files go and locks are released.

    Call this in the main thread of an entry point. A second SIGTERM ends the process at once. A signal that
    the process was started to ignore, as a script's shell does for Ctrl-C in the background, stays ignored.
    """
    _received.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: object) -> None:
    _received.append(number)
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt


def code_of(error: BaseException) -> int | None:
    """Return the exit code of a process that a signal ended with this error; None if it was no signal.

    The error may be of any kind: torch's checkpoints, for one, replace every exception by their own.
    """
    if _received or isinstance(error, KeyboardInterrupt):
        return 128 + (_received[0] if _received else signal.SIGINT)
    return None
