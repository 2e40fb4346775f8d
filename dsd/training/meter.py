"""Numbers for the progress reports of a running training: mean loss, gradient norm and times."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dsd.training.options import TrainingError


class Meter:
    """Means since the last reading, and the seconds in the loop; losses stay on the device until then."""

    def __init__(self, accelerator: Accelerator, seconds: float) -> None:
        self.accelerator = accelerator
        self._mark = time.monotonic()
        self._start = self._mark - seconds  # as if earlier runs had just ended
        self._norm: Any = 0.0  # a number, a tensor or a sharded tensor
        self._clear()

    def _clear(self) -> None:
        self._total, self._count, self._steps, self._waited = 0.0, 0, 0, 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds in the loop, including earlier runs."""
        return time.monotonic() - self._start

    def measure(self, steps: Iterator[Any]) -> Iterator[Any]:
        """Yield the steps unchanged and count the time spent waiting for each."""
        start = time.monotonic()
        for step in steps:
            self._waited += time.monotonic() - start
            self._steps += 1
            yield step
            start = time.monotonic()

    def add(self, loss: Tensor, norm: Any) -> None:
        """Record a finished batch; `norm` is None if its step is not complete."""
        self._total, self._count = self._total + loss.detach(), self._count + 1
        self._norm = self._norm if norm is None else norm

    def read(self) -> dict[str, float]:
        """Return mean loss over all processes, last norm, step time, total time, and share spent waiting."""
        loss, norm = self.accelerator.reduce(self._mean(), "mean").item(), self.check()
        elapsed = time.monotonic() - self._mark
        self._mark += elapsed
        values = {"loss": loss, "norm": norm, "seconds_per_step": elapsed / self._steps}
        values |= {"waiting": self._waited / elapsed, "seconds": self.seconds}
        self._clear()
        return values

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the work inside the block, such as validation or saving, from the step time."""
        self.check()  # also waits until the device has finished the steps
        start = time.monotonic()
        yield
        self._mark += time.monotonic() - start

    def check(self) -> float:
        """Return the last norm; raise TrainingError if it or the loss is infinite, before that is saved."""
        loss = self._mean().item() if self._count else 0.0
        norm = float(self._norm.full_tensor() if hasattr(self._norm, "full_tensor") else self._norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise TrainingError(
                f"the training has diverged (loss {loss}, gradient norm {norm}): choose a smaller --lr or "
                "--clip and another --out; the last saved state is intact"
            )
        return norm

    def _mean(self) -> Tensor:
        return torch.as_tensor(self._total / self._count, device=self.accelerator.device)
