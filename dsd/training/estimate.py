"""Estimates of a training's memory, disk space and time, from the model's config before it is loaded.

Weights and operations are counted. Activations kept for the backward pass are proportional to tokens, width
and blocks; the factors were measured from the tensors that autograd saves, and a test measures them again.
"""

import importlib
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, init_empty_weights
from accelerate.utils import DistributedType
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from dsd.files import hub
from dsd.model.latents import text_length
from dsd.model.memory import QUANTIZED, ROOM, WORKSPACE, drawing_bytes, gb
from dsd.model.pipeline import DSDPipeline
from dsd.model.quantize import END_LAYERS
from dsd.training.cache import PIXELS
from dsd.training.optimizer import count_muon_flops, muon_matrices
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.order import BLOCK, WINDOW
from dsd.training.state import KEPT as KEPT_STATES
from dsd.training.student import Base, empty_transformer, linear_layers, make_trainable, match_training

# Numbers kept for the backward pass by each block, per token and unit of width.
LORA_ACTIVATIONS, FULL_ACTIVATIONS = 18, 26
WEIGHT, GRADIENT, MOMENT, AVERAGE = 4, 4, 4, 4  # bytes per trained weight, all float32
# A training's speed as a share of a large matrix product's: FLUX on an H200 0.5, pocket on a CPU 0.3 to 0.5.
EFFICIENCY = 0.5


@dataclass(frozen=True)
class Plan:
    """The requirements of one process and its device; memory in bytes."""

    device: str
    processes: int
    parameters: int
    trained: int
    frozen: int  # frozen weights
    moving: int  # trained weights, their gradients, the optimizer's moments and EMA
    activations: int
    encoding: int  # text encoders and VAE at work; they leave the device before training
    validation: int  # encoders and VAE, drawing of one image, and the weights that the EMA replaces
    free: int
    flops: float  # per step
    disk: int  # cache of encoded rows: all, or as many as are kept
    rows_encoded: int  # in all; a row that was dropped from the cache is encoded again
    flops_encoding: float  # per row
    window: int  # least bytes of a cache that rows are dropped from; 0 if all are kept
    saved: int  # kept states, one more while it is written, and the old and new checkpoints

    @property
    def needed(self) -> int:
        """Return the peak memory in bytes."""
        while_training = self.encoding if self.window else 0  # between two steps
        loop = self.frozen + self.moving + max(self.activations, self.validation, while_training)
        return max(loop, self.encoding) + (WORKSPACE if self.device == "cuda" else 0)


def make(
    base: Base,
    options: TrainOptions,
    accelerator: Accelerator,
    *,
    rows: int,
    validates: bool = False,
    widens: bool = True,
) -> Plan:
    """Return the plan for these devices; raise TrainingError for a LoRA target that matches nothing.

    `widens` says whether the model gets the student's input columns for the condition.
    """
    pipe = _empty_pipeline(base, options, widens)
    transformer, vae, processes = pipe.transformer, pipe.vae, accelerator.num_processes
    size = 2 if accelerator.mixed_precision == "bf16" else 4  # bytes per number
    is_sharded = accelerator.distributed_type == DistributedType.FSDP
    image, text = _count_tokens(pipe, options)  # of one frame, of a text
    counts = range(2, options.references + 2)  # frames of a canvas, which are equally likely
    weights, frozen = transformer.num_parameters(), _frozen_bytes(transformer, options, size)
    flops = sum(_count_flops(transformer, options, n * image, text) for n in counts) / len(counts)
    with init_empty_weights():
        make_trainable(transformer, options)
    trained = transformer.num_parameters(only_trainable=True)
    encoders = size * sum(part.num_parameters() for part in (vae, pipe.text_encoder, pipe.text_encoder_2))
    average = AVERAGE if options.ema else 0
    matrices = muon_matrices(transformer, options)
    moments = MOMENT * (2 * trained - sum(matrix.numel() for matrix in matrices))
    tokens, width = counts[-1] * image + text, transformer.inner_dim
    pixels, channels = 2 * math.prod(pipe.frame), vae.config.block_out_channels[0]
    drawing = drawing_bytes(tokens=2 * image + text, width=width, pixels=pixels, channels=channels, size=size)
    activations = size * options.batch * tokens * width * _count_kept(transformer, options)
    if options.full and size == 2 and not is_sharded:
        activations += 2 * trained  # autocast keeps a copy of every weight
    return Plan(
        device=accelerator.device.type,
        processes=processes,
        parameters=weights if options.full else weights + trained,
        trained=trained,
        frozen=frozen // processes if is_sharded else frozen,
        moving=_moving_bytes(trained * (WEIGHT + GRADIENT + average), moments, accelerator),
        activations=activations,
        # some layers of the VAE, at the width of its first, for a batch of the cache
        encoding=encoders + size * 4 * min(PIXELS, 32 * pixels) * channels,
        validation=encoders + drawing + average * trained if validates else 0,
        free=_free(accelerator),
        flops=options.accumulate * options.batch * flops + count_muon_flops(matrices),
        **_encoding(pipe, options, rows, _row_bytes(transformer, options, 2 * image, text), processes),
        saved=(KEPT_STATES + 1) * (trained * (WEIGHT + average) + moments) + 2 * (encoders + size * weights),
    )


