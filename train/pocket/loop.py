"""Shared parts of the pocket trainings: a learning rate schedule, an EMA, and a resumable state."""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset


def device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def mixed_precision() -> AbstractContextManager:
    """Return a context that computes in bfloat16 on a GPU, and on a CPU with hardware support for it.

    Such a CPU (AVX-512 BF16 or AMX) is up to 2.7 times as fast with it; any other takes many times as long.
    On a CPU, attention stays in float32, whose fused kernel is up to twice as fast.
    """
    if device() == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    stack = ExitStack()
    if device() == "cpu" and _cpu_multiplies_bfloat16():
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(_Float32Attention())
    return stack


class _Float32Attention(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        full = {name: _full(value) for name, value in (kwargs or {}).items()}
        with torch.autocast("cpu", enabled=False):
            return function(*map(_full, args), **full).bfloat16()


def _full(value: Any) -> Any:
    """Return numbers in float32; a mask of booleans stays one, because as numbers it would mask nothing."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _cpu_multiplies_bfloat16() -> bool:
    known = torch.cpu.get_capabilities() if platform.machine() in ("x86_64", "AMD64") else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def ranks() -> tuple[int, int]:
    """Return (rank, processes) under `torchrun`, (0, 1) otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    return distributed.get_rank(), distributed.get_world_size()


def average_gradients(model: torch.nn.Module) -> None:
    """Average gradients over processes, in one message.

    Every process must have gradients for the same parameters.
    """
    _, processes = ranks()
    if processes == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    for gradient, mean in zip(
        gradients, (flat / processes).split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))


