"""A stage of the wheel, shared between processes, under one bar: its items in blocks, its rows in one file.

What a block becomes is `dsd.files.jsonl.run_blocks`' affair; here is who does which, and how it is shown.
"""

import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from tqdm import tqdm

from dsd.files import jsonl
from dsd.files.jsonl import Row

FOR_THE_SLOWEST = timedelta(days=30)  # a run that goes on may leave one process far more than the others


def join() -> PartialState:
    """This process among those of its launch; to be called before anything else asks for that.

    accelerate counts CPU processes only if it is told that there is no GPU, and lets nobody wait for more
    than ten or thirty minutes unless it is told for how long. Of more processes than GPUs, several work on
    one: a small model leaves most of it idle.
    """
    from torch import cuda

    from dsd.model.checkpoint import best_device  # here, so that --help answers at once

    alone = os.environ.get("ACCELERATE_USE_CPU") == "True" and "WORLD_SIZE" not in os.environ
    if alone and "MASTER_ADDR" in os.environ:  # --num_processes was given, and is ignored
        note = "note: accelerate starts one process on a CPU; torchrun --nproc-per-node N -m ... starts more"
        print(note, file=sys.stderr)
    if crowded():
        cuda.set_device(int(os.environ["LOCAL_RANK"]) % cuda.device_count())
    return PartialState(cpu=best_device() == "cpu" or crowded(), timeout=FOR_THE_SLOWEST)


def crowded() -> bool:
    """Whether several processes of this machine have to share a GPU."""
    from torch import cuda

    return 0 < cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device() -> str:
    """This process's, by a name that holds for whoever is told; after `join`."""
    from torch import cuda

    from dsd.model.checkpoint import best_device

    best = best_device()
    return f"cuda:{cuda.current_device()}" if best == "cuda" else best


def wait_for_all() -> None:
    """Until every process of this launch is here.

    accelerate's own names a GPU to wait on, which processes that share one, and meet on the CPU, do not have.
    """
    if PartialState().num_processes > 1:
        from torch import distributed

        distributed.barrier()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Items whose rows go to one file."""

    path: Path
    items: list[Row]
    do: Callable[[list[Row]], list[Row]]  # a block of items -> their rows
    batch: int  # items in a block
    unit: str  # of the rows, for the bar
    item_of: Callable[[Row], str] = lambda row: row["id"]  # the id of the item that a row came from
    rows_of: Callable[[Row], int] = lambda item: 1  # how many rows an item becomes
    reason_of: Callable[[Row], str | None] = lambda row: row.get("reason")  # what became of a row
    tell: Callable[[Counter], str] = lambda seen: ""  # what the bar says of the rows' reasons

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1, got {self.batch}")

    def run(self) -> float:
        """Do what is not done yet, in this process and those beside it; returns rows per second of this one.

        The bar is the first process's and shows its own share of the rows. When all are through, the shards
        are one file.
        """
        state, began = PartialState(), time.monotonic()
        mine = {item["id"]: item for item in self._share(state.process_index, state.num_processes)}
        done = [row for row in jsonl.read_all(self.path) if self.item_of(row) in mine]
        seen = Counter(map(self.reason_of, done))
        with self._bar(list(mine.values()), len(done), hidden=not state.is_main_process) as bar:

            def show(new: list[Row]) -> None:
                seen.update(map(self.reason_of, new))
                bar.set_postfix_str(self.tell(seen), refresh=False)
                bar.update(len(new))

            self._do(state, show)
        wait_for_all()
        if state.is_main_process:
            jsonl.merge(self.path)
        wait_for_all()
        return (seen.total() - len(done)) / max(time.monotonic() - began, 1e-9)

    def _share(self, process: int, processes: int) -> list[Row]:
        blocks = range(process, math.ceil(len(self.items) / self.batch), processes)
        return [item for k in blocks for item in self.items[k * self.batch : (k + 1) * self.batch]]

    def _bar(self, mine: list[Row], done: int, *, hidden: bool) -> tqdm:
        return tqdm(total=sum(map(self.rows_of, mine)), initial=done, unit=self.unit, disable=hidden)

    def _do(self, state: PartialState, show: Callable[[list[Row]], None]) -> None:
        jsonl.run_blocks(
            self.path,
            self.items,
            self.do,
            batch=self.batch,
            process=state.process_index,
            processes=state.num_processes,
            item_of=self.item_of,
            on_rows=show,
        )


def say(*lines: str) -> None:
    """Print, in one process only."""
    if PartialState().is_main_process:
        print("\n".join(lines))