def check(plan: Plan, cache: Path, out: Path) -> None:
    """Raise TrainingError if the training does not fit into memory or onto the disks of `cache` and `out`."""
    if plan.needed > ROOM * plan.free:
        raise TrainingError(
            f"this training needs about {gb(plan.needed)} on each {plan.device} device, and {gb(plan.free)} "
            "are free: try --gradient-checkpointing, a smaller --batch with a larger --accumulate, "
            "--quantize 8bit or 4bit, smaller --sizes, or train/configs/8x80gb.yaml"
        )
    if plan.window > plan.disk:
        raise TrainingError(
            f"rows are mixed within {gb(plan.window)} of encoded rows, which must fit into the cache, and "
            f"cache_gb allows {gb(plan.disk)}: pass --cache-gb {plan.window / 1e9:.2g} or more"
        )
    _check_disk("the encoded dataset", plan.disk, cache, "**/*.safetensors")
    _check_disk("states and checkpoint", plan.saved, out, "run/states/*/*")


def _check_disk(purpose: str, size: int, folder: Path, pattern: str) -> None:
    """Raise TrainingError for a full disk; `pattern` matches files that an earlier run has written."""
    disk = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free, written = shutil.disk_usage(disk).free, sum(file.stat().st_size for file in folder.glob(pattern))
    if size > free + written:
        raise TrainingError(
            f"this training may need {gb(size)} for {purpose}, and {disk} has {gb(free)} free: choose "
            "another --out or --cache, fewer --text-tokens, smaller --sizes, or a limit with --cache-gb"
        )


def describe(plan: Plan, options: TrainOptions, seconds: float | None, unit: str = "pairs") -> str:
    """Return the plan as readable text; a step takes some seconds and reads rows that are called `unit`."""
    count = options.batch * options.accumulate * plan.processes
    duration = "time unknown" if seconds is None else f"about {seconds:.3g} s"
    lines = {
        "devices": f"{plan.processes} x {plan.device}, {gb(plan.free)} free on each",
        "weights": f"{plan.parameters / 1e6:,.1f} M, of which {plan.trained / 1e6:,.1f} M are trained",
        "memory": f"{gb(plan.needed)} on each device: frozen weights {gb(plan.frozen)}, trained ones "
        f"{gb(plan.moving)}, activations {gb(plan.activations)}; {gb(plan.encoding)} to encode"
        + (f", {gb(plan.validation)} to validate in the activations' place" if plan.validation else ""),
        "disk": f"at most {gb(plan.disk)} for the encoded dataset, and {gb(plan.saved)} for states and "
        "checkpoint",
        "encoding": _describe_encoding(plan, seconds),
        "a step": f"{count} {unit}, {plan.flops / 1e12:.3g} TFLOP on each device, {duration}",
    }
    if seconds is not None:
        lines["in all"] = f"{options.steps:,} steps, about {_duration(seconds * options.steps)}"
    return "\n".join(f"{name:8} {text}" for name, text in lines.items())


def _describe_encoding(plan: Plan, seconds: float | None) -> str:
    """Return the rows to encode and the time for it, in proportion to the operations of a step."""
    text = f"{plan.rows_encoded:,} rows" + (" while training" if plan.window else " before the first step")
    if seconds is None:
        return text
    share = plan.flops_encoding * plan.rows_encoded / plan.processes / plan.flops
    return f"{text}, about {_duration(seconds * share)}, if they can be read as fast"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{max(1, minutes)} min"


def _empty_pipeline(base: Base, options: TrainOptions, widens: bool) -> DSDPipeline:
    """Return the whole pipeline, including tokenizers, without memory for the weights."""
    with hub.explain_errors(base.name, [base.source], base.license_page):
        parts = {"transformer": empty_transformer(base, options, widens)}
        index = DSDPipeline.load_config(base.source)
        for name in ("vae", "text_encoder", "text_encoder_2"):
            library, kind = index[name]
            kind = getattr(importlib.import_module(library), kind)
            config = kind.load_config if library == "diffusers" else kind.config_class.from_pretrained
            with init_empty_weights():
                build = kind.from_config if library == "diffusers" else kind
                parts[name] = build(config(base.source, subfolder=name))
        pipe = DSDPipeline.from_pretrained(base.source, **parts)
    match_training(pipe, base, options)
    return pipe


def _moving_bytes(others: int, moments: int, accelerator: Accelerator) -> int:
    shards = {DistributedType.FSDP: others + moments, DistributedType.DEEPSPEED: moments}
    shared = shards.get(accelerator.distributed_type, 0)
    return int(others + moments - shared + shared / accelerator.num_processes)


