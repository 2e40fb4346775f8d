"""LoRAs: found by name, read in any key style, checked against a model; styles are put on it.

diffusers converts the key styles of kohya, ComfyUI, ai-toolkit and others. It ignores layers that do not fit,
so they are counted here before anything changes.
"""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxControlPipeline
from huggingface_hub import HfApi, hf_hub_download
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from dsd.files import hub
from dsd.files.errors import LoadError
from dsd.model.origin import find_file
from dsd.model.presets import ATTENTION, LORA

INPUT = "x_embedder"  # the layer that reads the reference
WHOLE = {"lora_A.weight", "lora_B.weight"}  # the parts of a layer
ENCODERS = ("text_encoder.", "text_encoder_2.")  # diffusers loads their layers too
ON_HUB = re.compile(r"([\w.-]+/[\w.-]+)/([^/]+\.safetensors)")  # owner/name/FILE
ORIGINAL = ("diffusion_model.double_blocks.", "diffusion_model.single_blocks.")  # ComfyUI's keys
PREFIX = re.compile(r"^(diffusion_model|base_model\.model)\.(?=(single_)?transformer_blocks)")
Layers = dict[str, dict[str, Tensor]]  # layer -> its A and B
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Style:
    """A style LoRA by the name that it was asked for, and how many of its layers act on a model."""

    source: str  # a file, a folder, a hub id owner/name, or owner/name/FILE
    scale: float = 1.0
    layers: int = 0
    total: int = 0

    @property
    def report(self) -> str:
        """Return the number of layers that act, as text."""
        return f"{Path(self.source).name}: {self.layers} of {self.total} layers, scale {self.scale:g}"


def parse(text: str) -> Style:
    """Parse FILE_OR_ID[:SCALE]; raise LoadError for a scale that is not finite."""
    source, _, scale = text.rpartition(":")
    try:
        value = float(scale) if source else 1.0
    except ValueError:
        return Style(text)
    if not math.isfinite(value):
        raise LoadError(f"the scale of a LoRA must be a number such as 0.8, got {text!r}")
    return Style(source or text, value)


def find(source: str) -> Path:
    """Return the LoRA file that is meant, downloaded if it is on the hub; raise LoadError for none."""
    path, named = Path(source), ON_HUB.fullmatch(source)
    if path.is_file():
        return path
    if path.is_dir():
        return path / _choose(source, [file.name for file in path.glob("*.safetensors")])
    name, file = named.groups() if named else (source, None)
    hub.check_source(name, weights=False)
    with hub.explain_errors(name, [name]):
        if not file and (published := find_file(name, LORA)):
            return published
        return Path(hf_hub_download(name, file or _choose(name, HfApi().list_repo_files(name))))


def _choose(source: str, names: Sequence[str]) -> str:
    """Return the LoRA's file name; raise LoadError unless it is clear."""
    files = sorted(name for name in names if name.endswith(".safetensors"))
    if LORA in files or len(files) == 1:
        return LORA if LORA in files else files[0]
    if not files:
        raise LoadError(f"{source} has no .safetensors file: name a LoRA")
    raise LoadError(f"{source} has several LoRAs, so name one, such as {source}/{files[0]}")


def read(file: Path) -> tuple[Layers, dict[str, Any]]:
    """Return the layers of a LoRA file by diffusers' names, and its alphas and config for diffusers.

    Layers of the text encoders keep their prefix. Raise LoadError for a file that holds no LoRA.
    """
    state = load_file(file)
    renamed = {_rename(key): value for key, value in state.items()}
    source = {"pretrained_model_name_or_path_or_dict": renamed}
    if renamed.keys() == state.keys():  # only a file has metadata
        source = {"pretrained_model_name_or_path_or_dict": str(file.parent), "weight_name": file.name}
    try:
        converted, alphas, metadata = FluxControlPipeline.lora_state_dict(
            **source, return_alphas=True, return_lora_metadata=True
        )
    except (ValueError, KeyError, AssertionError, NotImplementedError, RuntimeError) as error:
        problem = f"its keys cannot be converted ({error})"
        raise LoadError(f"{file.name} is not a LoRA for FLUX: {problem}") from error
    layers = by_layer(converted)
    if not any("lora_A.weight" in parts for parts in layers.values()):
        key = next(iter(state), "none")
        raise LoadError(f"{file.name} is not a LoRA for FLUX: it has keys such as {key}")
    return layers, {"network_alphas": alphas, "metadata": metadata}


def by_layer(state: dict[str, Tensor]) -> Layers:
    """Group the tensors of a LoRA in diffusers' keys, with or without the prefix `transformer.`."""
    layers: Layers = {}
    for key, value in state.items():
        layer, mark, part = key.removeprefix("transformer.").partition(".lora_")
        layers.setdefault(layer if mark else key, {})[f"lora_{part}"] = value
    return layers


def _rename(key: str) -> str:
    """Return the key in a style that diffusers converts."""
    if key.startswith(ORIGINAL):  # read as kohya's, which have these names
        return key.replace(".lora_A.", ".lora_down.").replace(".lora_B.", ".lora_up.")
    return PREFIX.sub("transformer.", key)


