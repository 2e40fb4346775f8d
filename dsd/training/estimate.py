"""Estimates of a training's memory, disk space and time, from the model's config before it is loaded.

Weights are counted. Activations kept for the backward pass are proportional to tokens, width and blocks; the
factors were measured once, from the tensors that autograd saves, and a test measures them again.
"""

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import DistributedType
from diffusers import FluxTransformer2DModel
from torch import nn

from dsd.files import hub
from dsd.model.memory import ALIVE, BRANCHES, QUANTIZED, ROOM, WORKSPACE
from dsd.model.memory import gb as _gb
from dsd.model.pipeline import DSDPipeline
from dsd.training import step_cost
from dsd.training.cache import PIXELS
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.state import KEPT as KEPT_STATES
from dsd.training.student import (
    INPUT,
    Base,
    check_targets,
    empty_transformer,
    ends_with,
    linear_layers,
    new_columns,
)

# (mode, bytes per number) -> bytes per token, block and unit of width, in double- and single-stream blocks.
KEPT = {
    ("lora", 2): (38, 33),
    ("lora", 4): (53, 49),
    ("full", 2): (56, 50),
    ("full", 4): (96, 84),
}
WEIGHT, GRADIENT, MOMENTS, AVERAGE = 4, 4, 8, 4  # bytes per trained weight, all float32


@dataclass(frozen=True)
class Plan:
    """The requirements of one process and its device; memory in bytes."""

    device: str
    processes: int
    parameters: int
    trained: int
    frozen: int  # frozen weights
    moving: int  # trained weights, their gradients, AdamW moments and EMA
    activations: int
    encoding: int  # text encoders and VAE at work; they leave the device before training
    validation: int  # encoders and VAE, drawing of one image, and the weights that the EMA replaces
    free: int
    flops: float  # per step
    disk: int  # cache of all rows
    saved: int  # kept states, one more while it is written, and the old and new checkpoints

    @property
    def needed(self) -> int:
        """Return the peak memory in bytes."""
        space = WORKSPACE if self.device == "cuda" else 0
        loop = self.frozen + self.moving + max(self.activations, self.validation)
        return space + max(loop, self.encoding)


def make(
    base: Base, options: TrainOptions, accelerator: Accelerator, *, rows: int, validates: bool = False
) -> Plan:
    """Return the plan for these devices; raise TrainingError for a LoRA target that matches nothing."""
    pipe = _empty_pipeline(base, options)
    if not options.full:
        check_targets(pipe.transformer, options)
    size = 2 if accelerator.mixed_precision == "bf16" else 4
    moved = _moved(pipe.transformer, options)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    image, text = _tokens(pipe, options)
    kept = _activations(pipe.transformer, options, image, text, size)
    if options.full and size == 2 and not sharded:
        kept += 2 * moved  # autocast keeps a copy of every weight
    return Plan(
        device=accelerator.device.type,
        processes=accelerator.num_processes,
        parameters=_count(pipe.transformer) + (0 if options.full else moved),
        trained=moved,
        frozen=_frozen(pipe.transformer, options, size) // (accelerator.num_processes if sharded else 1),
        moving=_moving(moved, options, accelerator),
        activations=kept,
        encoding=_encoding(pipe, size),
        validation=_validation(pipe, options, moved, image + text, size) if validates else 0,
        free=_free(accelerator),
        flops=options.accumulate * options.batch * step_cost.flops(pipe.transformer, options, image, text),
        disk=rows * _row_bytes(pipe, options, text),
        saved=_saved(pipe, options, moved, size),
    )


def check(plan: Plan, cache: Path, out: Path) -> None:
    """Raise TrainingError if the training does not fit into memory or onto the disks of `cache` and `out`."""
    if plan.needed > ROOM * plan.free:
        raise TrainingError(
            f"this training needs about {_gb(plan.needed)} on each {plan.device} device, and "
            f"{_gb(plan.free)} are free: try --gradient-checkpointing, a smaller --batch with a larger "
            "--accumulate, --quantize 8bit or 4bit, smaller --sizes, or train/configs/8x80gb.yaml"
        )
    _check_disk(_gb(plan.disk) + " for the encoded dataset", plan.disk, cache, "*/*.safetensors")
    _check_disk(_gb(plan.saved) + " for states and checkpoint", plan.saved, out, "run/states/*/*")


