"""How much memory, disk and time a training takes, worked out from the model's config before it is loaded.

Weights are counted. What is kept for the way back is proportional to tokens, width and blocks; by how much
was measured once, in the tensors that autograd saves, and a test measures it again. Time is measured on a
copy of the model with few blocks.
"""

import importlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import DistributedType
from diffusers import FluxTransformer2DModel
from torch import nn

from dsd import hub
from dsd.caches import PIXELS
from dsd.memory import QUANTISED, ROOM, WORKSPACE
from dsd.memory import gb as _gb
from dsd.pipeline import DSDPipeline
from dsd.student import (
    INPUT,
    Base,
    check_targets,
    empty_transformer,
    ends_with,
    linear_layers,
    make_trainable,
    new_columns,
)
from dsd.training_options import TrainingError, TrainOptions

# Bytes per token, block and number of the width, in blocks of two streams and of one.
KEPT = {
    ("lora", 2): (38, 33),
    ("lora", 4): (53, 49),
    ("full", 2): (56, 50),
    ("full", 4): (96, 84),
}
WEIGHT, GRADIENT, MOMENTS, AVERAGE = 4, 4, 8, 4  # bytes per weight that moves: all float32
TRIAL_BLOCKS = 2  # of each kind, in the copy that is timed
PATIENCE = 5e12  # more operations than that are not timed on a CPU


@dataclass(frozen=True)
class Plan:
    """Of one process and its device; memory in bytes."""

    device: str
    processes: int
    parameters: int
    trained: int
    frozen: int  # weights that do not move
    moving: int  # those that do, their gradients, moments and average
    activations: int
    encoding: int  # text encoders and VAE at work; they leave before training
    free: int
    flops: float  # of one step
    disk: int  # the cache, for all rows

    @property
    def needed(self) -> int:
        """The most that is in memory at once."""
        space = WORKSPACE if self.device == "cuda" else 0
        return space + max(self.frozen + self.moving + self.activations, self.encoding)


def make(base: Base, options: TrainOptions, accelerator: Accelerator, *, rows: int) -> Plan:
    """The plan of a training on these devices. TrainingError for LoRA targets that match nothing."""
    pipe = _empty_pipeline(base)
    if not options.full:
        check_targets(pipe.transformer, options)
    size = 2 if accelerator.mixed_precision == "bf16" else 4
    moved = _moved(pipe.transformer, options)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    picture, text = _tokens(pipe, options)
    kept = _activations(pipe.transformer, options, picture, text, size)
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
        free=_free(accelerator),
        flops=options.accumulate * options.batch * _flops(pipe.transformer, options, picture, text),
        disk=rows * _row_bytes(pipe, options, text),
    )


def check(plan: Plan, cache: Path) -> None:
    """TrainingError for what cannot fit into memory or, as the `cache`, onto the disk; says what helps."""
    if plan.needed > ROOM * plan.free:
        raise TrainingError(
            f"this training needs about {_gb(plan.needed)} on each {plan.device} device, and "
            f"{_gb(plan.free)} are free: try --gradient-checkpointing, a smaller --batch with a larger "
            "--accumulate, --quantise 8bit or 4bit, smaller --sizes, or train/configs/8x80gb.yaml"
        )
    folder = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    there = sum(file.stat().st_size for file in cache.glob("*/*.safetensors"))
    if plan.disk > free + there:
        raise TrainingError(
            f"the encoded dataset may take {_gb(plan.disk)}, and {folder} has {_gb(free)} free: choose "
            "another --out or --cache, fewer --text-tokens, or smaller --sizes"
        )


def describe(plan: Plan, options: TrainOptions, seconds: float | None) -> str:
    """The plan as a person reads it."""
    pairs = options.batch * options.accumulate * plan.processes
    took = "unknown here" if seconds is None else f"{seconds:.3g} s, measured on a few blocks"
    lines = {
        "devices": f"{plan.processes} x {plan.device}, {_gb(plan.free)} free on each",
        "weights": f"{plan.parameters / 1e6:,.1f} M, of which {plan.trained / 1e6:,.1f} M are trained",
        "memory": f"{_gb(plan.needed)} on each device: frozen weights {_gb(plan.frozen)}, trained ones "
        f"{_gb(plan.moving)}, activations {_gb(plan.activations)}; {_gb(plan.encoding)} to encode",
        "disk": f"at most {_gb(plan.disk)} for the encoded dataset",
        "a step": f"{pairs} pairs, {plan.flops / 1e12:.3g} TFLOP on each device, {took}",
    }
    if seconds is not None:
        lines["in all"] = f"{options.steps:,} steps, about {_duration(seconds * options.steps)}"
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())


# ---------------------------------------------------------------- counting


def _empty_pipeline(base: Base) -> DSDPipeline:
    """The whole pipeline, tokenizers and all, with no memory for any weight."""
    with hub.explained(base.name, [base.source], base.licence_page):
        index = DSDPipeline.load_config(base.source)
        parts = {name: _empty(base, name, index[name]) for name in ("vae", "text_encoder", "text_encoder_2")}
        return DSDPipeline.from_pretrained(base.source, transformer=empty_transformer(base), **parts)


