"""Run a command in a process of its own, kill it at one of its writes, or let it find the disk full."""

import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path

import torch
from tqdm import tqdm

from dsd.files import signals
from dsd.generate import command as generate
from dsd.generate import flags
from tests.faults.writes import Writes
from tests.servers import free_port
from train import command, curate, dataset, evaluate, grids, prompts, teacher, train  # noqa: F401 preloaded
from train.baselines import __main__ as baselines  # noqa: F401 preloaded

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


def run(module: str, arguments: list[str], folder: Path, processes: int = 1, **injury: object) -> Ended:
    """Run a command that writes below `folder`, in one process or several; see `_work` for the injuries.

    If one process of several ends with an error, the others are killed, as torchrun does.
    """
    log, counted, said = folder.parent / f"{folder.name}.log", FORKS.Value("i", 0), []
    log.unlink(missing_ok=True)
    os.mkfifo(log)  # a file would be limited like those of the command
    reader = threading.Thread(target=lambda: said.append(log.read_text()), daemon=True)
    reader.start()
    children = [
        FORKS.Process(target=_work, args=(module, arguments, folder, log, counted, rank), kwargs=injury)
        for rank in (_ranks(processes) if processes > 1 else [{}])
    ]
    for child in children:
        child.start()
    code = _wait(children)
    reader.join(60)
    return Ended(code, said[0], counted.value)


def launch(module: str, arguments: list[str], processes: int) -> subprocess.Popen[str]:
    """Start a command with torchrun."""
    port = str(free_port())
    place = ["--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", port]
    line = [sys.executable, "-m", "torch.distributed.run", *place, "-m", f"train.{module}", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def _ranks(processes: int) -> list[dict[str, str]]:
    """Return the variables by which torchrun tells each process of its launch."""
    port = str(free_port())
    return [
        dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(processes)
    ]


def _wait(children: list) -> int:
    """Return the exit code of the first process that ends with an error, or else 0; kill those that hang."""
    running = {child.sentinel: child for child in children}
    while running:
        ended = [running.pop(sentinel) for sentinel in connection.wait(running, HOUR)]
        for child in ended:
            child.join()
        failed = [child.exitcode for child in ended if child.exitcode]
        if failed or not ended:
            for child in running.values():
                child.kill()
                child.join()
            return failed[0] if failed else -signal.SIGKILL
    return 0


def _work(
    module: str,
    arguments: list[str],
    folder: Path,
    log: Path,
    counted,
    rank: dict[str, str],
    *,
    kill_at: int | None = None,
    stop_at: int | None = None,
    stop_by: int = signal.SIGTERM,
    largest: int | None = None,
) -> None:
    """Kill it (SIGKILL) or stop it (`stop_by`) at a write, or let no file grow larger than some bytes."""
    os.environ.update(rank)
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    injuries = {kill_at: signal.SIGKILL, stop_at: stop_by}

    def on_write(_: int) -> None:
        with counted.get_lock():  # shared with the other processes of the launch
            counted.value += 1
            number = counted.value
        if number in injuries:
            os.kill(os.getpid(), injuries[number])

    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    sys.addaudithook(Writes(folder, on_write))
    if module == "generate":
        signals.watch()  # as its entry point does
        sys.exit(generate.run(flags.parse(arguments)))
    command.run(lambda: sys.modules[f"train.{module}"].main(arguments))