def _check_disk(what: str, size: int, folder: Path, there: str) -> None:
    """Raise TrainingError for a full disk; `there` matches files that an earlier run has already written."""
    disk = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free, written = shutil.disk_usage(disk).free, sum(file.stat().st_size for file in folder.glob(there))
    if size > free + written:
        raise TrainingError(
            f"this training may take {what}, and {disk} has {_gb(free)} free: choose another --out or "
            "--cache, fewer --text-tokens, or smaller --sizes"
        )


def describe(plan: Plan, options: TrainOptions, seconds: float | None) -> str:
    """Return the plan as readable text."""
    pairs = options.batch * options.accumulate * plan.processes
    took = "unknown here" if seconds is None else f"{seconds:.3g} s, measured on a few blocks"
    lines = {
        "devices": f"{plan.processes} x {plan.device}, {_gb(plan.free)} free on each",
        "weights": f"{plan.parameters / 1e6:,.1f} M, of which {plan.trained / 1e6:,.1f} M are trained",
        "memory": f"{_gb(plan.needed)} on each device: frozen weights {_gb(plan.frozen)}, trained ones "
        f"{_gb(plan.moving)}, activations {_gb(plan.activations)}; {_gb(plan.encoding)} to encode"
        + (f", {_gb(plan.validation)} to validate in the activations' place" if plan.validation else ""),
        "disk": f"at most {_gb(plan.disk)} for the encoded dataset, and {_gb(plan.saved)} for states and "
        "checkpoint",
        "a step": f"{pairs} pairs, {plan.flops / 1e12:.3g} TFLOP on each device, {took}",
    }
    if seconds is not None:
        lines["in all"] = f"{options.steps:,} steps, about {_duration(seconds * options.steps)}"
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())


# ---------------------------------------------------------------- counting


def _empty_pipeline(base: Base, options: TrainOptions) -> DSDPipeline:
    """Return the whole pipeline, including tokenizers, without memory for the weights."""
    with hub.explained(base.name, [base.source], base.license_page):
        index = DSDPipeline.load_config(base.source)
        parts = {name: _empty(base, name, index[name]) for name in ("vae", "text_encoder", "text_encoder_2")}
        return DSDPipeline.from_pretrained(base.source, transformer=empty_transformer(base, options), **parts)


def _empty(base: Base, name: str, place: list[str]) -> nn.Module:
    """Build a part from its config, without memory; `place` is its library and class."""
    kind = getattr(importlib.import_module(place[0]), place[1])
    with init_empty_weights():
        if hasattr(kind, "from_config") and place[0] == "diffusers":
            return kind.from_config(kind.load_config(base.source, subfolder=name))
        return kind(kind.config_class.from_pretrained(base.source, subfolder=name))


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _moved(transformer: FluxTransformer2DModel, options: TrainOptions) -> int:
    """Return the number of trained weights."""
    if options.full:
        return _count(transformer)
    lora = sum(
        options.rank * (layer.in_features + layer.out_features)
        for name, layer in linear_layers(transformer).items()
        if any(ends_with(name, target) for target in options.targets)
    )
    return lora + new_columns(transformer) * transformer.x_embedder.out_features


def _frozen(transformer: FluxTransformer2DModel, options: TrainOptions, size: int) -> int:
    if options.full:
        return 0
    layers = linear_layers(transformer).items()
    large = sum(layer.weight.numel() for name, layer in layers if name not in (INPUT, "proj_out"))
    each = QUANTIZED.get(options.quantize, size)
    return int(large * each) + size * (_count(transformer) - large)


