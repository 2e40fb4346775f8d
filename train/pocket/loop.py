"""The training loop of all pocket models: a learning rate schedule, an EMA and a resumable state."""

import io
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from dsd.files import whole
from dsd.files.whole import RunError
from dsd.training.optimizer import MuonAdamW, cpu_multiplies_bfloat16

SAVE_EVERY = 120.0  # seconds between saved states
WAIT = timedelta(days=30)  # the others wait for hours while the first process draws what all read
# Attention kernels: all except cuDNN's; see `dsd.training.student.KERNELS`.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextmanager
def mixed_precision() -> Iterator[None]:
    """Compute in bfloat16 on a GPU, and on a CPU with hardware support for it.

    Such a CPU (AVX-512 BF16 or AMX) is up to 2.7 times as fast with it; others take many times as long.
    On a CPU, attention stays in float32, whose fused kernel is up to twice as fast.
    """
    if device() == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            yield
    elif device() == "cpu" and cpu_multiplies_bfloat16():
        with torch.autocast("cpu", torch.bfloat16), _Float32Attention():
            yield
    else:
        yield


class _Float32Attention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            full = function(*map(_to_float32, args), **{name: _to_float32(v) for name, v in kwargs.items()})
        return full.bfloat16()


def _to_float32(value: Any) -> Any:
    """Convert float tensors to float32; keep boolean masks, which would mask nothing as numbers."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def ranks() -> tuple[int, int]:
    """Return (rank, processes) under `torchrun`, (0, 1) otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=WAIT)
    return distributed.get_rank(), distributed.get_world_size()


def average_gradients(model: nn.Module) -> None:
    """Average gradients over processes, in one message; all need gradients for the same parameters."""
    if ranks()[1] > 1:
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = nn.utils.parameters_to_vector(gradients)
        distributed.all_reduce(flat)
        nn.utils.vector_to_parameters(flat / ranks()[1], gradients)


def prefetch(batches: Dataset, first: int, steps: int) -> Iterator[Any]:
    """Return an iterator over `batches[step]` for the steps from `first` to `steps`, exclusive.

    With a GPU, worker processes prepare batches in advance, so that the GPU never waits.
    """
    workers = min(12, max(1, (os.cpu_count() or 1) - 2)) if device() == "cuda" else 0
    return iter(DataLoader(batches, batch_size=None, sampler=range(first, steps), num_workers=workers))


def learning_rate(step: int, passed: float, *, warmup: int = 200, decay: float = 0.3) -> float:
    """Return the share of the peak rate when a share `passed` of the training has passed.

    It warms up, is constant, and then falls as a cosine to a fiftieth over the last `decay` of the training.
    """
    fraction = min(1.0, max(0.0, (passed - (1 - decay)) / decay))
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))


MUON = {"lr": 0.015, "momentum": 0.95, "weight_decay": 0.01, "adjust_lr_fn": "original"}


def build_optimizer(model: nn.Module, rate: float) -> MuonAdamW:
    """Return Muon for the matrices of the blocks and AdamW, at this peak rate, for the rest."""
    adamw = {"lr": rate, "betas": (0.9, 0.97), "weight_decay": 1e-2, "fused": True}
    return MuonAdamW(model.named_parameters(), muon=MUON, adamw=adamw)


