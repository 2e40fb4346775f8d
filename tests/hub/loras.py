"""One style LoRA in the four key styles in which people publish LoRAs for FLUX.

All four change the same layers by the same amount: the attention of the image tokens in the first double
block, and the output of the first single block.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.hub.flux import INNER

RANK, ALPHA = 4, 4.0
FILES = {
    "diffusers": "pytorch_lora_weights.safetensors", "kohya": "style_kohya.safetensors",
    "comfyui": "style_comfyui.safetensors", "ai-toolkit": "style_ai_toolkit.safetensors",
}  # fmt: skip
FUSED = {  # layer in the original code -> the layers in diffusers and their widths
    "double_blocks.0.img_attn.qkv": [(f"transformer_blocks.0.attn.to_{x}", INNER) for x in "qkv"],
    "single_blocks.0.linear2": [("single_transformer_blocks.0.proj_out", INNER)],
}
INPUTS = {"double_blocks.0.img_attn.qkv": 1, "single_blocks.0.linear2": 5}  # in widths of the model


def weights(seed: int = 0, width: int = INNER) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A [rank, in] and B [out, rank] of each fused layer."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    sizes = {name: (INPUTS[name] * width, sum(size for _, size in parts)) for name, parts in FUSED.items()}
    return {name: (random(RANK, inputs), random(outputs, RANK)) for name, (inputs, outputs) in sizes.items()}


def diffusers(style: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the LoRA in diffusers' keys: each fused layer becomes three or four that share A."""
    return {f"transformer.{name}": value for name, value in _split(style).items()}


def kohya(style: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the LoRA in the keys of kohya's sd-scripts, with an alpha for each layer."""
    state = {}
    for name, (down, up) in style.items():
        key = f"lora_unet_{name.replace('.', '_')}"
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
        state[f"{key}.alpha"] = torch.tensor(ALPHA)
    return state


def comfyui(style: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the LoRA in ComfyUI's keys: the original layer names below `diffusion_model`."""
    state = {}
    for name, (down, up) in style.items():
        key = f"diffusion_model.{name}"
        state |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    return state


def ai_toolkit(style: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return the LoRA in ai-toolkit's keys: diffusers' layer names below `diffusion_model`."""
    return {f"diffusion_model.{name}": value for name, value in _split(style).items()}


def _split(style: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    state = {}
    for name, parts in FUSED.items():
        down, up = style[name]
        for (part, _), rows in zip(parts, up.split([size for _, size in parts]), strict=True):
            state |= {f"{part}.lora_A.weight": down.clone(), f"{part}.lora_B.weight": rows.contiguous()}
    return state


def build(folder: Path, *, seed: int = 0) -> Path:
    """Write the style in every key style, one LoRA of another width, and a card."""
    style = weights(seed)
    states = zip(FILES.values(), (diffusers, kohya, comfyui, ai_toolkit), strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    for file, convert in states:
        save_file(convert(style), folder / file, {"format": "pt"})
    save_file(diffusers(weights(seed, width=2 * INNER)), folder / "style_of_another_width.safetensors")
    (folder / "README.md").write_text("---\nlicense: other\nbase_model: black-forest-labs/FLUX.1-dev\n---\n")
    return folder