def _moving(moved: int, options: TrainOptions, accelerator: Accelerator) -> int:
    average = AVERAGE if options.ema else 0
    shares = {DistributedType.FSDP: WEIGHT + GRADIENT + MOMENTS + average, DistributedType.DEEPSPEED: MOMENTS}
    shared = shares.get(accelerator.distributed_type, 0)
    whole = WEIGHT + GRADIENT + MOMENTS + average - shared
    return int(moved * (whole + shared / accelerator.num_processes))


def _tokens(pipe: DSDPipeline, options: TrainOptions) -> tuple[int, int]:
    """Return the tokens of the largest canvas and of a text."""
    frames = options.frames or ((pipe.frame_size, pipe.frame_size),)
    side = 2 * pipe.vae_scale_factor
    text = options.text_tokens or min(pipe.tokenizer_2.model_max_length, 512)
    return max(2 * (width // side) * (height // side) for width, height in frames), text


def _activations(
    transformer: FluxTransformer2DModel, options: TrainOptions, image: int, text: int, size: int
) -> int:
    """Return bytes kept for the backward pass; with checkpointing, block inputs and all of one block."""
    double, single = KEPT["full" if options.full else "lora", size]
    blocks = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
    numbers = options.batch * (image + text) * transformer.inner_dim
    if options.gradient_checkpointing:
        return int(numbers * (size * sum(blocks) + max(double, single)))
    return int(numbers * (double * blocks[0] + single * blocks[1]))


def _encoding(pipe: DSDPipeline, size: int) -> int:
    """Return the bytes of text encoders and VAE, and of some VAE layers at the width of its first."""
    pixels = min(PIXELS, 32 * 2 * pipe.frame_size**2)
    return _encoders(pipe, size) + size * 4 * pixels * pipe.vae.config.block_out_channels[0]


def _encoders(pipe: DSDPipeline, size: int) -> int:
    return size * sum(map(_count, (pipe.vae, pipe.text_encoder, pipe.text_encoder_2)))


def _validation(pipe: DSDPipeline, options: TrainOptions, moved: int, tokens: int, size: int) -> int:
    drawing = BRANCHES * ALIVE[0] * tokens * pipe.transformer.inner_dim
    decoding = ALIVE[1] * 2 * pipe.frame_size**2 * pipe.vae.config.block_out_channels[0]
    return int(size * max(drawing, decoding)) + _encoders(pipe, size) + (WEIGHT * moved if options.ema else 0)


def _free(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    return psutil.virtual_memory().available // accelerator.num_processes


def _row_bytes(pipe: DSDPipeline, options: TrainOptions, text: int) -> int:
    """Return a row's bytes in the cache: two canvases and its texts, at two bytes per number.

    This is an upper bound, because repeated images and texts are stored once.
    """
    frames = options.frames or ((pipe.frame_size, pipe.frame_size),)
    largest = max(width * height for width, height in frames) // pipe.vae_scale_factor**2
    config = pipe.transformer.config
    canvas = 2 * largest * pipe.vae.config.latent_channels
    words = text * config.joint_attention_dim + config.pooled_projection_dim
    return 2 * (2 * canvas + (2 if options.instruction_prob else 1) * words)


def _saved(pipe: DSDPipeline, options: TrainOptions, moved: int, size: int) -> int:
    """Return the bytes of states and checkpoints, whose parts have about the training's dtype."""
    state = moved * (WEIGHT + MOMENTS + (AVERAGE if options.ema else 0))
    checkpoint = _encoders(pipe, size) + size * _count(pipe.transformer)
    return (KEPT_STATES + 1) * state + 2 * checkpoint


# ---------------------------------------------------------------- time


def time_step(base: Base, options: TrainOptions, accelerator: Accelerator) -> float | None:
    """Return the seconds of one step on these devices, or None if measuring would take too long."""
    pipe = _empty_pipeline(base, options)
    return step_cost.time_step(pipe.transformer, options, accelerator, *_tokens(pipe, options))


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
