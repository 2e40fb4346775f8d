"""How every training command ends: a person's mistake in one sentence, our own with its traceback."""

import os
import signal

import pytest

from dsd.files import jsonl, signals
from train import command


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a\nb"), 2, "a b"),
        (jsonl.RunError("full"), 2, "full"),
        (OSError("gone"), 2, "gone"),
        (RuntimeError("CUDA out of memory"), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "run the same command again"),
    ],
)
def test_a_persons_mistake_ends_a_command_without_a_traceback(capsys, error, code, said):
    with pytest.raises(SystemExit) as end:
        command.run(raising(error))
    assert end.value.code == code and said in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback():
    for error in (KeyError("x"), RuntimeError("shapes differ")):
        with pytest.raises(type(error)):
            command.run(raising(error))
    assert command.run(lambda: 0) is None


@pytest.fixture
def handlers(monkeypatch):
    """What signals do is as before after the test."""
    monkeypatch.setattr(signals, "_received", [])
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("error", [ValueError("cannot write"), RuntimeError("failed"), SystemExit(1)])
def test_a_signal_is_reported_also_when_a_library_replaces_its_exception(capsys, error, number):
    def main() -> None:
        try:
            os.kill(os.getpid(), number)
        except BaseException as stop:
            raise error from stop

    with pytest.raises(SystemExit) as end:
        command.run(main)
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == "stopped; run the same command again to continue\n"


@pytest.mark.usefixtures("handlers")
def test_ctrl_c_stops_no_command_that_a_shell_runs_in_the_background():
    """Such a shell lets it ignore SIGINT: Ctrl-C is for what runs in the foreground."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    went_on = []

    def main():
        os.kill(os.getpid(), signal.SIGINT)
        went_on.append(True)

    command.run(main)
    assert went_on
