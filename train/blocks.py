"""A stage of the wheel: its items are split into blocks for several processes, its rows go to one file.

`dsd.files.jsonl.run_blocks` runs the blocks; this module assigns them to processes and shows a progress bar.
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

FOR_THE_SLOWEST = timedelta(days=30)  # a resumed run may leave one process far more work than the others


def join() -> PartialState:
    """Return the state of this process within its launch; call this before anything else creates one.

    accelerate counts CPU processes only if it is told that there is no GPU, and its default timeout is ten
    or thirty minutes. If there are more processes than GPUs, several share one: a small model leaves most of
    it idle.
    """
    from torch import cuda

    from dsd.model.checkpoint import best_device  # imported here to keep --help fast

    alone = os.environ.get("ACCELERATE_USE_CPU") == "True" and "WORLD_SIZE" not in os.environ
    if alone and "MASTER_ADDR" in os.environ:  # --num_processes was given, but accelerate ignores it
        note = "note: accelerate starts one process on a CPU; torchrun --nproc-per-node N -m ... starts more"
        print(note, file=sys.stderr)
    if crowded():
        cuda.set_device(int(os.environ["LOCAL_RANK"]) % cuda.device_count())
    return PartialState(cpu=best_device() == "cpu" or crowded(), timeout=FOR_THE_SLOWEST)


def crowded() -> bool:
    """Return whether several processes on this machine have to share a GPU."""
    from torch import cuda

    return 0 < cuda.device_count() < int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def own_device() -> str:
    """Return this process's device, a GPU with its index; call `join` first."""
    from torch import cuda

    from dsd.model.checkpoint import best_device

    best = best_device()
    return f"cuda:{cuda.current_device()}" if best == "cuda" else best


def wait_for_all() -> None:
    """Wait until every process of this launch has called this.

    accelerate's own barrier names a GPU to wait on, which does not work for processes that share a GPU and
    synchronize on the CPU.
    """
    if PartialState().num_processes > 1:
        from torch import distributed

        distributed.barrier()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Items to process, and the file for their rows."""

    path: Path
    items: list[Row]
    do: Callable[[list[Row]], list[Row]]  # a block of items -> their rows
    batch: int  # items per block
    unit: str  # what the bar calls a row
    item_of: Callable[[Row], str] = lambda row: row["id"]  # row -> the id of its item
    rows_of: Callable[[Row], int] = lambda item: 1  # item -> its number of rows
    reason_of: Callable[[Row], str | None] = lambda row: row.get("reason")  # row -> its outcome
    tell: Callable[[Counter], str] = lambda seen: ""  # counts of outcomes -> text for the bar

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"--batch must be at least 1, got {self.batch}")

    def run(self) -> float:
        """Process the unfinished items of this process's share and return its rows per second.

        Only the first process shows a bar, for its own share of the rows. When all processes are done, the
        first one merges the shards into one file.
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
    """Print the lines in the main process only."""
    if PartialState().is_main_process:
        print("\n".join(lines))
