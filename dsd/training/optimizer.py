"""The optimizer of a training, AdamW or Muon beside it, and its learning rate over the steps."""

import math
import platform
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dsd.training.options import TrainingError, TrainOptions

PER_SAMPLE = ("norm", "embed")  # matrices applied to one vector per sample: too few rows for Muon to help
# With this scale, AdamW's learning rate suits Muon's matrices too (Liu et al. 2025).
MUON = {"momentum": 0.95, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 5}
FINAL_RATE = 0.02  # final rate of a decaying schedule, as a share of the peak
SMOOTH = 0.01  # change of the learning rate, as a share of the peak, that is not called a jump
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the transformer's blocks and AdamW for the rest, as one optimizer.

    With Muon, pocket's models learn several times as much from an image as with AdamW (Jordan et al. 2024).
    """

    def __init__(self, weights: Iterable[tuple[str, Tensor]], *, muon: dict[str, Any], adamw: dict[str, Any]):
        matrices, others = [], []
        for name, weight in weights:
            (matrices if suits_muon(name, weight) else others).append(weight)
        kinds = (torch.optim.Muon, matrices, muon), (torch.optim.AdamW, others, adamw)
        self.parts = [kind(chosen, **settings) for kind, chosen, settings in kinds if chosen]
        super().__init__([{"params": chosen} for _, chosen, _ in kinds if chosen], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self._share()

    def _share(self) -> None:
        """Let both parts step on this optimizer's groups and state."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a saved state, as any optimizer does."""
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: None = None) -> None:
        """Take a step with both."""
        for part in self.parts:
            with _Float32Products() if _is_slow(part) else nullcontext():
                part.step()


def _is_slow(part: torch.optim.Optimizer) -> bool:
    """Return whether this is Muon for weights on a CPU without instructions for bfloat16."""
    is_muon = isinstance(part, torch.optim.Muon)
    return is_muon and part.param_groups[0]["params"][0].is_cpu and not cpu_multiplies_bfloat16()


class _Float32Products(TorchFunctionMode):
    """Let torch.optim.Muon, which converts its matrices to bfloat16, multiply them in float32."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)  # a copy, because Muon scales it in place
        return function(*args, **(kwargs or {}))


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Return whether the CPU has AVX-512 BF16 or AMX; others take several times as long as in float32."""
    flags = torch.cpu.get_capabilities() if platform.machine() in ("x86_64", "AMD64") else {}
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))


def suits_muon(name: str, weight: Tensor) -> bool:
    """Return whether the weight of this name is a matrix of a block that is applied to every token."""
    is_matrix = weight.ndim == 2 and "transformer_blocks" in name
    return is_matrix and not any(part in name for part in PER_SAMPLE)


def build_optimizer(
    transformer: nn.Module, options: TrainOptions, accelerator: Accelerator
) -> torch.optim.Optimizer:
    """Return the optimizer of the weights that are trained; raise TrainingError where Muon cannot run."""
    weights = {name: weight for name, weight in transformer.named_parameters() if weight.requires_grad}
    adamw = {"lr": options.lr, "betas": (0.9, options.beta2), "weight_decay": options.weight_decay}
    adamw["fused"] = not torch.backends.mps.is_available()
    if options.optimizer == "adamw":
        return torch.optim.AdamW(weights.values(), **adamw)
    if accelerator.distributed_type in SHARDED:
        raise TrainingError(
            f"optimizer=muon needs whole matrices, but {accelerator.distributed_type.value} shards them: use "
            "optimizer=adamw, or launch without sharding"
        )
    muon = MUON | {"lr": options.lr, "weight_decay": options.weight_decay}
    return MuonAdamW(weights.items(), muon=muon, adamw=adamw)


def muon_matrices(transformer: nn.Module, options: TrainOptions) -> list[Tensor]:
    """Return the weights that Muon trains, none with AdamW alone."""
    if options.optimizer != "muon":
        return []
    return [weight for name, weight in transformer.named_parameters() if suits_muon(name, weight)]


def count_muon_flops(matrices: Iterable[Tensor]) -> int:
    """Return the operations of a step of Muon: three products of each matrix in each Newton-Schulz step."""
    sides = [sorted(matrix.shape) for matrix in matrices]
    return sum(MUON["ns_steps"] * (4 * short**2 * long + 2 * short**3) for short, long in sides)


def moments(optimizer: torch.optim.Optimizer, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the optimizer's state of each weight, with zeros for those that it has not moved yet."""
    groups = [group for group in optimizer.param_groups if "ns_steps" in group]  # Muon's
    by_muon = {id(weight) for group in groups for weight in group["params"]}
    for weight in weights.values():
        if not optimizer.state.get(weight):
            names = ("momentum_buffer",) if id(weight) in by_muon else ("exp_avg", "exp_avg_sq")
            steps = {} if id(weight) in by_muon else {"step": torch.zeros((), device=weight.device)}
            optimizer.state[weight] = steps | {name: torch.zeros_like(weight) for name in names}
    return {name: optimizer.state[weight] for name, weight in weights.items()}


def learning_rate(step: int, options: TrainOptions) -> float:
    """Return the rate: linear warmup, constant, then a half cosine to 1/50 over the last `decay` of steps."""
    start = options.steps * (1 - options.decay)
    progress = min(1.0, max(0.0, (step - start) / max(1.0, options.steps - start)))
    share = FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2
    return options.lr * min(1.0, (step + 1) / max(1, options.warmup)) * share


def describe_jump(step: int, planned: int | None, options: TrainOptions) -> str | None:
    """Return a sentence if the rate jumps at `step` because `planned` steps were planned, else None."""
    if not planned or planned == options.steps or step >= options.steps:
        return None
    old, now = replace(options, steps=planned), learning_rate(step, options)
    if abs(now - learning_rate(step, old)) < SMOOTH * options.lr:
        return None
    change = "raised" if options.steps > planned else "lowered"
    return (
        f"--steps was {change} from {planned} to {options.steps} after {step} steps, so the learning rate "
        f"goes from {learning_rate(step - 1, old):.3g} to {now:.3g} at step {step + 1}: pass another --out "
        "to start over with one smooth schedule"
    )
