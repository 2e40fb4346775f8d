"""The repositories besides FLUX: the published student and its data, scorers of photographs, and a judge."""

import io
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
)

from tests.hub import flux, tokenizers
from tests.hub.flux import CHANNELS, INNER

ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
RANK = 4
ROWS, FILES = 6, 2  # rows of a parquet file, and how many there are
SIDE = 64  # pixels of a published image, which has 512


def build_student(folder: Path, *, seed: int = 1) -> Path:
    """Write `primecai/dsd_model`: FLUX with a `c_embedder`, leftover LoRA keys, and the LoRA beside it."""
    torch.manual_seed(seed)
    model = flux.transformer()
    state = flux.half(model.state_dict())
    state |= {
        "c_embedder.weight": torch.randn(INNER, CHANNELS) * 0.2,
        "c_embedder.bias": torch.randn(INNER) * 0.2,
    }
    leftover = {name: value for name, value in _lora(model).items() if ".to_out" not in name}
    config = {**flux.TRANSFORMER, "_class_name": "FluxTransformer2DConditionalModel", "guidance_embeds": True}
    named = {"_diffusers_version": "0.31.0", "_name_or_path": "black-forest-labs/FLUX.1-dev"}
    flux.write_json(folder / "transformer" / "config.json", config | named)
    whole = flux.half(state | leftover)
    save_file(whole, folder / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    lora = {f"transformer.{name}": value for name, value in _lora(model).items()}
    save_file(flux.half(lora), folder / "pytorch_lora_weights.safetensors", {"format": "pt"})
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def _lora(model: FluxTransformer2DModel) -> dict[str, Tensor]:
    """Return a random LoRA on every attention projection, by the names of the release."""
    modules, state = dict(model.named_modules()), {}
    for name, layer in modules.items():
        if name.endswith(ATTENTION + ADDED) and isinstance(layer, torch.nn.Linear):
            outputs, inputs = layer.weight.shape
            state[f"{name}.lora_A.weight"] = torch.randn(RANK, inputs) * 0.2
            state[f"{name}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.2
    return state


# ---------------------------------------------------------------- data


def build_pairs(folder: Path, *, seed: int = 2) -> Path:
    """Write `primecai/dsd_data`: two parquet files with two images and a caption in each row."""
    rng = np.random.default_rng(seed)
    struct = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    types = {"conditioning": struct, "image": struct, "caption": pyarrow.string()}
    for file in range(FILES):
        columns = {
            "conditioning": [_image(rng) for _ in range(ROWS)], "image": [_image(rng) for _ in range(ROWS)],
            "caption": [f"a red robot number {ROWS * file + row} on the beach" for row in range(ROWS)],
        }  # fmt: skip
        table = pyarrow.table({name: pyarrow.array(column, types[name]) for name, column in columns.items()})
        path = folder / "data" / f"train-{file:05}-of-{FILES:05}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    (folder / "README.md").write_text("---\nlicense: other\n---\n\nPairs, tiny and random.\n")
    return folder


def picture(rng: np.random.Generator, side: int = SIDE) -> Image.Image:
    """Return an image of a few large squares."""
    pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def _image(rng: np.random.Generator) -> dict:
    content = io.BytesIO()
    picture(rng).save(content, "JPEG", quality=90)
    return {"bytes": content.getvalue(), "path": None}


# ---------------------------------------------------------------- scorers of photographs


def build_dino(folder: Path, *, seed: int = 3) -> Path:
    """Write `facebook/dinov2-base`."""
    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    square = {"height": 56, "width": 56}
    flux.write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": square, "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True,
            "do_rescale": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406],
            "image_processor_type": "BitImageProcessor", "image_std": [0.229, 0.224, 0.225], "resample": 3,
            "rescale_factor": 1 / 255, "size": {"shortest_edge": 64},
        },
    )  # fmt: skip
    return folder


def build_clip(folder: Path, *, seed: int = 4) -> Path:
    """Write `openai/clip-vit-base-patch32`."""
    torch.manual_seed(seed)
    size = tokenizers.write_clip(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **sizes,
        "vocab_size": size,
        "bos_token_id": size - 2,
        "eos_token_id": size - 1,
        "projection_dim": 16,
    }
    vision = {**sizes, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return folder
