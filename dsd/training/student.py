"""The student: a text-to-image FLUX, widened and made trainable, and the checkpoint that it becomes.

The new input columns are stored as a LoRA. On `x_embedder` the LoRA's A is not learned but selects the new
channels, so that its B equals the new columns in full; standard tools read it like any other LoRA.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, FluxControlPipeline, FluxTransformer2DModel
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from dsd.files import hub, missing
from dsd.model import canvas, checkpoint, latents, origin
from dsd.model import lora as loras
from dsd.model.memory import INSTALL
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import LORA, SCALES
from dsd.model.quantize import END_LAYERS
from dsd.model.sampling import is_stochastic, make_stochastic
from dsd.model.transformer import is_widened, load_transformer, reads_reference, widen
from dsd.training.comfyui import save_for_comfyui
from dsd.training.options import TrainingError, TrainOptions

DISTILLED = ("schnell", "turbo", "lightning", "hyper-")  # in the names of models that draw in few steps
# The kernels of attention for training, all but cuDNN's: on an H200 (torch 2.11, CUDA 13) its backward pass
# in bf16 ended in illegal memory accesses, with head sizes of 48 and 128.
KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
INPUT, ADAPTER = "x_embedder", "default"


@dataclass(frozen=True)
class Base:
    """The model that a training starts from."""

    name: str
    source: str  # folder or hub id of a whole pipeline
    license: str
    license_page: str | None = None
    start: str | None = None  # a student of it, whose weights are trained instead of its own
    tasks: tuple[str, ...] = origin.USUAL_TASKS  # of the pairs that it is trained on
    scales: Mapping[str, float] = field(default_factory=SCALES.copy, hash=False)  # suit its students
    stochastic: bool = False  # whether new students draw with new noise in every step


def find_base(options: TrainOptions) -> Base:
    """Return the model to start from; raise LoadError if unknown, TrainingError if it cannot be trained."""
    preset = checkpoint.resolve(options.model)
    source = preset.teacher or preset.base
    # Check only the last folder and a hub snapshot's; other parent folders may have any name.
    names = [part for part in Path(source).parts if part.startswith("models--")] + [Path(source).name]
    if any(word in name.lower() for word in DISTILLED for name in names) and not options.distilled_base:
        raise TrainingError(
            f"{options.model} was distilled to draw in a few steps, and training undoes that: start from a "
            "model that was not, such as flux-dev, or pass --distilled-base to train it anyway"
        )
    if options.quantize:
        _import_bitsandbytes(options.quantize)
    hub.check_source(source)
    places = [name for name in (options.start_from, source) if name and Path(name).exists()]
    scales = origin.read_scales(places) or dict(preset.scales)
    drawing = {"scales": scales, "stochastic": preset.stochastic}
    base = Base(preset.name, source, preset.license, preset.license_page, options.start_from, **drawing)
    if base.start is None:
        return base
    hub.check_source(base.start)
    with hub.explain_errors(base.start, [base.start]):
        license = origin.strictest([base.license, checkpoint.student_license(base.start)])
        own = origin.read_json(base.start, origin.SCHEDULER)  # a student that is continued keeps it
    stochastic = bool(own.get("stochastic_sampling")) if own else preset.stochastic
    return replace(base, license=license, stochastic=stochastic)


def empty_transformer(base: Base, options: TrainOptions, widens: bool = True) -> FluxTransformer2DModel:
    """Return the transformer, widened if wanted, built from the config without memory for its weights.

    Raise TrainingError if `condition_init_scale` would overwrite input columns that are already trained.
    """
    with hub.explain_errors(base.name, [base.source], base.license_page):
        config = FluxTransformer2DModel.load_config(base.source, subfolder="transformer")
    with init_empty_weights():
        transformer = FluxTransformer2DModel.from_config(config)
        is_trained = is_widened(transformer) or base.start is not None
        transformer = widen(transformer) if widens and not is_widened(transformer) else transformer
    if options.condition_init_scale and is_trained:
        raise TrainingError(
            f"{base.start or base.name} already has trained columns for the condition, and "
            f"--condition-init-scale {options.condition_init_scale} would overwrite them: pass "
            "--condition-init-scale 0"
        )
    return transformer


def open_encoders(base: Base, dtype: torch.dtype) -> DSDPipeline:
    """Load all parts except the transformer, on the CPU."""
    with hub.explain_errors(base.name, [base.source], base.license_page):
        pipe = DSDPipeline.from_pretrained(base.source, transformer=None, dtype=dtype, **hub.SAFE)
        missing.check_parts(pipe, base.source)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_transformer(
    base: Base, options: TrainOptions, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """Load the transformer, trainable, frozen weights as `dtype`; on the CPU, on `device` if quantized."""
    transformer = _load_start(base, torch.float32 if options.full else dtype)
    if options.quantize:
        transformer = quantize(transformer, options.quantize, dtype, device)
    make_trainable(transformer, options)
    return transformer


def _load_start(base: Base, dtype: torch.dtype | None = None) -> FluxTransformer2DModel:
    """Return the widened transformer whose weights a training starts from."""
    if base.start is not None:
        return checkpoint.load_student(base.name, base.start, dtype)
    with hub.explain_errors(base.name, [base.source], base.license_page):
        transformer = load_transformer(base.source, subfolder="transformer", dtype=dtype)
    return transformer if is_widened(transformer) else widen(transformer)


def make_trainable(transformer: FluxTransformer2DModel, options: TrainOptions) -> None:
    """Make all weights trainable, or a LoRA and any new input columns; in float32 and training mode."""
    transformer.train().requires_grad_(options.full)
    if not options.full:
        _check_targets(transformer, options)
        _add_lora(transformer, options)
    if options.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()


@torch.no_grad()
def _add_lora(transformer: FluxTransformer2DModel, options: TrainOptions) -> None:
    torch.manual_seed(options.seed)  # for the A matrices
    transformer.add_adapter(lora_config(options, _count_new_columns(transformer)), adapter_name=ADAPTER)
    for weight in transformer.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    if not is_widened(transformer):
        return
    layer = transformer.x_embedder
    layer.lora_A[ADAPTER].weight.copy_(_select_new_columns(transformer))
    layer.lora_A[ADAPTER].weight.requires_grad_(False)
    layer.lora_dropout[ADAPTER] = nn.Identity()  # the condition is dropped as a whole or not at all


@torch.no_grad()
def init_condition_columns(pipe: DSDPipeline, options: TrainOptions) -> None:
    """Set the new columns to `condition_init_scale` times the old ones; 0 leaves them zero, as in the paper.

    The model can then use at once what it has learned about attending between the panels of a grid. Black,
    the condition's other half, must have no effect, so its direction is removed.
    """
    if not options.condition_init_scale:
        return
    layer, new = pipe.transformer.x_embedder, _count_new_columns(pipe.transformer)
    weight = layer.weight  # [inner, C + new]; with LoRA, the base layer's weight
    old, black = weight[:, :-new], black_token(pipe).to(weight)
    direction = black / black.norm()
    columns = options.condition_init_scale * (old - torch.outer(old @ direction, direction))
    (weight[:, -new:] if options.full else layer.lora_B[ADAPTER].weight).copy_(columns)


def black_token(pipe: DSDPipeline) -> Tensor:
    """Return the mean of a black frame's tokens, [C]."""
    black = torch.full((1, 3, pipe.frame_size, pipe.frame_size), canvas.BLACK, device=pipe.vae.device)
    return latents.pack(latents.encode(pipe.vae, black))[0].float().mean(0)


