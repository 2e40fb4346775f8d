"""Killed at any write, stopped, or on a full disk: the same command continues to the same files."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("resource")
pytest.importorskip("pyarrow")

from tests.faults import commands  # noqa: E402
from tests.faults.commands import Command, contents  # noqa: E402

NAMES = ("prompts", "grids", "curate", "dataset", "train", "teacher", "evaluate", "generate")
LONG = ("train in full", "train in two", "baselines")


class Wheel:
    """The commands, and what each leaves when nothing happens to it."""

    def __init__(self, folder: Path) -> None:
        self.commands, self.whole, self.folder = commands.make(folder), {}, folder / "runs"
        self.folder.mkdir()

    def begin(self, name: str) -> Path:
        """Return the folder of a command as it begins: always the same one, as a hash may hold its name."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.commands[name].prepare(self.folder / name)

    def unharmed(self, name: str) -> tuple[int, dict[str, bytes]]:
        """Return the number of writes of a command, and its files."""
        if name not in self.whole:
            folder = self.begin(name)
            ended = self.commands[name].run(folder)
            assert ended.code == 0, ended.said
            self.whole[name] = ended.writes, contents(folder)
            folder.rename(self.folder / f"{name}-whole")
        return self.whole[name]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Wheel:
    return Wheel(tmp_path_factory.mktemp("wheel"))


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.part"))


def check_continues(command: Command, folder: Path, whole: dict[str, bytes]) -> None:
    ended = command.run(folder)
    assert ended.code == 0, ended.said
    found = contents(folder)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
    assert not leftovers(folder)


@pytest.mark.seeds(1, 12, suite=("prompts", "grids", "train"))
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_write_it_continues_to_the_same_files(made, name, seed):
    kill_and_continue(made, name, seed)


@pytest.mark.seeds(1, 4, suite=())
@pytest.mark.parametrize("name", LONG)
def test_killed_at_a_write_what_takes_long_continues_to_the_same_files(made, name, seed):
    kill_and_continue(made, name, seed)


def kill_and_continue(made: Wheel, name: str, seed: int) -> None:
    writes, whole = made.unharmed(name)
    command, dice = made.commands[name], random.Random(f"{name} {seed}")
    run = made.begin(name)
    ended = command.run(run, kill_at=dice.randint(1, writes))
    assert ended.code == -signal.SIGKILL, ended.said
    check_continues(command, run, whole)


@pytest.mark.seeds(1, 4, suite=("dataset",))
@pytest.mark.parametrize("name", NAMES)
def test_stopped_it_leaves_no_unfinished_file_and_says_so(made, name, seed):
    writes, whole = made.unharmed(name)
    command, dice = made.commands[name], random.Random(f"stop {name} {seed}")
    folder, number = made.begin(name), (signal.SIGTERM, signal.SIGINT)[seed % 2]
    ended = command.run(folder, stop_at=dice.randint(1, writes), stop_by=number)
    assert ended.code == 128 + number and "stopped" in ended.said.splitlines()[-1], ended.said
    assert "Traceback" not in ended.said and not leftovers(folder)
    check_continues(command, folder, whole)


@pytest.mark.all_faults
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("target", ["launcher", "0", "1"])
def test_a_launch_of_which_one_process_is_stopped_ends_as_a_whole(made, target, seed):
    """torchrun kills what does not end within 30 s of its SIGTERM, and says so."""
    _, whole = made.unharmed("train with torchrun")
    command, dice = made.commands["train with torchrun"], random.Random(f"torchrun {target} {seed}")
    folder = made.begin("train with torchrun")
    with command.launch(folder) as launcher:
        wait_for_step(folder, dice.randint(1, 12), launcher)
        time.sleep(dice.random() * 0.3)
        process = psutil.Process(launcher.pid)
        family = process.children(recursive=True)
        ranks = {worker.environ()["RANK"]: worker.pid for worker in process.children()}
        os.kill(launcher.pid if target == "launcher" else ranks[target], signal.SIGTERM)
        _, said = launcher.communicate(timeout=120)
    assert launcher.returncode and "stopped; run" in said and "forcefully" not in said, said
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert not leftovers(folder)
    check_continues(command, folder, whole)


def wait_for_step(folder: Path, step: int, launcher: subprocess.Popen) -> None:
    states = folder / "run" / "states"
    while not any(int(state.name[len("step-") :]) >= step for state in states.glob("step-*")):
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.01)


@pytest.mark.seeds(1, 8, suite=("dataset", "generate"))
@pytest.mark.parametrize("name", NAMES)
def test_on_a_full_disk_it_ends_in_a_sentence_with_everything_before_it_intact(made, name, seed):
    """A limit on the size of a file, which every kind of writer meets, in Python or not."""
    _, whole = made.unharmed(name)
    command, dice = made.commands[name], random.Random(f"full {name} {seed}")
    done = made.folder / f"{name}-whole"
    folder = made.begin(name)
    before = contents(folder) if folder.exists() else {}
    largest = max((done / file).stat().st_size for file in whole if before.get(file) != whole[file])
    ended = command.run(folder, largest=int(largest * dice.uniform(0.05, 0.95)))
    assert ended.code == 2 and "Traceback" not in ended.said, ended.said
    assert "cannot write" in ended.said.splitlines()[-1]
    assert not leftovers(folder)
    kept = contents(folder) if folder.exists() else {}
    assert {file: kept.get(file) for file in before} == before
    check_continues(command, folder, whole)
