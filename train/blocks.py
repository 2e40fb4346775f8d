"""A stage of the wheel: items split into blocks, shared between processes, under one progress bar.

accelerate and torch are imported inside the functions, so that `--help` and mistyped flags respond at once.
"""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dsd.files import jsonl, whole
from dsd.files.jsonl import Record, Row, RunError
from dsd.vlm.base import VLM
from dsd.vlm.recorded import Recorded, forget

if TYPE_CHECKING:
    from accelerate import PartialState

KEPT = "kept"  # the outcome of a row that is not rejected
PATIENCE = 10  # seconds
TIMEOUT = timedelta(days=30)  # a resumed run may leave one process far more work than the others


def place() -> "PartialState":
    """Return the state of this process within its launch."""
    from accelerate import PartialState

    return PartialState()


def join() -> "PartialState":
    """Return the state of this process within its launch; call this before anything else creates one.

    accelerate counts CPU processes only if it is told that there is no GPU, and its default timeout is ten
    or thirty minutes. Processes share GPUs that are too few: a small model leaves most of one idle.
    """
    from accelerate import PartialState
    from torch import cuda

    from dsd.model.checkpoint import best_device

    alone = os.environ.get("ACCELERATE_USE_CPU") == "True" and "WORLD_SIZE" not in os.environ
    if alone and "MASTER_ADDR" in os.environ:  # --num_processes was given, but accelerate ignores it
        note = "note: accelerate starts one process on a CPU; torchrun --nproc-per-node N -m ... starts more"
        print(note, file=sys.stderr)
    if "WORLD_SIZE" in os.environ:
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    if crowded():
        cuda.set_device(int(os.environ["LOCAL_RANK"]) % cuda.device_count())
    return PartialState(cpu=best_device() == "cpu" or crowded(), timeout=TIMEOUT)


def _follow(launcher: int) -> None:
    """End this process when its launcher is gone: it would wait for hours in a rendezvous or a barrier."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)  # for the cleanup, which code outside of Python does not let begin
    os._exit(128 + signal.SIGTERM)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock `path`, which this launch is to write, and remove what killed commands left unfinished beside it.

    All processes call it together; in all of them it raises RunError if another command holds the lock.
    """
    from accelerate.utils import broadcast_object_list

    with ExitStack() as stack:
        error = None
        if place().is_main_process:
            try:
                stack.enter_context(whole.locked(path))
                whole.sweep(path.parent)
            except RunError as refused:
                error = refused
        (error,) = broadcast_object_list([error])
        if error:
            raise error
        yield


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
    """Wait until every process of this launch has called this, also processes that share a GPU.

    accelerate's own barrier names a GPU to wait on, but these synchronize on the CPU.
    """
    from torch import distributed

    if place().num_processes > 1:
        distributed.barrier()


def finish(work: Callable[[], object]) -> None:
    """Call `work` in the main process, after what all processes did before and before what they do next."""
    wait_for_all()
    if place().is_main_process:
        work()
    wait_for_all()


def say(*lines: str) -> None:
    """Print the lines in the main process only."""
    if place().is_main_process:
        print("\n".join(lines))


@dataclass
class Share:
    """The blocks that this process has to do, and what becomes of their rows."""

    blocks: list[list[Any]]
    append: Callable[[list[Row]], list[Row]]
    bar: tqdm
    outcome_of: Callable[[Row], str | None]
    outcomes: Counter
    start: float = field(default_factory=time.monotonic)
    written: int = 0

    def write(self, records: list[Record]) -> None:
        """Write the rows of a block and move the bar."""
        rows = self.append([record.to_json() for record in records])
        self.written += len(rows)
        self.outcomes.update(map(self.outcome_of, rows))
        self.bar.set_postfix_str(describe(self.outcomes), refresh=False)
        self.bar.update(len(rows))

    @property
    def speed(self) -> float:
        """Return the rows that this process has written per second."""
        return self.written / max(time.monotonic() - self.start, 1e-9)


@contextmanager
def stage(
    path: Path,
    items: dict[str, Any],
    *,
    batch: int,
    unit: str,
    item_of: Callable[[Row], str] = lambda row: row["id"],
    rows_of: Callable[[Any], int] = lambda item: 1,
    outcome_of: Callable[[Row], str | None] = lambda row: None,
) -> Iterator[Share]:
    """Yield this process's share of the items, by id, and merge all rows into `path` at the end.

    `item_of(row)` is the id of the item that a row came from, `rows_of(item)` the number of its rows, and
    `outcome_of(row)` what is counted beside the bar. Only the first process shows a bar, for its own share.
    """
    if batch < 1:
        raise ValueError(f"--batch must be at least 1, got {batch}")
    state = place()
    own_part = {"process": state.process_index}
    blocks = jsonl.split_blocks(list(items), batch=batch, processes=state.num_processes, **own_part)
    own = {name for block in blocks for name in block}
    finished = [row for row in jsonl.read_all(path) if item_of(row) in own]

    def expected(name: str) -> int:
        return rows_of(items[name]) if name in items else 0

    total, hidden = sum(rows_of(items[name]) for name in own), not state.is_main_process
    with (
        tqdm(total=total, initial=len(finished), unit=unit, disable=hidden) as bar,
        jsonl.resuming(path, blocks, item_of=item_of, rows_of=expected, **own_part) as (unfinished, append),
    ):
        todo = [[items[name] for name in block] for block in unfinished]
        yield Share(todo, append, bar, outcome_of, Counter(map(outcome_of, finished)))
    finish(lambda: jsonl.merge(path))


@contextmanager
def record_answers(vlm: VLM, folder: Path) -> Iterator[VLM]:
    """Yield the model with its answers kept in the folder until this ends without an error."""
    yield Recorded(vlm, folder, place().process_index)
    finish(lambda: forget(folder))


def describe(outcomes: Counter) -> str:
    """Return the counts as text: the kept rows, then the others by reason, the most frequent first."""
    others = [f"{count} {reason}" for reason, count in outcomes.most_common() if reason not in (None, KEPT)]
    return ", ".join([f"{outcomes[KEPT]} kept", *others]) if set(outcomes) - {None} else ""
