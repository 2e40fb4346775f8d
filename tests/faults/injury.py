"""Run a command in a process of its own, kill it at one of its writes, or let it find the disk full."""

import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from dsd.files import signals
from dsd.generate import command as generate
from dsd.generate import flags
from tests.faults.writes import Writes
from train import command, curate, dataset, evaluate, grids, prompts, train  # noqa: F401 preloaded

FORKS = get_context("forkserver")
# What every command would import anew.
FORKS.set_forkserver_preload(
    [
        "tests.faults.injury",
        "train.comparison",
        "dsd.training.card",
        "dsd.curation.dataset",
        "pandas",
        "matplotlib.figure",
    ]
)
HOUR = 3600


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal that killed it."""

    code: int
    said: str
    writes: int  # files that it opened to write, renamed or removed, until it ended


def run(module: str, arguments: list[str], folder: Path, **injury: object) -> Ended:
    """Run a command that writes below `folder`; see `_work` for the injuries."""
    log, counted, said = folder.parent / f"{folder.name}.log", FORKS.Value("i", 0), []
    log.unlink(missing_ok=True)
    os.mkfifo(log)  # a file would be limited like those of the command
    reader = threading.Thread(target=lambda: said.append(log.read_text()), daemon=True)
    reader.start()
    child = FORKS.Process(target=_work, args=(module, arguments, folder, log, counted), kwargs=injury)
    child.start()
    child.join(HOUR)
    reader.join(60)
    return Ended(child.exitcode, said[0], counted.value)


def _work(
    module: str,
    arguments: list[str],
    folder: Path,
    log: Path,
    counted,
    *,
    kill_at: int | None = None,
    stop_at: int | None = None,
    stop_by: int = signal.SIGTERM,
    largest: int | None = None,
) -> None:
    """Kill it (SIGKILL) or stop it (`stop_by`) at a write, or let no file grow larger than some bytes."""
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    injuries = {kill_at: signal.SIGKILL, stop_at: stop_by}

    def on_write(number: int) -> None:
        counted.value = number
        if number in injuries:
            os.kill(os.getpid(), injuries[number])

    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    sys.addaudithook(Writes(folder, on_write))
    if module == "generate":
        signals.watch()  # as its entry point does
        sys.exit(generate.run(flags.parse(arguments)))
    command.run(lambda: sys.modules[f"train.{module}"].main(arguments))