def _empty(base: Base, name: str, place: list[str]) -> nn.Module:
    """A part as its config says; `place` is its library and class."""
    kind = getattr(importlib.import_module(place[0]), place[1])
    with init_empty_weights():
        if hasattr(kind, "from_config") and place[0] == "diffusers":
            return kind.from_config(kind.load_config(base.source, subfolder=name))
        return kind(kind.config_class.from_pretrained(base.source, subfolder=name))


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _moved(transformer: FluxTransformer2DModel, options: TrainOptions) -> int:
    """How many numbers are trained."""
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
    each = QUANTISED.get(options.quantise, size)
    return int(large * each) + size * (_count(transformer) - large)


def _moving(moved: int, options: TrainOptions, accelerator: Accelerator) -> int:
    average = AVERAGE if options.ema else 0
    shares = {DistributedType.FSDP: WEIGHT + GRADIENT + MOMENTS + average, DistributedType.DEEPSPEED: MOMENTS}
    shared = shares.get(accelerator.distributed_type, 0)
    whole = WEIGHT + GRADIENT + MOMENTS + average - shared
    return int(moved * (whole + shared / accelerator.num_processes))


def _tokens(pipe: DSDPipeline, options: TrainOptions) -> tuple[int, int]:
    """Tokens of the largest canvas, and of a text."""
    frames = options.frames or ((pipe.frame_size, pipe.frame_size),)
    side = 2 * pipe.vae_scale_factor
    text = options.text_tokens or min(pipe.tokenizer_2.model_max_length, 512)
    return max(2 * (width // side) * (height // side) for width, height in frames), text


def _activations(
    transformer: FluxTransformer2DModel, options: TrainOptions, picture: int, text: int, size: int
) -> int:
    """What a batch keeps for the way back; with checkpointing the blocks' inputs and all of one block."""
    double, single = KEPT["full" if options.full else "lora", size]
    blocks = len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)
    numbers = options.batch * (picture + text) * transformer.inner_dim
    if options.gradient_checkpointing:
        return int(numbers * (size * sum(blocks) + max(double, single)))
    return int(numbers * (double * blocks[0] + single * blocks[1]))


def _encoding(pipe: DSDPipeline, size: int) -> int:
    """Text encoders and VAE, and some layers of the VAE at the width of its first."""
    parts = (pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    pixels = min(PIXELS, 32 * 2 * pipe.frame_size**2)
    return size * (sum(map(_count, parts)) + 4 * pixels * pipe.vae.config.block_out_channels[0])


def _free(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    return psutil.virtual_memory().available // accelerator.num_processes


def _row_bytes(pipe: DSDPipeline, options: TrainOptions, text: int) -> int:
    """Two canvases and two texts, two bytes a number; pictures and texts that come again are kept once."""
    frames = options.frames or ((pipe.frame_size, pipe.frame_size),)
    largest = max(width * height for width, height in frames) // pipe.vae_scale_factor**2
    config = pipe.transformer.config
    canvas = 2 * largest * pipe.vae.config.latent_channels
    words = text * config.joint_attention_dim + config.pooled_projection_dim
    return 2 * (2 * canvas + (2 if options.instruction_share else 1) * words)


# ---------------------------------------------------------------- time


def _flops(transformer: FluxTransformer2DModel, options: TrainOptions, picture: int, text: int) -> float:
    """Of one sample there and back: every weight twice a token, and attention."""
    forward = 0
    for name, layer in linear_layers(transformer).items():
        if "blocks." not in name or "norm" in name:  # once a sample, not once a token
            continue
        words = "add_" in name or "_context" in name
        tokens = picture + text if "single" in name else text if words else picture
        forward += 2 * tokens * layer.weight.numel()
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    forward += 4 * (picture + text) ** 2 * transformer.inner_dim * blocks
    # The way back costs as much again for the inputs, and again for weights that move.
    return forward * (2 + options.full + options.gradient_checkpointing)


def time_step(base: Base, options: TrainOptions, accelerator: Accelerator) -> float | None:
    """Seconds of one step: a copy of the model with few blocks is timed and scaled; None if too long."""
    pipe = _empty_pipeline(base)
    picture, text = _tokens(pipe, options)
    config = dict(pipe.transformer.config)
    for name in ("num_layers", "num_single_layers"):
        config[name] = min(TRIAL_BLOCKS, config[name])
    with init_empty_weights():
        empty = FluxTransformer2DModel.from_config(config)
    few, all_of_them = (_flops(model, options, picture, text) for model in (empty, pipe.transformer))
    if accelerator.device.type == "cpu" and options.batch * few > PATIENCE:
        return None
    took = _time_copy(config, options, accelerator, picture, text)
    return options.accumulate * took * all_of_them / few


def _time_copy(
    config: dict[str, Any], options: TrainOptions, accelerator: Accelerator, picture: int, text: int
) -> float:
    """Seconds there and back of one batch through a model of random weights."""
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    model = FluxTransformer2DModel.from_config(config)
    model.to(device, torch.bfloat16 if bf16 and not options.full else torch.float32)
    make_trainable(model, options)
    rand = lambda *shape: torch.randn(options.batch, *shape, device=device)  # noqa: E731
    inputs = {
        "hidden_states": rand(picture, config["in_channels"]),
        "timestep": torch.rand(options.batch, device=device),
        "guidance": torch.ones(options.batch, device=device) if config["guidance_embeds"] else None,
        "encoder_hidden_states": rand(text, config["joint_attention_dim"]),
        "pooled_projections": rand(config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(text, 3, device=device),
        "img_ids": torch.zeros(picture, 3, device=device),
    }
    seconds = []
    for _ in range(3):  # the first one warms up
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            model(**inputs, return_dict=False)[0].float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
