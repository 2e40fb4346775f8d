"""Training states on disk: written completely or not at all; the last two are kept, damaged ones skipped.

A state holds the trained weights, their EMA, the optimizer, and the settings that bind the run. Everything
else is a function of the step. Every process writes its own part, so all of them must see the folder.
A state is read without running anything in it. DeepSpeed uses its own format inside; every other mode can
resume with another number of processes.
"""

import logging
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from dsd.files import jsonl, old_names, typed, whole
from dsd.training.optimizer import moments
from dsd.training.options import ADDED, TrainingError
from dsd.training.unpickled import INDEX, SafeReader, protect_deepspeed, read_index

logger = logging.getLogger(__name__)

KEPT = 2
MANIFEST = "state.json"


class Manifest(TypedDict):
    """What every state says of itself; those of earlier versions do not name the planned steps."""

    step: int
    seconds: float
    bound: dict[str, Any]
    files: dict[str, int]


@dataclass(frozen=True)
class Progress:
    step: int = 0
    seconds: float = 0.0  # in the loop, over all runs
    steps: int | None = None  # planned by the run that saved the state; None: not recorded


def trainable_parameters(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return the trained weights by name, as this process holds them."""
    named = accelerator.unwrap_model(model).named_parameters()
    return {name: weight for name, weight in named if weight.requires_grad}


@torch.no_grad()
def gather_weights(accelerator: Accelerator, model: nn.Module) -> dict[str, Tensor]:
    """Return full CPU copies of the trained weights on the main process; all processes call it together."""
    weights = {}
    for name, weight in trainable_parameters(accelerator, model).items():
        whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
        if accelerator.is_main_process:
            weights[name] = whole.to("cpu", copy=True)
    return weights


class EMA:
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
    def swap(self) -> Iterator[None]:
        """Put the EMA into the model inside the block, and restore the weights after it."""
        before = {name: weight.detach().clone() for name, weight in self._live.items()}
        self._copy(self.weights)
        try:
            yield
        finally:
            self._copy(before)

    def _copy(self, weights: dict[str, Tensor]) -> None:
        for name, weight in self._live.items():
            _local(weight).copy_(_local(weights[name]))


def _local(weight: Tensor) -> Tensor:
    """Return this process's shard of a weight; all of it without FSDP."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


@dataclass(frozen=True)
class TrainState:
    """All that a training changes, saved and loaded together in `folder`; one subfolder per saved step."""

    folder: Path
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    ema: EMA | None
    bound: dict[str, Any]  # settings that must not change when the run is resumed

    @property
    def _is_deepspeed(self) -> bool:
        return self.accelerator.distributed_type == DistributedType.DEEPSPEED

    @property
    def _average(self) -> dict[str, Any]:
        return {"average": self.ema.weights} if self.ema else {}

    def save(self, progress: Progress) -> None:
        """Write a state, which is valid once it has its final name; all processes must call it together."""
        state = self.folder / f"step-{progress.step:08d}"
        part = self.folder / f".{state.name}.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        try:
            with whole.explain_errors(state):
                self._write(part)
                if self.accelerator.is_main_process:
                    about = {**asdict(progress), "bound": self.bound, "files": _checksums(part)}
                    jsonl.write_rows(part / MANIFEST, [about])
                    whole.replace_folder(part, state)
                    for old in self._list()[KEPT:]:
                        shutil.rmtree(old)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        """Write every process's part of the tensors; raise OSError if one of them cannot."""
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        with _own_errors():
            if self._is_deepspeed:
                self.model.save_checkpoint(
                    str(folder), "engine", self._average, exclude_frozen_parameters=True
                )
            else:
                dcp.save(self._tensors(), checkpoint_id=folder, no_dist=self.accelerator.num_processes == 1)
        self.accelerator.wait_for_everyone()

    def load(self, steps: int | None = None) -> Progress:
        """Load the newest intact state and return its progress; start at step 0 if there are no states.

        Raise TrainingError if none is intact, for other settings or data, or if more than `steps` are done.
        """
        result: Any = None
        if self.accelerator.is_main_process:
            try:
                result = self._find_newest(steps)
            except TrainingError as error:
                result = error
        (result,) = broadcast_object_list([result])
        if isinstance(result, TrainingError):
            raise result
        if result is None:
            return Progress()
        folder, progress = result
        if self._is_deepspeed:
            protect_deepspeed(self.model)
            _, client = self.model.load_checkpoint(str(folder), "engine", load_module_strict=False)
            for name, weight in self.ema.weights.items() if self.ema else ():
                weight.copy_(client["average"][name])
        else:  # loads in place
            alone = self.accelerator.num_processes == 1
            with _own_errors():
                dcp.load(self._tensors(), storage_reader=SafeReader(folder), no_dist=alone)
        return progress

    def _find_newest(self, steps: int | None) -> tuple[Path, Progress] | None:
        """Return the folder and progress of the newest intact state."""
        folders = self._list()
        for folder in folders:
            try:
                about = jsonl.parse((folder / MANIFEST).read_bytes().rstrip(), str(folder))
                typed.check(about, Manifest, MANIFEST)
                is_intact = about["files"] == _checksums(folder)
            except (OSError, ValueError):
                is_intact = False
            if is_intact:
                self._check(about, steps)
                if not self._is_deepspeed:
                    read_index(folder / INDEX)
                return folder, Progress(about["step"], about["seconds"], about.get("steps"))
            logger.warning("%s is damaged: going back to the state before it", folder)
        if folders:
            raise TrainingError(
                f"no state in {self.folder} is intact: delete that folder to start over, or restore it"
            )
        return None

    def _check(self, about: dict[str, Any], steps: int | None) -> None:
        """Raise TrainingError for other settings or data, or if more than `steps` steps are done."""
        run, before = self.folder.parents[1], ADDED | old_names.translate(about["bound"])
        now = ADDED | self.bound
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise TrainingError(
                    f"the training in {run} was started with {name} {before.get(name)!r}, but now it is "
                    f"{now.get(name)!r}: use the same value, or choose another --out"
                )
        if steps is not None and about["step"] > steps:  # the card would state too few
            raise TrainingError(
                f"the training in {run} has done {about['step']} steps already, but now --steps is {steps}: "
                f"pass {about['step']} or more, or choose another --out"
            )

    @torch.no_grad()
    def _tensors(self) -> dict[str, Any]:
        """Return all that a state holds; create missing moments, so that they can be loaded."""
        weights = trainable_parameters(self.accelerator, self.model)
        return {"weights": weights, "optimizer": moments(self.optimizer, weights), **self._average}

    def _list(self) -> list[Path]:
        """Return the folders of all states, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise a signal's KeyboardInterrupt, or an OSError, for what torch caught in one of the processes.

    Its CheckpointException is no Exception, and has every process's traceback in it.
    """
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        if stops := [cause for cause in causes if not isinstance(cause, Exception)]:
            raise stops[0] from error
        raise OSError(str(causes[0])) from error


def _checksums(folder: Path) -> dict[str, int]:
    """Return the CRC-32 of every file in a state except its manifest."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            total = 0
            with path.open("rb") as file:
                while chunk := file.read(1 << 24):
                    total = zlib.crc32(chunk, total)
            sums[path.relative_to(folder).as_posix()] = total
    return sums