def join_optimizers(saved: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state; earlier versions saved those of Muon ("0") and AdamW ("1") apart."""
    if "0" not in saved:
        return saved
    muon, adamw = saved["0"], saved["1"]
    first = len(muon["param_groups"][0]["params"])  # number of AdamW's first weight
    group = adamw["param_groups"][0]
    group = group | {"params": [first + number for number in group["params"]]}
    state = {first + number: moments for number, moments in adamw["state"].items()}
    return {"state": muon["state"] | state, "param_groups": [*muon["param_groups"], group]}


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Set every group's rate to a share of its peak, which is its initial rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group.setdefault("initial_lr", group["lr"])


def build_ema(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    """Return an EMA whose decay grows to `decay`, so that the poor first weights do not stay in it."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (count.item() + 1) / (count.item() + 10)))

    return AveragedModel(model, multi_avg_fn=update)


def _share_first(value: float) -> float:
    """Return the first process's value in every process: clocks differ, but learning rates must not."""
    if ranks()[1] == 1:
        return value
    shared = torch.tensor(value)
    distributed.broadcast(shared, 0)
    return shared.item()


def _read(path: Path) -> dict[str, Any]:
    """Return a saved state, without running anything in it; raise RunError if it is damaged.

    torch.save writes a ZIP file with the checksum of each tensor, but torch.load does not compare them.
    """
    content = io.BytesIO(path.read_bytes())  # from here on, an OSError is damage, too
    try:
        with zipfile.ZipFile(content) as parts:
            if damaged := parts.testzip():
                raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # damage ends in many kinds, also in those of the pickle module
        remedy = "restore it, or delete it to train this part from its start"
        raise RunError(f"{path} is damaged ({_shorten(error)}): {remedy}") from error


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


class TrainState:
    """Model (as `name`), optimizer and EMA, saved together atomically and continued from the file.

    Raise RunError for a file that is damaged, or of a model of other sizes.
    Training ends after `steps` steps or `minutes` minutes, whichever comes first. A resumed run equals an
    uninterrupted one only without a time limit.
    """

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        steps: int,
        minutes: float | None = None,
        ema: AveragedModel | None = None,
        name: str = "model",
    ):
        self.path, self.model, self.optimizer, self.ema = path, model, optimizer, ema
        self.steps, self.minutes, self.step, self.seconds = steps, minutes, 0, 0.0
        self.objects = {name: model, "optimizer": optimizer} | ({"average": ema} if ema else {})
        self._saved_at = self._began = time.monotonic()
        if path.exists():
            self._load(_read(path))
            print(f"continuing {path} at step {self.step}", flush=True)

    def _load(self, saved: dict[str, Any]) -> None:
        try:
            saved["optimizer"] = join_optimizers(saved["optimizer"])
            for key, stateful in self.objects.items():
                stateful.load_state_dict(saved[key])
            self.step, self.seconds = int(saved["step"]), float(saved["seconds"])
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            remedy = "use the --preset that it was begun with, or delete the file to start over"
            raise RunError(f"{self.path} does not fit this training ({_shorten(error)}): {remedy}") from error

    @property
    def passed(self) -> float:
        """Return the finished share of the training, equal in all processes; at least 1 at the end."""
        share_of_steps = self.step / max(1, self.steps)
        if self.minutes is None:
            return share_of_steps
        share_of_time = (self.seconds + time.monotonic() - self._began) / (60 * self.minutes)
        return max(share_of_steps, _share_first(share_of_time))

    def save(self) -> None:
        if ranks()[0] != 0:
            return
        now = time.monotonic()
        self.seconds, self._began, self._saved_at = self.seconds + now - self._began, now, now
        saved, content = {key: stateful.state_dict() for key, stateful in self.objects.items()}, io.BytesIO()
        torch.save({**saved, "step": self.step, "seconds": self.seconds}, content)
        for part in self.path.parent.glob(f".{self.path.name}.*.part"):  # of a process that was killed
            part.unlink()
        whole.write_atomic(self.path, content.getbuffer())

    def count_step(self) -> None:
        """Count one step, and save if `SAVE_EVERY` seconds have passed since the last save."""
        self.step += 1
        if time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save()


def descend(
    state: TrainState,
    loss: Callable[[int], Tensor],
    *,
    warmup: int = 200,
    decay: float = 0.3,
    clip: float = 1.0,
    report: Callable[[], str] = str,
) -> None:
    """Minimize `loss(step)` until `state.passed` reaches 1, then save.

    Every 100 steps, print the mean loss since the last line, the steps per second and `report()`.
    """
    model, losses, since = state.model, [], time.monotonic()
    while (passed := state.passed) < 1:
        set_rate(state.optimizer, learning_rate(state.step, passed, warmup=warmup, decay=decay))
        with sdpa_kernel(ATTENTION):
            value = loss(state.step)
            value.backward()
        average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema:
            state.ema.update_parameters(model)
        losses.append(value.detach())  # read only when printed
        state.count_step()
        if state.step % 100 == 0:
            if ranks()[0] == 0:
                mean, speed = torch.stack(losses).mean().item(), len(losses) / (time.monotonic() - since)
                line = f"{state.path.stem} {state.step} ({passed:.1%})  loss {mean:.4f}  {speed:.2f} steps/s"
                print(f"{line}  {report()}".rstrip(), flush=True)
            losses, since = [], time.monotonic()
    state.save()


def step_seed(seed: int, step: int, where: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator seeded by step and rank, so that a resumed run samples the same."""
    return torch.Generator(where).manual_seed((seed * 1_000_003 + step) * 64 + ranks()[0])
