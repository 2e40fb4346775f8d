"""Measure what a piece of work costs: time, evaluations of a model and memory."""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Seconds:
    """The wall-clock and CPU time of a piece of work, in seconds."""

    wall: float
    cpu: float  # of all threads of the process; other load on the machine changes it little


def clock(work: Callable[[], Any]) -> tuple[Any, Seconds]:
    """Return the result and the time of `work`, including work that it queued on a GPU."""
    start = _now()
    result = work()
    end = _now()
    return result, Seconds(end.wall - start.wall, end.cpu - start.cpu)


def _now() -> Seconds:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Seconds(time.perf_counter(), time.process_time())


def shortest(work: Callable[[], Any], rounds: int = 5) -> float:
    """Return the wall-clock seconds of the shortest of `rounds` rounds, after a warm-up round."""
    work()
    return min(clock(work)[1].wall for _ in range(rounds))


def count_branches(model: torch.nn.Module, work: Callable[[], Any]) -> tuple[Any, list[int]]:
    """Return the result of `work` and how many images each call of the transformer evaluates."""
    sizes: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple, options: dict[str, Any]) -> None:
        sizes.append(len(options["hidden_states"]))

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return work(), sizes
    finally:
        handle.remove()


def forget_peak() -> None:
    """Free unused GPU memory and reset its recorded peak."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """Return the peak memory so far, in bytes: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # not available on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
