"""What a training says of itself while it runs: means of loss and norm, time, and where they are written."""

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
    """Means since the last reading, and the seconds of the loop. Losses stay on the device till then."""

    def __init__(self, accelerator: Accelerator, seconds: float) -> None:
        self.accelerator, self._earlier = accelerator, seconds
        self._began = self._mark = time.monotonic()
        self._norm: Any = None
        self._clear()

    @property
    def seconds(self) -> float:
        """Spent in the loop, by earlier runs too."""
        return self._earlier + time.monotonic() - self._began

    def timed(self, steps: Iterator[Any]) -> Iterator[Any]:
        """The same steps; how long each was waited for is counted."""
        while True:
            began = time.monotonic()
            step = next(steps, None)
            if step is None:
                return
            self._waited, self._steps = self._waited + time.monotonic() - began, self._steps + 1
            yield step

    def add(self, loss: Tensor, norm: Any) -> None:
        """A batch is done; `norm` is None where its step goes on."""
        self._total, self._count = self._total + loss.detach(), self._count + 1
        self._norm = self._norm if norm is None else norm

    def read(self) -> dict[str, float]:
        """Mean loss over all processes, last norm, seconds a step, share of time spent waiting for data."""
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
        """What is done inside the block, validating or saving, is no step's time."""
        self.check()  # it waits for what the device has still to do of the steps, too
        began = time.monotonic()
        yield
        self._mark += time.monotonic() - began

    def check(self) -> None:
        """TrainingError once numbers are no longer finite: what was saved before is still good."""
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
    """A norm as accelerate gives it: nothing yet, a number, a tensor, or one that is sharded."""
    if norm is None:
        return 0.0
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


class Curves:
    """Appends what the loop reports to `curves.jsonl`, and to TensorBoard where that is installed."""

    def __init__(self, file: Path, board: Path | None = None) -> None:
        self.file, self._board = file, _board(board) if board else None

    def add(self, step: int, values: dict[str, float]) -> None:
        with jsonl.writing(self.file) as append:
            append([{"step": step, **{name: round(value, 6) for name, value in values.items()}}])
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)

    def scores(self) -> list[dict[str, float]]:
        """The reports that hold scores, one a step, in the order of the steps."""
        found = {row["step"]: row for row in jsonl.read(self.file) if "loss" not in row}
        return [found[step] for step in sorted(found)]


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
