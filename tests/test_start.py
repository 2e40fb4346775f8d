"""How commands start: --help and mistyped flags are answered at once, and Ctrl-C ends loading in one line."""

import json
import os
import subprocess
import sys

import pytest

from tests.project import ROOT

HEAVY = ("torch", "diffusers", "transformers", "peft", "numpy", "PIL", "gradio", "huggingface_hub")
TRAIN = ("prompts", "grids", "curate", "dataset", "train", "evaluate", "teacher", "baselines", "bench")


def run_with(flags: list[str], modules: list[str]) -> list[tuple[int, list[str]]]:
    """Run commands with each flag in one new process; return each exit code, and the heavy imports so far."""
    script = "\n".join(
        [
            "import json, runpy, sys",
            f"for module in {modules!r}:",
            f"    for flag in {flags!r}:",
            "        sys.argv = [module, flag]",
            "        try: runpy.run_module(module, run_name='__main__')",
            "        except SystemExit as stop: code = stop.code",
            f"        print('ended', json.dumps([code, sorted(set(sys.modules) & set({HEAVY!r}))]))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ended")]
    return [tuple(json.loads(line.removeprefix("ended"))) for line in lines]


@pytest.mark.parametrize("flag", ["--help", "--sharp"])
@pytest.mark.parametrize("module", ["app", "dsd.generate"])
def test_help_and_a_mistyped_flag_import_nothing_heavy(module, flag):
    assert run_with([flag], [module]) == [(0 if flag == "--help" else 2, [])]


def test_help_and_a_mistyped_flag_of_a_training_command_import_no_models():
    ended = run_with(["--help", "--sharp"], [f"train.{name}" for name in TRAIN])
    assert [code for code, _ in ended] == [0, 2] * len(TRAIN)
    assert not {*ended[-1][1]} & {*HEAVY[:4]}


INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(9)"


@pytest.mark.parametrize(
    ("command", "library", "said"),
    [
        (["app.py"], "spaces", "app.py: stopped"),
        (["-m", "dsd.generate", "photo.png", "a hat", "-o", "out.png"], "diffusers", "stopped"),
    ],
)
def test_an_interrupt_while_the_libraries_load_ends_in_one_line(tmp_path, command, library, said):
    (tmp_path / f"{library}.py").write_text(INTERRUPT)  # it stands for a slow import
    settings = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, **settings)
    assert (done.returncode, done.stderr.strip()) == (130, said)
