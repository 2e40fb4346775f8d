"""Progress reports of a running training: mean loss, gradient norm and times, and the files they go to."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dsd.files import jsonl
from dsd.training.options import TrainingError


class Meter:
    """Means since the last reading, and the seconds in the loop; losses stay on the device until then."""

    def __init__(self, accelerator: Accelerator, seconds: float) -> None:
        self.accelerator, self._earlier = accelerator, seconds
        self._began = self._mark = time.monotonic()
        self._norm: Any = None
        self._clear()

    @property
    def seconds(self) -> float:
        """Return the seconds in the loop, including earlier runs."""
        return self._earlier + time.monotonic() - self._began

    def timed(self, steps: Iterator[Any]) -> Iterator[Any]:
        """Yield the steps unchanged and count the time spent waiting for each."""
        while True:
            began = time.monotonic()
            step = next(steps, None)
            if step is None:
                return
            self._waited, self._steps = self._waited + time.monotonic() - began, self._steps + 1
            yield step

    def add(self, loss: Tensor, norm: Any) -> None:
        """Record a finished batch; `norm` is None if its step is not complete."""
        self._total, self._count = self._total + loss.detach(), self._count + 1
        self._norm = self._norm if norm is None else norm

    def read(self) -> dict[str, float]:
        """Return mean loss over all processes, last norm, step time, total time, and share spent waiting."""
        loss = self.accelerator.reduce(self._mean(), "mean").item()
        self.check()
        now = time.monotonic()
        took = now - self._mark
        values = {"loss": loss, "norm": _number(self._norm), "seconds_per_step": took / self._steps}
        values |= {"waiting": self._waited / took, "seconds": self.seconds}
        self._mark = now
        self._clear()
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the work inside the block, such as validation or saving, from the step time."""
        self.check()  # also waits until the device has finished the steps
        began = time.monotonic()
        yield
        self._mark += time.monotonic() - began

    def check(self) -> None:
        """Raise TrainingError if the loss or norm is not finite, before such a state is saved."""
        loss, norm = self._mean().item() if self._count else 0.0, _number(self._norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"the training has diverged (loss {loss}, gradient norm {norm}): choose a smaller --lr or "
                "--clip and another --out; the last state before this is whole"
            )

    def _mean(self) -> Tensor:
        return torch.as_tensor(self._total / self._count, device=self.accelerator.device)

    def _clear(self) -> None:
        self._total, self._count, self._steps, self._waited = 0.0, 0, 0, 0.0


def _number(norm: Any) -> float:
    """Return accelerate's norm as a float: None (0), a number, a tensor or a sharded tensor."""
    if norm is None:
        return 0.0
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


class Curves:
    """The loop's reports, appended to `curves.jsonl`, and to TensorBoard where it is installed."""

    def __init__(self, file: Path, board: Path | None = None) -> None:
        self.file, self._board = file, _board(board) if board else None

    def add(self, step: int, values: dict[str, float]) -> None:
        with jsonl.writing(self.file) as append:
            append([{"step": step, **{name: round(value, 6) for name, value in values.items()}}])
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)

    def scores(self) -> list[dict[str, float]]:
        """Return the reports that hold scores, one per step, ordered by step."""
        found = {row["step"]: row for row in jsonl.read(self.file) if "loss" not in row}
        return [found[step] for step in sorted(found)]


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
