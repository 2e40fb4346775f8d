"""Texts from files, servers and arguments reach the terminal with their control characters escaped."""

import gc
import io
import logging
import re
import runpy
import sys

import pytest
from tqdm import tqdm

from dsd.files.errors import escape_output
from tests.project import ROOT

HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\x9bd\u202ee\rf\x08"
ESCAPED = r"a\x1b[2Jb\x1b]0;title\x07c\x9bd\u202ee\rf\x08"


def commands() -> list[str]:
    """Return every module of the project that is started with `python -m`, and the app."""
    files = [file for folder in ("dsd", "train") for file in (ROOT / folder).rglob("*.py")]
    started = [f for f in files if f.name == "__main__.py" or 'if __name__ == "__main__"' in f.read_text()]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in started]
    return sorted(name.removesuffix(".__main__") for name in names) + ["app"]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("name", commands())
def test_no_command_prints_control_characters(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, f"--unknown={HOSTILE}"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, run_name="__main__")
    gc.enable()  # the app disables it while it starts
    print(HOSTILE)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == f"{ESCAPED}\n"
    assert "\x1b" not in err and "\x9b" not in err and "\u202e" not in err


def test_the_commands_are_found():
    assert {"app", "dsd.generate", "dsd.doctor", "train.curate", "train.pocket.judge"} <= {*commands()}


def show_bar() -> None:
    with tqdm(total=1) as bar:
        bar.set_postfix_str(HOSTILE)
        bar.write(HOSTILE)


def fail() -> None:
    try:
        raise KeyError(HOSTILE)
    except KeyError as error:
        sys.excepthook(type(error), error, error.__traceback__)


@pytest.mark.parametrize(
    "say",
    [
        lambda: print("reason:", HOSTILE, file=sys.stderr),
        lambda: sys.stdout.writelines([HOSTILE, "\n", HOSTILE]),
        lambda: logging.lastResort.handle(logging.makeLogRecord({"msg": HOSTILE, "levelno": logging.ERROR})),
        show_bar,
        fail,
    ],
)
def test_however_it_is_printed(say, capsys):
    escape_output()
    say()
    printed = "".join(capsys.readouterr())
    assert "e\\rf" in printed and not re.search(r"[\x00-\x08\x1b\x7f-\x9f\u202e]", printed)


def test_a_handler_that_holds_the_stream_already_is_covered(capsys):
    handler = logging.StreamHandler()
    escape_output()
    handler.emit(logging.makeLogRecord({"msg": HOSTILE}))
    assert capsys.readouterr().err == f"{ESCAPED}\n"


def test_lines_and_progress_bars_move_as_before(capsys):
    escape_output()
    print("one\ntwo ü 猫")
    for number in (0, 1):  # the second bar is drawn below the first
        tqdm(total=1, position=number, file=sys.stdout).close()
    out = capsys.readouterr().out
    assert out.startswith("one\ntwo ü 猫\n\r") and "\n\r" in out and "\x1b[A" in out and "\\" not in out


def test_a_real_stream_takes_it(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8", write_through=True))
    for _ in range(2):  # calling it again changes nothing
        escape_output()
    print("name \udcff", HOSTILE)
    assert raw.getvalue().decode() == f"name \\udcff {ESCAPED}\n"