def lora_config(options: TrainOptions, new_columns: int = 0) -> LoraConfig:
    """Return the config of the LoRA, and of its layer for new input columns if there are any."""
    columns = {INPUT: new_columns} if new_columns else {}
    return LoraConfig(
        r=options.rank,
        lora_alpha=options.rank if options.alpha is None else options.alpha,
        lora_dropout=options.lora_dropout,
        target_modules=[*options.targets, *columns],
        rank_pattern=columns,
        alpha_pattern=columns,  # alpha = rank gives a scale of 1, so that B equals the columns
    )


def _select_new_columns(transformer: FluxTransformer2DModel) -> Tensor:
    """Return the input layer's A [new, inputs]: B A = [0 | B], so that B holds exactly the new columns."""
    return torch.eye(transformer.config.in_channels)[-_count_new_columns(transformer) :]


def _count_new_columns(transformer: FluxTransformer2DModel) -> int:
    config = transformer.config
    return config.in_channels - (config.out_channels or config.in_channels)


def _check_targets(transformer: FluxTransformer2DModel, options: TrainOptions) -> None:
    names = linear_layers(transformer)
    attention = sorted({name.split(".attn.")[-1] for name in names if ".attn." in name})
    for target in options.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            has = f"its attention has {', '.join(attention)}"
            raise TrainingError(f"the LoRA target {target!r} matches no layer of the transformer; {has}")


def linear_layers(transformer: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}


def quantize(
    transformer: FluxTransformer2DModel, bits: str, dtype: torch.dtype, device: torch.device
) -> FluxTransformer2DModel:
    """Quantize all linear layers but the first and last to 8 or 4 bits, on `device`; compute in `dtype`."""
    bnb = _import_bitsandbytes(bits)
    for name, layer in linear_layers(transformer).items():
        if name in END_LAYERS:
            continue
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        if bits == "4bit":  # stored as `dtype`, because FSDP cannot shard integers
            storage = {"quant_type": "nf4", "quant_storage": dtype}
            small = bnb.nn.Linear4bit(*sizes, compute_dtype=dtype, **storage)
            small.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, **storage)
        else:
            small = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0)
            small.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False)
        small.bias = layer.bias
        transformer.set_submodule(name, small)
    setattr(transformer, f"is_loaded_in_{bits}", True)  # peft has special layers for these
    return transformer.to(device)


