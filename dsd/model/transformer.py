"""The two-frame transformer, a stock FLUX transformer with a wider input: widen one, or load a saved one.

The published model adds `c_embedder(condition)` to `x_embedder(latents)`. That equals one `x_embedder` over
both, so the published file becomes a stock model by concatenating the weights and adding the biases.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import safe_open
from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MISSING = (FileNotFoundError, EntryNotFoundError)  # on disk, on the hub


def is_widened(transformer: FluxTransformer2DModel) -> bool:
    """Return whether the transformer reads a reference."""
    return reads_reference(transformer.config)


def reads_reference(config: Mapping[str, Any]) -> bool:
    """Return whether a transformer with this config reads a reference: twice as many channels in as out."""
    inputs = config.get("in_channels")
    return inputs is not None and inputs == 2 * (config.get("out_channels") or inputs)


def widen(transformer: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """Return a transformer whose `x_embedder` also reads a condition of as many channels as it reads now.

    The new columns are zero, so its initial output equals that of the original for any condition. All other
    weights are shared with the original: nothing is copied, and training one changes the other.
    """
    config = dict(transformer.config)
    inputs, outputs = config["in_channels"], config["out_channels"] or config["in_channels"]
    if inputs != outputs:
        raise ValueError(f"the transformer is already widened: {inputs} channels in, {outputs} out")
    if getattr(transformer, "peft_config", None):
        raise ValueError("the transformer has LoRA adapters: fuse or unload them before widening")
    state = transformer.state_dict()
    weight = state["x_embedder.weight"]  # [inner, C]
    state["x_embedder.weight"] = torch.cat([weight, torch.zeros_like(weight)], dim=1)  # [inner, 2 C]
    widened = _build({**config, "in_channels": 2 * inputs, "out_channels": outputs}, state)
    return widened.train(transformer.training)


def load_transformer(
    folder: str | Path, *, subfolder: str | None = None, dtype: torch.dtype | None = None
) -> FluxTransformer2DModel:
    """Load a transformer from a folder or hub id as a stock model.

    It may have been saved by this project or by diffusers, or published with a `c_embedder`. Without
    `subfolder` the weights may be in the folder itself or in its `transformer/`. `dtype` None keeps the
    file's dtype. Tensors are read one by one into an empty model, so memory holds the weights once. Leftover
    `*.lora_*` keys are ignored. Raise ValueError for any other key that is missing or unexpected.
    """
    config_file, files = _locate(str(folder), subfolder)
    config = json.loads(config_file.read_text())
    state = _read(files, dtype)
    if "c_embedder.weight" in state:
        config, state = _fold(config, state)
    return _build(config, state).eval()


def _build(config: dict, state: dict[str, Tensor]) -> FluxTransformer2DModel:
    # Private keys such as "_use_default_values" would override the other options.
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    with init_empty_weights():
        model = FluxTransformer2DModel.from_config(config)
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:  # names missing and unexpected keys, and wrong shapes
        raise ValueError(f"the checkpoint does not fit its config.json: {str(error)[:1000]}") from error
    return model


def _fold(config: dict, state: dict[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """Merge `x_embedder(x) + c_embedder(c)` into one Linear over `[x | c]`."""
    inputs, condition = state["x_embedder.weight"], state.pop("c_embedder.weight")
    outputs = config.get("out_channels") or config["in_channels"]
    state["x_embedder.weight"] = torch.cat([inputs, condition], dim=1)  # [inner, in + in]
    state["x_embedder.bias"] = state["x_embedder.bias"] + state.pop("c_embedder.bias")
    return {**config, "in_channels": inputs.shape[1] + condition.shape[1], "out_channels": outputs}, state


def _read(files: list[Path], dtype: torch.dtype | None) -> dict[str, Tensor]:
    state = {}
    for file in files:
        with safe_open(file, framework="pt") as shard:
            for key in shard.keys():  # noqa: SIM118 (not a dict)
                if ".lora_" not in key:
                    tensor = shard.get_tensor(key)
                    state[key] = tensor if dtype is None else tensor.to(dtype)
    return state


def _locate(folder: str, subfolder: str | None) -> tuple[Path, list[Path]]:
    """Return the config file and the weight files, on disk or downloaded from the hub."""
    place = subfolder or ""
    try:
        config = _fetch(folder, place, CONFIG)
    except MISSING:
        if subfolder is None:
            return _locate(folder, "transformer")
        raise
    try:
        names = sorted(set(json.loads(_fetch(folder, place, INDEX).read_text())["weight_map"].values()))
    except MISSING:  # not sharded
        names = [WEIGHTS]
    return config, [_fetch(folder, place, name) for name in names]


def _fetch(folder: str, place: str, name: str) -> Path:
    """Return a file on disk or downloaded from the hub; raise one of MISSING if there is none."""
    if not Path(folder).is_dir():
        return Path(hf_hub_download(folder, name, subfolder=place or None))
    file = Path(folder, place, name)
    if not file.is_file():
        raise FileNotFoundError(f"no transformer in {folder}: {Path(place, name)} is missing")
    return file
