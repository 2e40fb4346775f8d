"""Two processes judge one run, are killed, and go on: nothing is asked twice, and nothing is lost."""

import json
import multiprocessing
import os
import threading
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from accelerate import PartialState

from dsd.files import jsonl
from tests.chat.server import Chat, serving
from tests.judging import make_run
from tests.servers import free_port
from train import curate

GRIDS, PAIRS = 16, 6
HALF = GRIDS * PAIRS // 2
IN_FLIGHT = 4
FLAGS = ("--embedder", "none", "--no-captions", "--batch", "2", "--in-flight", f"{IN_FLIGHT}")


def colors(index: int) -> tuple[str, ...]:
    """Return the colors of four panels that no other grid has."""
    return f"#ff00{index:02x}", f"#8000{index:02x}", f"#ff70{index:02x}", f"#00{index:02x}ff"


def curate_as(rank: int, port: int, run: Path, address: str) -> None:
    """Run the command as one of two processes, with what torchrun tells each of them."""
    ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), f"{rank}") | dict.fromkeys(
        ("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2"
    )
    os.environ.update({**ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"})
    PartialState._reset_state()
    curate.main([str(run), "--judge", address, *FLAGS])


def launch(run: Path, address: str) -> list[BaseProcess]:
    """Start both; forked, because importing torch anew takes seconds."""
    context, port = multiprocessing.get_context("fork"), free_port()
    processes = [context.Process(target=curate_as, args=(rank, port, run, address)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def end(processes: list[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(timeout=60)
    return [process.exitcode for process in processes]


class Halting(Chat):
    """A server that takes 20 ms for an answer, and halts after half of them until the killing is done."""

    def __init__(self) -> None:
        super().__init__(refuses=self.wait)
        self.killed = threading.Event()

    def wait(self, words: str, images: list) -> None:
        time.sleep(0.02)
        if len(self.seen) >= HALF:
            self.killed.wait(60)


def test_two_killed_processes_ask_nothing_twice_and_lose_nothing(tmp_path):
    slow = Halting()
    panels = [colors(index) for index in range(GRIDS)]
    run, alone = (make_run(tmp_path / name, *panels, recipe="identity") for name in ("run", "alone"))
    with serving(Chat()) as address:  # first, so that the processes need not import anything
        curate.main([str(alone), "--judge", address, *FLAGS])
    with serving(slow) as address:
        processes = launch(run, address)
        while len(slow.seen) < HALF and all(process.is_alive() for process in processes):
            time.sleep(0.005)
        for process in processes:
            process.kill()
        end(processes)
        slow.killed.set()
        paid, kept = len(slow.seen), len(jsonl.read_all(run / "answers.jsonl"))
        assert paid < GRIDS * PAIRS and paid - kept <= 2 * IN_FLIGHT
        assert end(launch(run, address)) == [0, 0]
    asked = Counter(json.dumps(body["messages"]) for body in slow.seen)
    assert len(asked) == GRIDS * PAIRS and asked.total() - len(asked) == paid - kept
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} == {"grids", "pairs.jsonl"}
    assert jsonl.read(run / "pairs.jsonl") == jsonl.read(alone / "pairs.jsonl")
