"""A whole pipeline of random weights, built offline in no time: the stock classes, as small as they go."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from dsd.pipeline import DSDPipeline
from dsd.transformer import widen

LETTERS = [chr(code) for code in range(33, 127)]
FRAME = 32  # pixels
PROMPTS = ["a red hat", "on the beach"]


def tokenizers() -> tuple[CLIPTokenizer, T5Tokenizer]:
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((letter, -3.0) for letter in LETTERS),
    ]
    clip = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    return clip, T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16)


def text_encoders(clip: CLIPTokenizer, t5: T5Tokenizer) -> tuple[CLIPTextModel, T5EncoderModel]:
    clip_config = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id,
    )
    t5_config = T5Config(vocab_size=len(t5), d_model=32, d_ff=37, d_kv=8, num_layers=2, num_heads=4)
    return CLIPTextModel(clip_config).eval(), T5EncoderModel(t5_config).eval()


def vae(sample_size: int = 2 * FRAME) -> AutoencoderKL:
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        norm_num_groups=1,
        sample_size=sample_size,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return still(model).eval()


def still(model: AutoencoderKL) -> AutoencoderKL:
    """No variance: samples are the mode, so that the stock pipeline's sampling changes nothing."""
    with torch.no_grad():
        model.encoder.conv_out.weight[model.config.latent_channels :] = 0
        model.encoder.conv_out.bias[model.config.latent_channels :] = -60
    return model


def plain_transformer(guidance_embeds: bool = True) -> FluxTransformer2DModel:
    """Not widened: the teacher's."""
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    ).eval()


def transformer(guidance_embeds: bool = True) -> FluxTransformer2DModel:
    """Widened, with columns that are not zero, as after training."""
    model = widen(plain_transformer(guidance_embeds))
    with torch.no_grad():
        model.x_embedder.weight[:, 16:].normal_(std=0.3)
    return model


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def components(*, seed: int = 0, guidance_embeds: bool = True) -> dict:
    """Every component of a pipeline, seeded, float32, on the CPU."""
    torch.manual_seed(seed)
    clip, t5 = tokenizers()
    text_encoder, text_encoder_2 = text_encoders(clip, t5)
    return {
        "scheduler": scheduler(),
        "vae": vae(),
        "transformer": transformer(guidance_embeds),
        "tokenizer": clip,
        "tokenizer_2": t5,
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
    }


def pipeline(*, seed: int = 0, guidance_embeds: bool = True) -> DSDPipeline:
    """A `DSDPipeline` of frames of 32 pixels."""
    pipe = DSDPipeline(**components(seed=seed, guidance_embeds=guidance_embeds))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int = 0, size: tuple[int, int] = (FRAME, FRAME)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(pipe: DSDPipeline, prompt: str | list[str] = PROMPTS[0], **options) -> torch.Tensor:
    """Packed latents after a few steps; the options of the test go over these."""
    common = {"image": picture(), "num_inference_steps": 3, "generator": seeded(0), "output_type": "latent"}
    return pipe(prompt, **{**common, **options}).images


def count_calls(pipe: DSDPipeline, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the batch size at every call of the transformer."""
    sizes, forward = [], pipe.transformer.forward

    def counted(**inputs):
        sizes.append(len(inputs["hidden_states"]))
        return forward(**inputs)

    monkeypatch.setattr(pipe.transformer, "forward", counted)
    return sizes
