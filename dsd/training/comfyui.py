"""A trained LoRA as a file for ComfyUI, which reads neither diffusers' metadata nor wider input layers.

ComfyUI maps `transformer.` keys of diffusers to its own FLUX. It takes the scale from a tensor `alpha` beside
each layer, and widens a layer that has a `reshape_weight`, as it does for FLUX's own control LoRAs.
"""

from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

FILE = "comfyui.safetensors"


def save_for_comfyui(
    layers: dict[str, Tensor], config: LoraConfig, wide: str, folder: Path, metadata: dict[str, str]
) -> None:
    """Save a LoRA whose layer `wide` reads more inputs than that of the base.

    `layers` maps `layer.lora_A.weight` and `layer.lora_B.weight` to their tensors.
    """
    state = {f"transformer.{name}": value.contiguous() for name, value in layers.items()}
    for name in [name.removesuffix(".lora_A.weight") for name in layers if name.endswith(".lora_A.weight")]:
        alpha = config.alpha_pattern.get(name, config.lora_alpha)
        state[f"transformer.{name}.alpha"] = torch.tensor(float(alpha))
    shape = len(layers[f"{wide}.lora_B.weight"]), layers[f"{wide}.lora_A.weight"].shape[1]
    state[f"transformer.{wide}.reshape_weight"] = torch.tensor(shape)
    save_file(state, folder / FILE, metadata)