def _import_bitsandbytes(bits: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        message = f"--quantize {bits} needs the package bitsandbytes, which is missing: {INSTALL}"
        raise TrainingError(message) from error
    return bitsandbytes


def match_training(pipe: DSDPipeline, base: Base, options: TrainOptions) -> None:
    """Let a pipeline draw as training does: text tokens, frame size, references, tasks, scales and solver.

    The options decide, then the model that the training starts from, whose tasks are kept if it is a student.
    Of several sizes, the first is taken.
    """
    with hub.explain_errors(base.name, [name for name in (base.source, base.start) if name]):
        lora = checkpoint.find_lora(base.start) if base.start else None
        origin.follow_student(pipe, base.source, base.start, lora)
    pipe.trained_frame = options.frames[0] if options.frames else pipe.frame
    pipe.trained_references, pipe.scales = options.references, dict(base.scales)
    if base.stochastic:
        make_stochastic(pipe)
    is_student = base.start is not None or reads_reference(origin.transformer_config(base.source))
    pipe.trained_tasks = tuple(dict.fromkeys([*(pipe.trained_tasks if is_student else ()), *base.tasks]))
    if options.text_tokens:
        pipe.tokenizer_2.model_max_length = options.text_tokens


def save_student(base: Base, options: TrainOptions, trained: dict[str, Tensor], folder: Path) -> float | None:
    """Save a whole pipeline for `load_pipeline` and plain diffusers, and any LoRA in `folder/lora`.

    The `trained` weights are put into a newly loaded base, so that all kinds of training save the same. Parts
    keep the dtype of the base's files. A LoRA on another student has no file, because it fits no base.
    Return the share of the LoRA's change that rounding to that dtype keeps, None if all weights were trained.
    """
    source = base.source if Path(base.source).is_dir() else DiffusionPipeline.download(base.source)
    transformer = _load_start(replace(base, source=source))
    dtypes = {"default": torch.float32}
    for file in sorted(Path(source).glob("*/*.safetensors")):
        named = origin.read_json(source, f"{file.parent.name}/config.json").get("dtype")  # of text encoders
        with safe_open(file, framework="pt") as tensors:
            stored = tensors.get_tensor(next(iter(tensors.keys()))).dtype
        dtypes[file.parent.name] = getattr(torch, named) if named else stored
    pipe = DSDPipeline.from_pretrained(source, transformer=transformer, dtype=dtypes, **hub.SAFE)
    match_training(pipe, base, options)
    kept = None
    if options.full:
        transformer.load_state_dict(trained)
    else:
        layers = {name.replace(f".{ADAPTER}.", "."): value for name, value in trained.items()}
        layers[f"{INPUT}.lora_A.weight"] = _select_new_columns(transformer)
        config = lora_config(options, _count_new_columns(transformer))
        if base.start is None:
            _save_lora(pipe, layers, config, folder / "lora", base.license)
        metadata = {f"transformer.{name}": value for name, value in config.to_dict().items()}
        settings = {"network_alphas": None, "metadata": metadata}
        kept = loras.fuse(loras.by_layer(layers), settings, transformer)
    checkpoint.save_pipeline(pipe, folder)
    return kept


def _save_lora(
    pipe: DSDPipeline, layers: dict[str, Tensor], config: LoraConfig, folder: Path, license: str
) -> None:
    """Save in one file the LoRA, its alpha and rank, the new input columns as a LoRA, and facts for us."""
    layers = {name: value.to(pipe.transformer.dtype) for name, value in layers.items()}
    # Without dropout: stock diffusers leaves the layers of a LoRA in training mode.
    settings = {"transformer_lora_adapter_metadata": config.to_dict() | {"lora_dropout": 0.0}}
    FluxControlPipeline.save_lora_weights(folder, transformer_lora_layers=layers, **settings)
    facts = {"text_tokens": latents.text_length(pipe.tokenizer_2), "frame": pipe.frame, "license": license}
    facts |= {"references": pipe.trained_references} if pipe.trained_references > 1 else {}
    facts |= {"stochastic": True} if is_stochastic(pipe.scheduler) else {}
    facts |= {"tasks": pipe.trained_tasks} if pipe.trained_tasks != origin.USUAL_TASKS else {}
    with safe_open(folder / LORA, framework="pt") as file:
        metadata = file.metadata() | {origin.METADATA: json.dumps(facts)}
    save_file(load_file(folder / LORA), folder / LORA, metadata)
    save_for_comfyui(layers, config, INPUT, folder, {origin.METADATA: json.dumps(facts)})