def _count_tokens(pipe: DSDPipeline, options: TrainOptions) -> tuple[int, int]:
    """Return the tokens of the largest frame and of a text."""
    pixels = max(map(math.prod, options.frames or [pipe.frame]))
    image = pixels // (2 * pipe.vae_scale_factor) ** 2
    return image, options.text_tokens or text_length(pipe.tokenizer_2)


def _frozen_bytes(transformer: FluxTransformer2DModel, options: TrainOptions, size: int) -> int:
    if options.full:
        return 0
    layers = linear_layers(transformer).items()
    linear = sum(layer.weight.numel() for name, layer in layers if name not in END_LAYERS)
    others = transformer.num_parameters() - linear
    return int(linear * QUANTIZED.get(options.quantize, size)) + size * others


def _count_kept(transformer: FluxTransformer2DModel, options: TrainOptions) -> int:
    """Return the numbers kept for the backward pass, per token and unit of width."""
    numbers, blocks = FULL_ACTIVATIONS if options.full else LORA_ACTIVATIONS, _count_blocks(transformer)
    if options.gradient_checkpointing:  # the inputs of all blocks, and all of one block
        return blocks + numbers
    return blocks * numbers


def _count_blocks(transformer: FluxTransformer2DModel) -> int:
    return len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)


def _row_bytes(transformer: FluxTransformer2DModel, options: TrainOptions, image: int, text: int) -> int:
    """Return the most bytes of a row in the cache: canvases and texts, two bytes per number."""
    config, texts, shown = transformer.config, 2 if options.instruction_prob else 1, options.shows_references
    numbers = texts * (text * config.joint_attention_dim + config.pooled_projection_dim)
    return 2 * ((1 + shown) * image * (config.out_channels or config.in_channels) + numbers)


def _encoding(
    pipe: DSDPipeline, options: TrainOptions, rows: int, row: int, processes: int
) -> dict[str, float]:
    """Return the facts of a plan about encoding, where an encoded row has `row` bytes."""
    facts = {"flops_encoding": _count_encoding(pipe, options)}
    if not options.cache_gb:
        return facts | {"disk": rows * row, "rows_encoded": rows, "window": 0}
    group = options.batch * options.accumulate * processes
    kept, samples = min(rows, int(options.cache_gb * 1e9) // row), group * options.steps
    again = max(0, samples - rows) * (1 - kept / rows)  # the share of later turns that was dropped
    mixed = min(rows, BLOCK * WINDOW * (1 + math.ceil(group / (BLOCK * WINDOW))))  # for any step
    disk = int(min(rows * row, options.cache_gb * 1e9))
    return facts | {"disk": disk, "rows_encoded": int(min(samples, rows) + again), "window": mixed * row}


def _count_encoding(pipe: DSDPipeline, options: TrainOptions) -> float:
    """Return the operations of encoding a row, canvases and texts, counted without computing them."""
    width, height = max(options.frames or [pipe.frame], key=math.prod)
    with FlopCounterMode(display=False) as images:
        pipe.vae.encode(torch.empty(1, 3, height, 2 * width, device="meta", dtype=pipe.vae.dtype))
    weights = pipe.text_encoder_2.num_parameters() - pipe.text_encoder_2.shared.weight.numel()
    tokens = (1 + bool(options.instruction_prob)) * (options.text_tokens or text_length(pipe.tokenizer_2))
    return (1 + options.shows_references) * images.get_total_flops() + 2 * weights * tokens


def _count_flops(transformer: FluxTransformer2DModel, options: TrainOptions, image: int, text: int) -> float:
    """Return one sample's operations, forward and backward: 2 per weight and token, plus attention."""
    forward = 4 * (image + text) ** 2 * transformer.inner_dim * _count_blocks(transformer)
    for name, layer in linear_layers(transformer).items():
        if "blocks." not in name or "norm" in name:  # runs once per sample, not per token
            continue
        reads_text = "add_" in name or "_context" in name
        tokens = image + text if "single" in name else text if reads_text else image
        forward += 2 * tokens * layer.weight.numel()
    # The backward pass adds one forward for the inputs and, in full training, one for the weights.
    return forward * (2 + options.full + options.gradient_checkpointing)


def _free(accelerator: Accelerator) -> int:
    if accelerator.device.type == "cuda":
        return torch.cuda.mem_get_info(accelerator.device)[0]
    return psutil.virtual_memory().available // accelerator.num_processes


def time_step(plan: Plan, accelerator: Accelerator) -> float:
    """Return the seconds of one step at EFFICIENCY times the speed of a large matrix product here."""
    return plan.flops / (EFFICIENCY * _matrix_speed(accelerator))


def _matrix_speed(accelerator: Accelerator) -> float:
    """Return the operations per second of a matrix product in the training's precision."""
    side = 8192 if accelerator.device.type == "cuda" else 1024
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    matrix = torch.randn(side, side, device=accelerator.device, dtype=dtype)
    seconds = []
    for _ in range(4):  # the first one is a warm-up
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the result
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds[1:])