def once(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array in the file, which the first process makes if it does not exist."""
    if not path.exists() and ranks()[0] == 0:
        made = make()
        with (part := path.with_suffix(".part")).open("wb") as file:
            np.save(file, made)
        part.replace(path)
    if ranks()[1] > 1:
        distributed.barrier()
    return np.load(path, mmap_mode="r")


class _Steps(Dataset):
    def __init__(self, make: Callable[[int], Any]):
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)


def made_ahead(make: Callable[[int], Any], first: int, steps: int) -> Iterator[Any]:
    """Return an iterator over `make(step)` for the steps from `first` to `steps`, exclusive.

    With a GPU, worker processes make them ahead of time, so that it never waits; otherwise each is made when
    it is needed.
    """
    workers = min(12, max(1, (os.cpu_count() or 1) - 2)) if device() == "cuda" else 0
    order = range(first, steps)
    return iter(DataLoader(_Steps(make), batch_size=None, sampler=order, num_workers=workers))


def learning_rate(step: int, passed: float, *, warmup: int = 200, decay: float = 0.3) -> float:
    """Return the share of the peak rate: warm-up, constant, then a cosine decay to a fiftieth.

    `passed` is the share of the training that has passed; the cosine takes the last `decay` of the training.
    """
    fraction = min(1.0, max(0.0, (passed - (1 - decay)) / decay))
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fraction)))


MUON = {"lr": 0.015, "momentum": 0.95, "weight_decay": 0.01, "adjust_lr_fn": "original"}
PER_SAMPLE = ("norm", "embed")  # matrices applied to one vector per sample: too few rows for Muon to help


class Optimizers:
    """Muon for the matrices of the transformer's blocks and AdamW for the rest, as one optimizer.

    Muon learns several times as much from an image (Jordan et al. 2024).
    """

    def __init__(self, model: torch.nn.Module, rate: float, betas: tuple[float, float] = (0.9, 0.97)):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if _is_block_matrix(name, p)]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        adam = torch.optim.AdamW(others, rate, betas=betas, weight_decay=1e-2, fused=True)
        self.parts = ([torch.optim.Muon(matrices, **MUON)] if matrices else []) + [adam]
        for group in self.param_groups:
            group["initial_lr"] = group["lr"]

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict:
        return {f"{i}": part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, saved: dict) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(saved[f"{i}"])


def _is_block_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim == 2 and "transformer_blocks" in name and not any(n in name for n in PER_SAMPLE)


def set_rate(optimizer, share: float) -> None:
    """Set every group's rate to a share of its peak, which is its initial rate."""
    for group in optimizer.param_groups:
        group["lr"] = share * group.setdefault("initial_lr", group["lr"])


def running_average(model: torch.nn.Module, decay: float = 0.999) -> AveragedModel:
    """Return an EMA that forgets the first, poor weights: its decay grows to `decay`."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (count.item() + 1) / (count.item() + 10)))

    return AveragedModel(model, multi_avg_fn=update)


def _of_first_process(value: float) -> float:
    """Return the first process's value in all of them: clocks differ, and learning rates must not."""
    if ranks()[1] == 1:
        return value
    shared = torch.tensor(value)
    distributed.broadcast(shared, 0)
    return shared.item()


class State:
    """Named stateful objects that are saved together, whole or not at all; `step` counts the steps done.

    Training ends after `steps` steps or `minutes` minutes, whichever comes first. A resumed training equals
    an uninterrupted one only without a time limit.
    """

    def __init__(
        self, path: Path, steps: int, minutes: float | None = None, *, every: float = 120.0, **objects
    ):
        self.path, self.steps, self.minutes = path, steps, minutes
        self.every, self.objects = every, objects
        self.step, self.seconds = 0, 0.0
        self._saved_at = self._began = time.monotonic()

    @property
    def passed(self) -> float:
        """Return the share of the training that has passed, the same in all processes; 1 when it is over."""
        done = self.step / max(1, self.steps)
        if self.minutes is None:
            return done
        timed = (self.seconds + time.monotonic() - self._began) / (60 * self.minutes)
        return max(done, _of_first_process(timed))

    def load(self) -> "State":
        if self.path.exists():
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, obj in self.objects.items():
                obj.load_state_dict(saved[name])
            self.step, self.seconds = saved["step"], saved["seconds"]
            print(f"continuing {self.path} at step {self.step}", flush=True)
        return self

    def save(self) -> None:
        if ranks()[0] != 0:
            return
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        saved = {name: obj.state_dict() for name, obj in self.objects.items()}
        torch.save({**saved, "step": self.step, "seconds": self.seconds}, part)
        part.replace(self.path)
        self._saved_at = now

    def tick(self) -> None:
        """Count one step, and save if `every` seconds have passed since the last save."""
        self.step += 1
        if time.monotonic() - self._saved_at > self.every:
            self.save()


def descend(
    name: str, state: State, loss: Callable[[int], Tensor], *, warmup: int = 200, decay: float = 0.3
) -> None:
    """Optimize until `state.passed` reaches 1, then save.

    `state` holds `model`, its `average` and its `optimizer`; `loss` is a function of the step. Every 100
    steps the mean loss since the last line and the steps per second are printed.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)  # see `dsd.training.student.without_cudnn_attention`
    model, average, optimizer = (state.objects[part] for part in ("model", "average", "optimizer"))
    losses, since = [], time.monotonic()
    while (passed := state.passed) < 1:
        set_rate(optimizer, learning_rate(state.step, passed, warmup=warmup, decay=decay))
        value = loss(state.step)
        value.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        losses.append(value.detach())  # read only when printed
        state.tick()
        if state.step % 100 == 0:
            if ranks()[0] == 0:
                mean, now = torch.stack(losses).mean().item(), time.monotonic()
                speed = len(losses) / (now - since)
                print(f"{name} {state.step} ({passed:.1%})  loss {mean:.4f}  {speed:.2f} steps/s", flush=True)
                since = now
            losses = []
    state.save()


def step_seed(seed: int, step: int, where: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator seeded by step and rank, so that a resumed run samples as an unbroken one would."""
    return torch.Generator(where).manual_seed((seed * 1_000_003 + step) * 64 + ranks()[0])
