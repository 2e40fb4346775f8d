"""What the small trainings share: a schedule, a running average, and a state that a re-run continues."""

import math
import time
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def learning_rate(step: int, steps: int, peak: float, *, warmup: int = 200, decay: float = 0.3) -> float:
    """Linear warm-up, flat, then a cosine down to a fiftieth over the last `decay` of all steps."""
    start = steps * (1 - decay)
    fraction = min(1.0, max(0.0, (step - start) / max(1.0, steps - start)))
    return peak * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))


def running_average(model: torch.nn.Module, decay: float = 0.999) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


class State:
    """Named stateful objects saved together, whole or not at all; `step` counts the steps done."""

    def __init__(self, path: Path, every: float = 120.0, **objects):
        self.path, self.every, self.objects = path, every, objects
        self.step, self.seconds = 0, 0.0
        self._saved_at = self._began = time.monotonic()

    def load(self) -> "State":
        if self.path.exists():
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, obj in self.objects.items():
                obj.load_state_dict(saved[name])
            self.step, self.seconds = saved["step"], saved["seconds"]
            print(f"continuing {self.path} at step {self.step}", flush=True)
        return self

    def save(self) -> None:
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        saved = {name: obj.state_dict() for name, obj in self.objects.items()}
        torch.save({**saved, "step": self.step, "seconds": self.seconds}, part)
        part.replace(self.path)
        self._saved_at = now

    def tick(self) -> None:
        """Count one step, and save when `every` seconds have passed."""
        self.step += 1
        if time.monotonic() - self._saved_at > self.every:
            self.save()


def step_seed(seed: int, step: int) -> torch.Generator:
    """Randomness as a function of the step, so that a continued run draws what an unbroken one would."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