def fit(layers: Layers, transformer: nn.Module, name: str) -> Layers:
    """Return the layers that the transformer has.

    Raise LoadError if there is none, if one lacks its A or B, which would be random, or if one has another
    shape, because the file is for another model.
    """
    modules = {path: layer for path, layer in transformer.named_modules() if hasattr(layer, "in_features")}
    fitting = {path: parts for path, parts in layers.items() if path in modules and parts.keys() & WHOLE}
    if not fitting:
        other = next(iter(layers))
        raise LoadError(
            f"{name} changes no layer of this model, but layers such as {other}: choose a LoRA for FLUX.1"
        )
    for path, parts in fitting.items():
        if lacking := sorted(WHOLE - parts.keys()):
            raise LoadError(f"{name} has {path} without its {lacking[0]}: download or copy it again")
        inputs, outputs = parts["lora_A.weight"].shape[1], parts["lora_B.weight"].shape[0]
        layer = modules[path]
        if (inputs, outputs) != (layer.in_features, layer.out_features):
            raise LoadError(
                f"{name} is for another model: its {path} has {inputs} inputs and {outputs} outputs, and "
                f"this model's has {layer.in_features} and {layer.out_features}; choose a LoRA for this model"
            )
    return fitting


def check_fit(layers: Layers, transformer: nn.Module, name: str) -> None:
    """Check a student's LoRA as `fit` does, and warn with the count if only some of its layers fit."""
    fitting = fit(layers, transformer, name)
    if others := [path for path in layers if path not in fitting and not path.startswith(ENCODERS)]:
        logger.warning(
            "%s: %d of its %d layers fit this model, and the others, such as %s, have no effect",
            name, len(fitting), len(fitting) + len(others), others[0],
        )  # fmt: skip


@torch.no_grad()
def fuse(layers: Layers, settings: dict[str, Any], transformer: nn.Module) -> float:
    """Add a LoRA to the weights, layer by layer: in float32, rounded once to the dtype of the weights.

    The arguments are as `read` returns them. Return the share of the change that rounding keeps: bfloat16
    leaves a weight as it was if its change is less than about 0.2 % of it.
    """
    state, name, norms = _to_state(layers, torch.float32), "fused", [(0.0, 0.0)]
    FluxControlPipeline.load_lora_into_transformer(
        state, transformer=transformer, adapter_name=name, **settings
    )
    for path, layer in transformer.named_modules():
        if isinstance(layer, BaseTunerLayer) and name in layer.lora_A:  # its own A and B are rounded
            down, up = (layers[path][f"lora_{part}.weight"].float() for part in "AB")
            norms.append(_add(layer.get_base_layer().weight, layer.scaling[name] * up @ down))
    transformer.unload_lora()
    kept, whole = (sum(column) for column in zip(*norms, strict=True))
    return kept / whole if whole else 1.0


def _add(weight: nn.Parameter, change: Tensor) -> tuple[float, float]:
    """Add a change to a weight; return the products of what was added and of the change with the change."""
    before = weight.data.float()
    weight.data = (before + change).to(weight.dtype)
    return float(((weight.data.float() - before) * change).sum()), float(change.square().sum())


def _to_state(layers: Layers, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        f"transformer.{path}.{part}": value.to(dtype)
        for path, parts in layers.items()
        for part, value in parts.items()
    }


def check_student(layers: Layers, name: str) -> None:
    """Raise LoadError unless a LoRA changes what the published student's does, as a style does not.

    That is all eight projections of the attention in double blocks, and nothing but attention.
    """
    double = {path.split(".attn.")[-1] for path in layers if path.startswith("transformer_blocks.")}
    if double != {*ATTENTION} or any(".attn." not in path for path in layers):
        raise LoadError(
            f"{name} is a style LoRA, not a trained student: pass it with --lora, which keeps the student"
        )


def add_styles(pipe: Any, styles: Sequence[Style], files: Sequence[Path]) -> None:
    """Put style LoRAs on a pipeline, beside the LoRA that it may have, and record them in `pipe.styles`.

    All files are checked before the first one is put on.
    """
    ready = []
    for style, file in zip(styles, files, strict=True):
        layers, settings = read(file)
        if INPUT in layers:
            raise LoadError(
                f"{file.name} changes {INPUT}, the layer that reads the reference, so it is not a style: "
                "pass a trained student with --weights"
            )
        ready.append((style, len(layers), fit(layers, pipe.transformer, file.name), settings))
    scales = dict.fromkeys(pipe.get_active_adapters(), 1.0)
    for index, (style, total, layers, settings) in enumerate(ready):
        scales[f"style-{index}"] = style.scale
        state = _to_state(layers, pipe.transformer.dtype)
        settings |= {"transformer": pipe.transformer, "adapter_name": f"style-{index}", "_pipeline": pipe}
        pipe.load_lora_into_transformer(state, **settings)
        pipe.styles += (replace(style, layers=len(layers), total=total),)
    if ready:
        pipe.transformer.set_adapters(list(scales), list(scales.values()))
        pipe.transformer.eval()
