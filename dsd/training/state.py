"""Training states on disk: written completely or not at all; the last two are kept, damaged ones skipped.

A state holds the trained weights, their EMA, the optimizer, and the settings that bind the run. Everything
else is a function of the step. Every process writes its own part, so all of them must see the folder.
DeepSpeed uses its own format inside; every other mode can resume with another number of processes.
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

from dsd.files import jsonl, old_names
from dsd.training.options import TrainingError

logger = logging.getLogger(__name__)

KEPT = 2
MANIFEST = "state.json"


@dataclass(frozen=True)
class Progress:
    """The progress of a training."""

    step: int = 0
    seconds: float = 0.0  # in the loop, over all runs


def moving_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights by name, as this process holds them."""
    named = accelerator.unwrap_model(model).named_parameters()
    return {name: weight for name, weight in named if weight.requires_grad}


@torch.no_grad()
def gathered_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return full CPU copies of the trained weights on the main process; all processes call it together."""
    weights = {}
    for name, weight in moving_weights(accelerator, model).items():
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        if accelerator.is_main_process:
            weights[name] = whole.to("cpu", copy=True)
    return weights


class Average:
    """An EMA of the trained weights; its decay starts low and rises, so that early weights are forgotten."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self.decay, self._live = decay, weights
        self.weights = {name: weight.detach().clone().float() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the EMA after step `step`, counted from 0."""
        decay = min(self.decay, (step + 1) / (step + 10))
        live = [_local(weight).float() for weight in self._live.values()]
        torch._foreach_lerp_([_local(weight) for weight in self.weights.values()], live, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Put the EMA into the model inside the block, and restore the weights after it."""
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
    """Reshard FSDP's modules after drawing, which leaves the outermost weights gathered with EMA values."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _local(weight: Tensor) -> Tensor:
    """Return this process's shard of a weight; all of it without FSDP."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


class States:
    """The saved states of a run in `folder`, by step."""

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
        """Write a state, which is valid once it has its final name; all processes must call it together."""
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
        """Write the manifest, rename the state to its final name, and delete the oldest."""
        about = {"step": progress.step, "seconds": progress.seconds, "bound": self.bound}
        about["files"] = _sums(part)
        jsonl.write(part / MANIFEST, json.dumps(about, indent=1).encode())
        shutil.rmtree(whole, ignore_errors=True)
        part.replace(whole)
        for old in self._found()[KEPT:]:
            shutil.rmtree(old)

    # -- load

    def load(self, steps: int | None = None) -> Progress:
        """Load the newest intact state and return its progress; start at step 0 if there are no states.

        Skip a damaged state with a warning. Raise TrainingError if none is intact, for a run with other
        settings or data, and for one that has done more than `steps`.
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
        """Return an error if the state's settings or data differ from this run's."""
        before = old_names.translated(about["bound"])
        for name in sorted({*before, *self.bound}):
            if before.get(name) != self.bound.get(name):
                return TrainingError(
                    f"the training in {self.folder.parents[1]} was begun with {name} {before.get(name)!r}, "
                    f"and now it is {self.bound.get(name)!r}: keep to it, or choose another --out"
                )
        return None

    def _beyond(self, done: int, steps: int | None) -> TrainingError | None:
        """Return an error if more than `steps` steps are done: the card would state too few."""
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
        with _one_process_is_fine():  # loads in place
            dcp.load(self._tensors(), checkpoint_id=folder, no_dist=self.accelerator.num_processes == 1)

    # -- what is in a state

    @torch.no_grad()
    def _tensors(self) -> dict[str, Any]:
        """Return all that a state holds; create missing optimizer moments, so that they can be loaded."""
        weights = moving_weights(self.accelerator, self.model)
        moments = {name: _moments(self.optimizer.state, weight) for name, weight in weights.items()}
        return {"weights": weights, "optimizer": moments, **self._average()}

    def _average(self) -> dict[str, Any]:
        return {"average": self.average.weights} if self.average else {}

    @property
    def _deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    def _found(self) -> list[Path]:
        """Return all states, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)


def _moments(state: dict[Tensor, dict[str, Tensor]], weight: Tensor) -> dict[str, Tensor]:
    """Return AdamW's state for a weight, creating it if it is missing."""
    if not state.get(weight):
        state[weight] = {"step": torch.zeros((), device=weight.device)}
        state[weight] |= {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
    return state[weight]


@contextmanager
def _one_process_is_fine() -> Iterator[None]:
    """Silence torch's warning about running without torch.distributed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _sums(folder: Path) -> dict[str, int]:
    """Return the checksum of every file in a state except its manifest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): _sum(path) for path in files}


def _sum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            total = zlib.crc32(chunk, total)
    return total


def _whole(folder: Path) -> dict[str, Any] | None:
    """Return a state's manifest if all its files are as they were written, else None."""
    try:
        about = json.loads((folder / MANIFEST).read_bytes())
        return about if about["files"] == _sums(folder) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
