"""Text-to-image models besides FLUX.1, of random weights: FLUX.2-klein-4B, Qwen-Image and Z-Image."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from tests.hub import flux, tokenizers
from tests.hub.flux import lively, write_json

WIDTH = 16  # of the text encoders
SIZES = {
    "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "tie_word_embeddings": True,
}  # fmt: skip
BLOCKS = {"attention_head_dim": 128, "num_attention_heads": 1, "guidance_embeds": False}
VAE = {**flux.VAE, "layers_per_block": 1}
SHIFTED = {"shift": 3.0, "use_dynamic_shifting": True}


def build_klein(folder: Path) -> Path:
    """Write `black-forest-labs/FLUX.2-klein-4B`; its pipeline reads layers 9, 18 and 27."""
    size = tokenizers.write_qwen(folder / "tokenizer")
    encoder = Qwen3ForCausalLM(Qwen3Config(**SIZES, vocab_size=size, num_hidden_layers=28))
    transformer = Flux2Transformer2DModel(
        **BLOCKS, in_channels=128, num_layers=1, num_single_layers=1, joint_attention_dim=3 * WIDTH
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=1, latent_channels=32
    )
    index = {"is_distilled": True, "tokenizer": ["transformers", "Qwen2TokenizerFast"]}
    parts = {"text_encoder": encoder, "transformer": transformer, "vae": vae}
    return _write(folder, "Flux2KleinPipeline", parts, SHIFTED, index)


def build_qwen_image(folder: Path) -> Path:
    """Write `Qwen/Qwen-Image`."""
    size = tokenizers.write_qwen(folder / "tokenizer")
    text = {**SIZES, "vocab_size": size, "num_hidden_layers": 2}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": WIDTH}
    ids = {f"{name}_token_id": 3 for name in ("image", "video", "vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(text_config=text, vision_config={**eyes, "fullatt_block_indexes": [0]}, **ids)
    transformer = QwenImageTransformer2DModel(**BLOCKS, num_layers=1, joint_attention_dim=WIDTH)
    vae = AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    parts = {
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config), "transformer": transformer, "vae": vae,
    }  # fmt: skip
    shifted = {"shift": 1.0, "use_dynamic_shifting": True, "max_image_seq_len": 8192, "max_shift": 0.9}
    return _write(folder, "QwenImagePipeline", parts, shifted)


def build_z_image(folder: Path, *, shift: float = 6.0) -> Path:
    """Write `Tongyi-MAI/Z-Image`, or -Turbo, whose schedule has another `shift`."""
    size = tokenizers.write_qwen(folder / "tokenizer")
    transformer = ZImageTransformer2DModel(
        dim=128, n_layers=1, n_refiner_layers=1, n_heads=1, n_kv_heads=1, cap_feat_dim=WIDTH
    )
    encoder = Qwen3Model(Qwen3Config(**SIZES, vocab_size=size, num_hidden_layers=2))
    parts = {"text_encoder": encoder, "transformer": transformer, "vae": AutoencoderKL.from_config(VAE)}
    return _write(folder, "ZImagePipeline", parts, {"shift": shift, "use_dynamic_shifting": False})


def seeded(build: Callable[[Path], Path], seed: int) -> Callable[[Path], Path]:
    """Return a builder whose weights are the same each time."""

    def run(folder: Path) -> Path:
        torch.manual_seed(seed)
        return build(folder)

    return run


def _write(
    folder: Path,
    pipeline: str,
    parts: dict[str, nn.Module],
    shifted: dict,
    index: dict | None = None,
) -> Path:
    """Write the parts, the schedule, the index and the card of a repository."""
    torch.nn.init.normal_(parts["text_encoder"].get_input_embeddings().weight)
    lively(parts["transformer"])
    for name, model in parts.items():
        model.to(torch.bfloat16).save_pretrained(folder / name)
    write_json(folder / "scheduler" / "scheduler_config.json", {**flux.SCHEDULER, **shifted})
    listed = {
        name: ["diffusers" if name in ("transformer", "vae") else "transformers", type(model).__name__]
        for name, model in parts.items()
    }
    write_json(
        folder / "model_index.json",
        {
            "_class_name": pipeline, "_diffusers_version": "0.36.0",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"], **listed, **(index or {}),
        },
    )  # fmt: skip
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n\nTiny and random.\n")
    return folder
