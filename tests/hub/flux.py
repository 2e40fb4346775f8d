"""FLUX.1-dev and FLUX.1-schnell: tiny random weights in the files that the hub has."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from tests.hub import tokenizers

INNER, HEADS, CHANNELS = 128, 1, 64  # the published heads are as wide, with 24 of them
TEXT, POOLED = 32, 32  # 4096 and 768 as published
LONGEST = tokenizers.T5_LENGTH
VERSION = "0.30.0.dev0"
INDEX = {
    "_class_name": "FluxPipeline", "_diffusers_version": VERSION,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": VERSION,
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
    "num_train_timesteps": 1000,
}  # fmt: skip
TRANSFORMER = {
    "_class_name": "FluxTransformer2DModel", "_diffusers_version": VERSION,
    "_name_or_path": "../checkpoints/flux-dev/transformer", "attention_head_dim": INNER,
    "in_channels": CHANNELS, "joint_attention_dim": TEXT, "num_attention_heads": HEADS,
    "num_layers": 1, "num_single_layers": 1, "patch_size": 1, "pooled_projection_dim": POOLED,
}  # fmt: skip
VAE = {
    "_class_name": "AutoencoderKL", "_diffusers_version": VERSION, "_name_or_path": "../checkpoints/flux-dev",
    "act_fn": "silu", "block_out_channels": [4, 4, 4, 4], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True, "in_channels": 3, "latent_channels": 16, "latents_mean": None, "latents_std": None,
    "layers_per_block": 1, "mid_block_add_attention": False, "norm_num_groups": 1, "out_channels": 3,
    "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "use_post_quant_conv": False, "use_quant_conv": False,
}  # fmt: skip


def build(
    folder: Path, *, schnell: bool = False, seed: int = 0, side: int = 1024, tokens: int = LONGEST
) -> Path:
    """Write the repository of FLUX.1-dev, or -schnell, into `folder`.

    `side` is its best size in pixels, `tokens` the length of a text.
    """
    torch.manual_seed(seed)
    write_json(folder / "model_index.json", INDEX)
    shifted = (
        {"shift": 1.0, "use_dynamic_shifting": False}
        if schnell
        else {"shift": 3.0, "use_dynamic_shifting": True}
    )
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER | shifted)
    _write_clip(folder)
    _write_t5(folder, tokens)
    _write_vae(folder, side)
    write_transformer(folder / "transformer", transformer(guidance=not schnell))
    name = "schnell" if schnell else "dev"
    (folder / "README.md").write_text(_card(name))
    (folder / "LICENSE.md").write_text(f"The license of FLUX.1-{name}.\n")
    for single in (f"flux1-{name}.safetensors", "ae.safetensors"):  # for other tools, and never to be fetched
        save_file({"not_for_diffusers": torch.zeros(8)}, folder / single)
    return folder


def _card(name: str) -> str:
    license = (
        "license: apache-2.0"
        if name == "schnell"
        else "license: other\nlicense_name: flux-1-dev-non-commercial-license"
    )
    return f"---\nlanguage:\n- en\n{license}\n---\n\nFLUX.1 [{name}], tiny and random.\n"


def transformer(*, guidance: bool = True) -> FluxTransformer2DModel:
    model = FluxTransformer2DModel.from_config({**TRANSFORMER, "guidance_embeds": guidance}).eval()
    return lively(model)


@torch.no_grad()
def lively(model: nn.Module) -> nn.Module:
    """Let text and image move the output: as built, the modulations are small and hide them."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            weight.normal_(std=0.7 / weight.shape[1] ** 0.5)
        elif "norm" not in name:
            weight.normal_(std=0.05)
    return model


def write_transformer(folder: Path, model: FluxTransformer2DModel) -> None:
    """Write the config with the published keys and the weights in three shards with an index."""
    write_json(folder / "config.json", {**TRANSFORMER, "guidance_embeds": model.config.guidance_embeds})
    write_shards(folder, half(model.state_dict()), 3, "diffusion_pytorch_model")


def _write_clip(folder: Path) -> None:
    size = tokenizers.write_clip(folder / "tokenizer")
    sizes = {
        "vocab_size": size, "hidden_size": POOLED, "intermediate_size": 37, "num_attention_heads": 4,
        "num_hidden_layers": 2, "projection_dim": POOLED, "max_position_embeddings": tokenizers.CLIP_LENGTH,
    }  # fmt: skip
    ends = {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }  # published so, although the end is another
    model = CLIPTextModel(CLIPTextConfig(**sizes, **ends, hidden_act="quick_gelu"))
    told = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu"}
    old = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.3",
    }
    write_json(
        folder / "text_encoder" / "config.json", {**sizes, **ends, **told, **old, "layer_norm_eps": 1e-5}
    )
    state = {f"text_model.{name}": value for name, value in half(model.state_dict()).items()}
    save_file(state, folder / "text_encoder" / "model.safetensors", {"format": "pt"})


def _write_t5(folder: Path, length: int) -> None:
    size = tokenizers.write_t5(folder / "tokenizer_2", length)
    config = {
        "architectures": ["T5EncoderModel"], "model_type": "t5", "vocab_size": size, "d_model": TEXT,
        "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": True,
        "tie_word_embeddings": False, "use_cache": True, "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "decoder_start_token_id": 0,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
        "eos_token_id": 1, "pad_token_id": 0, "torch_dtype": "bfloat16", "transformers_version": "4.43.3",
        "_name_or_path": "google/t5-v1_1-xxl",
    }  # fmt: skip
    write_json(folder / "text_encoder_2" / "config.json", config)
    state = half(T5EncoderModel(T5Config(**config)).state_dict())
    state.pop("encoder.embed_tokens.weight", None)  # the published file has it once, as `shared.weight`
    write_shards(folder / "text_encoder_2", state, 2, "model")


def _write_vae(folder: Path, side: int) -> None:
    write_json(folder / "vae" / "config.json", {**VAE, "sample_size": side})
    state = half(AutoencoderKL.from_config(VAE).state_dict())
    save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})


# ---------------------------------------------------------------- files


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in bfloat16, as FLUX is published."""
    return {name: value.to(torch.bfloat16).contiguous() for name, value in state.items()}


def write_shards(folder: Path, state: dict[str, Tensor], count: int, stem: str) -> None:
    """Write the tensors in their order into `count` files, and the index."""
    names, places = list(state), {}
    for number in range(count):
        file = f"{stem}-{number + 1:05}-of-{count:05}.safetensors"
        part = names[number * len(names) // count : (number + 1) * len(names) // count]
        save_file({name: state[name] for name in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = sum(value.numel() * value.element_size() for value in state.values())
    write_json(
        folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places}
    )
