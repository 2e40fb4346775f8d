"""Building all of pocket by one command: the order, the flags, and going on after a part that failed."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from train.pocket import all as building

ROOT = Path(__file__).parents[2]
README = (ROOT / "docs" / "training.md").read_text()


def commands(preset: str, *, tasks: bool = False) -> dict[str, list[str]]:
    """The arguments of every part."""
    return building.list_parts(Path("runs/x"), preset, tasks=tasks)


def test_every_part_is_a_command_that_train_readme_tells():
    told = set(re.findall(r"-m (train\.[\w.]+)", README))
    for arguments in commands("gpu").values():
        module = arguments[len(arguments) - 1 - arguments[::-1].index("-m") + 1]
        is_package = hasattr(import_module(module), "__path__")
        assert module in told and callable(import_module(f"{module}.__main__" if is_package else module).main)


@pytest.mark.parametrize("tasks", [False, True])
def test_flags_are_known_to_the_commands_of_the_wheel(tasks):
    known = []
    for name, arguments in commands("gpu", tasks=tasks).items():
        wheel = ("prompts", "grids", "dataset", "student", "evaluate", "curate")
        if name.split()[0] in wheel:
            module = arguments[len(arguments) - 1 - arguments[::-1].index("-m") + 1]
            given = arguments[arguments.index(module) + 1 :]
            command = import_module(module)  # SystemExit for a flag that is unknown or without an effect
            command.parse(given) if hasattr(command, "parse") else command._parser().parse_args(given)
            known.append(module.removeprefix("train."))
    turns, evaluated = (3, 3) if tasks else (1, 1)
    assert known == ["prompts", "grids", "curate", "dataset"] * turns + ["train"] + ["evaluate"] * evaluated


def test_with_tasks_one_student_learns_from_a_wheel_of_each():
    usual, parts = commands("gpu"), commands("gpu", tasks=True)
    for name, arguments in parts.items():
        is_taught = name == "judge" or name.startswith("teacher")
        assert ("--tasks" in arguments) == is_taught and "--tasks" not in usual.get(name, [])
    wheels = ["runs/x/wheel", "runs/x/relight", "runs/x/edit"]
    student = parts["student"]
    assert student[student.index("train.train") + 1 : student.index("--out")] == wheels
    for task, wheel in zip(("relight", "edit"), wheels[1:], strict=True):
        assert parts[f"prompts {task}"][-2:] == ["--task", task] and wheel in parts[f"curate {task}"]
    assert [name for name, arguments in parts.items() if "--refine" in arguments] == ["grids edit"]
    assert parts["grids"][-2:] == ["--batch", "32"] and "--batch" not in commands("cpu")["grids"]
    alike = {name for name in usual if not name.startswith(("teacher", "judge", "student"))}
    assert all(usual[name] == parts[name] for name in alike), "what was built before goes on"


def test_it_goes_on_with_the_part_that_failed(tmp_path):
    todo = {"a": ["1"], "b": ["2"], "c": ["3"]}
    called, codes = [], iter([0, 5, 0, 0])

    def call(arguments):
        called.append(arguments[0])
        return next(codes)

    with pytest.raises(SystemExit, match="5"):
        building.build(tmp_path, todo, None, call)
    building.build(tmp_path, todo, None, call)
    assert called == ["1", "2", "2", "3"]
    building.build(tmp_path, todo, None, call)
    assert called == ["1", "2", "2", "3"]


# A part that takes a while to end, as it leaves nothing unfinished behind.
PART = """
import pathlib, signal, sys, time
def stop(number, frame):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).touch()
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""
BUILD = """
import pathlib, sys
from train import command
from train.pocket.all import build
run, part = pathlib.Path(sys.argv[1]), ["-c", sys.argv[2], sys.argv[1] + "/ended"]
command.run(lambda: build(run, {"a": part}, None))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_stops_its_part_and_waits_for_it(tmp_path, number):
    arguments = [sys.executable, "-c", BUILD, str(tmp_path), PART]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"== a: python")
        while process.stdout.readline() != b"ready\n":  # the rest of the command
            assert process.poll() is None
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and b"run the same command again to continue" in said
    assert (tmp_path / "ended").exists() and not (tmp_path / "all.jsonl").exists()


def test_it_ends_after_so_many_parts(tmp_path):
    todo, called = {name: [name] for name in "abc"}, []
    for _ in range(2):
        building.build(tmp_path, todo, 1, lambda arguments: called.append(arguments[0]) or 0)
    assert called == ["a", "b"]


@pytest.mark.parametrize("preset", ["cpu", "gpu"])
def test_the_teachers_pieces_take_every_lesson_once_and_each_goes_on_from_the_one_before(preset):
    pieces = [arguments for name, arguments in commands(preset).items() if "teacher" in name]
    shares = [piece[piece.index("--lessons") + 1 :][:2] for piece in pieces]
    assert shares[0][0] == "0.0" and shares[-1][1] == "1.0"
    assert all(one[1] == other[0] for one, other in zip(shares, shares[1:], strict=False))
    assert [("--begin" in piece) for piece in pieces] == [False] + [True] * (len(pieces) - 1)


def test_no_part_on_a_gpu_may_take_more_than_eight_minutes():
    for arguments in commands("gpu").values():
        if "--minutes" in arguments:
            assert float(arguments[arguments.index("--minutes") + 1]) <= 8
