"""Where a training stands, on disk: whole or not at all, the last two, and never one that is damaged.

A state holds the weights that move, their running average, the optimiser, and what the run is bound to. All
else is a function of the step. Every process writes its own part, so the folder must be one that all of them
see. DeepSpeed keeps its own format inside; every other mode can go on with another number of processes.
"""

import json
import logging
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dsd.files import jsonl
from dsd.training.options import TrainingError

logger = logging.getLogger(__name__)

KEPT = 2
MANIFEST = "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a training has come."""

    step: int = 0
    seconds: float = 0.0  # spent in the loop, over all its runs


def moving_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, by name, as this process holds them."""
    named = accelerator.unwrap_model(model).named_parameters()
    return {name: weight for name, weight in named if weight.requires_grad}


@torch.no_grad()
def gathered_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Copies of them, whole and on the CPU, on the main process; all processes call it together."""
    weights = {}
    for name, weight in moving_weights(accelerator, model).items():
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        if accelerator.is_main_process:
            weights[name] = whole.to("cpu", copy=True)
    return weights


class Average:
    """A running average of the weights that move; its decay grows, so that the first ones are forgotten."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay, self._live = decay, weights
        self.weights = {name: weight.detach().clone().float() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step `step`, counted from 0."""
        decay = min(self.decay, (step + 1) / (step + 10))
        live = [_local(weight).float() for weight in self._live.values()]
        torch._foreach_lerp_([_local(weight) for weight in self.weights.values()], live, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        before = {name: weight.detach().clone() for name, weight in self._live.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(before)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self._live.items():
            _local(weight).copy_(_local(weights[name]))


def shard_again(model: nn.Module) -> None:
    """After drawing, which leaves FSDP's outermost weights gathered: the average's, for the steps to come."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _local(weight: Tensor) -> Tensor:
    """What this process holds of a weight that FSDP shards."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


class States:
    """The states of a run in `folder`, by step."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        average: Average | None,
        bound: dict[str, Any],
    ) -> None:
        self.folder, self.accelerator, self.bound = folder, accelerator, bound
        self.model, self.optimizer, self.average = model, optimizer, average

    # -- save

    def save(self, progress: Progress) -> None:
        """Write a state; all processes call it together. It is there when it has its name."""
        part, whole = self.folder / f".{_name(progress.step)}.part", self.folder / _name(progress.step)
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        with jsonl.explained(whole):
            part.mkdir(parents=True, exist_ok=True)
            self.accelerator.wait_for_everyone()
            self._write(part)
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                self._finish(part, whole, progress)
        self.accelerator.wait_for_everyone()

    def _write(self, part: Path) -> None:
        if self._deepspeed:
            self.model.save_checkpoint(str(part), "engine", self._average(), exclude_frozen_parameters=True)
        else:
            with _one_process_is_fine():
                dcp.save(self._tensors(), checkpoint_id=part, no_dist=self.accelerator.num_processes == 1)

    def _finish(self, part: Path, whole: Path, progress: Progress) -> None:
        """Note what a whole state is made of, give it its name, and drop the oldest."""
        about = {"step": progress.step, "seconds": progress.seconds, "bound": self.bound}
        about["files"] = _sums(part)
        jsonl.write(part / MANIFEST, json.dumps(about, indent=1).encode())
        shutil.rmtree(whole, ignore_errors=True)
        part.replace(whole)
        for old in self._found()[KEPT:]:
            shutil.rmtree(old)

    # -- load

    def load(self, steps: int | None = None) -> Progress:
        """Go back to the newest whole state; the beginning where there is none.

        A damaged one is named and the one before is taken. TrainingError for a run of other settings or data,
        and for one that has done more than `steps`.
        """
        (about,) = broadcast_object_list([self._newest(steps) if self.accelerator.is_main_process else None])
        if isinstance(about, TrainingError):
            raise about
        if about is None:
            return Progress()
        self._read(self.folder / _name(about["step"]))
        return Progress(about["step"], about["seconds"])

    def _newest(self, steps: int | None) -> dict[str, Any] | TrainingError | None:
        found = self._found()
        for folder in found:
            about = _whole(folder)
            if about is not None:
                return self._misfit(about) or self._beyond(about["step"], steps) or about
            logger.warning("%s is damaged: going back to the state before it", folder)
        if found:
            return TrainingError(
                f"no state in {self.folder} is whole: delete that folder to start over, or restore it"
            )
        return None

    def _misfit(self, about: dict[str, Any]) -> TrainingError | None:
        """What the run was begun with and what it would go on with must be the same."""
        before = about["bound"]
        for name in sorted({*before, *self.bound}):
            if before.get(name) != self.bound.get(name):
                return TrainingError(
                    f"the training in {self.folder.parents[1]} was begun with {name} {before.get(name)!r}, "
                    f"and now it is {self.bound.get(name)!r}: keep to it, or choose another --out"
                )
        return None

    def _beyond(self, done: int, steps: int | None) -> TrainingError | None:
        """Weights of more steps must not leave under a card that names fewer."""
        if steps is None or done <= steps:
            return None
        return TrainingError(
            f"the training in {self.folder.parents[1]} has done {done} steps already, and now --steps is "
            f"{steps}: ask for {done} or more, or choose another --out"
        )

    def _read(self, folder: Path) -> None:
        if self._deepspeed:
            _, client = self.model.load_checkpoint(str(folder), "engine", load_module_strict=False)
            if self.average:
                for name, weight in self.average.weights.items():
                    weight.copy_(client["average"][name])
            return
        with _one_process_is_fine():  # and in place
            dcp.load(self._tensors(), checkpoint_id=folder, no_dist=self.accelerator.num_processes == 1)

    # -- what is in a state

    @torch.no_grad()
    def _tensors(self) -> dict[str, Any]:
        """All that a state holds; what the optimiser has not made yet is made, so that it can be filled."""
        weights = moving_weights(self.accelerator, self.model)
        moments = {name: _moments(self.optimizer.state, weight) for name, weight in weights.items()}
        return {"weights": weights, "optimizer": moments, **self._average()}

    def _average(self) -> dict[str, Any]:
        return {"average": self.average.weights} if self.average else {}

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _found(self) -> list[Path]:
        """All states, the newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)


def _moments(state: dict[Tensor, dict[str, Tensor]], weight: Tensor) -> dict[str, Tensor]:
    """What AdamW keeps of a weight."""
    if not state.get(weight):
        state[weight] = {"step": torch.zeros((), device=weight.device)}
        state[weight] |= {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
    return state[weight]


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    """torch wonders aloud whether there should be more."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _sums(folder: Path) -> dict[str, int]:
    """Checksum of every file of a state but its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): _sum(path) for path in files}


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total = zlib.crc32(chunk, total)
    return total


def _whole(folder: Path) -> dict[str, Any] | None:
    """The manifest of a state all of whose files are as they were written, else None."""
    try:
        about = json.loads((folder / MANIFEST).read_bytes())
        return about if about["files"] == _sums(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
