"""Baseline: an image encoder's tokens of the reference are read through cross-attention in every block.

The idea of IP-Adapter: keys and values of their own, whose output is added to that of joint attention. The
new values start at zero, and so the model draws at first exactly what the teacher draws. Two things are
kinder than in the original: the transformer is trained as in our method instead of frozen, and all tokens of
the encoder are read instead of one summary. The encoder sees the reference as the VAE keeps it.
"""

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from dsd.model import latents
from dsd.training.student import Base
from dsd.vlm.embed import Embedder
from train.baselines.single_frame import SingleFrame


class CrossAttention(nn.Module):
    """An attention processor that also reads `image_tokens` [B, n, D]."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.plain = FluxAttnProcessor()
        self.keys, self.values = nn.Linear(width, inner), nn.Linear(width, inner)
        for weight in self.values.parameters():
            nn.init.zeros_(weight)

    def __call__(
        self,
        attn: FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        query, key, value = (
            layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, heads, n, head]
            for layer, tokens in (
                (attn.to_q, hidden_states), (self.keys, image_tokens), (self.values, image_tokens)
            )
        )  # fmt: skip
        seen = functional.scaled_dot_product_attention(attn.norm_q(query), key, value)
        seen = seen.transpose(1, 2).flatten(2)  # [B, n, heads * head]
        joint = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        return joint + seen if encoder_hidden_states is None else (joint[0] + seen, joint[1])


class ImagePrompt(SingleFrame):
    """A transformer that reads what a frozen image encoder sees in the reference."""

    def __init__(self, transformer: FluxTransformer2DModel, encoder: Embedder, vae: AutoencoderKL) -> None:
        super().__init__(transformer)
        self.tower, self.vae = encoder.tower.requires_grad_(False), vae.requires_grad_(False)
        processor, width = encoder.processor, encoder.tower.config.hidden_size
        size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
        self.side = size["height"] if "height" in size else size["shortest_edge"]
        self.register_buffer("mean", torch.tensor(processor.image_mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(processor.image_std).view(3, 1, 1))
        self.project = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
            block.attn.set_processor(CrossAttention(width, block.attn.inner_dim))

    def train(self, mode: bool = True) -> "ImagePrompt":
        super().train(mode)
        self.tower.eval(), self.vae.eval()
        return self

    def added(self) -> list[nn.Parameter]:
        readers = [module for module in self.transformer.modules() if isinstance(module, CrossAttention)]
        return [weight for module in (self.project, *readers) for weight in module.parameters()]

    def see(self, reference: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the encoder's tokens [B, n, D], zeros for a reference of zeros."""
        scale = 2 ** (len(self.vae.config.block_out_channels) - 1)
        pixels = latents.decode(self.vae, latents.unpack(reference, *size, vae_scale=scale)).clamp(-1, 1)
        pixels = functional.interpolate(
            pixels.float(), (self.side, self.side), mode="bilinear", antialias=True
        )
        normal = ((pixels + 1) / 2 - self.mean) / self.std  # [B, 3, side, side]
        tokens = self.tower(pixel_values=normal.to(self.tower.dtype)).last_hidden_state
        is_given = reference.flatten(1).any(dim=1).view(-1, 1, 1)
        return (tokens * is_given).to(reference.dtype)

    def forward(self, x_t: Tensor, seen: Tensor, **inputs) -> Tensor:
        image_tokens = self.project(seen.to(self.project[0].weight.dtype))
        return self.transformer(x_t, joint_attention_kwargs={"image_tokens": image_tokens}, **inputs)[0]


def wrapper(encoder: Embedder) -> Callable[[FluxTransformer2DModel, Base], ImagePrompt]:
    """Return how a teacher becomes an `ImagePrompt` with this encoder and its own VAE."""

    def wrap(transformer: FluxTransformer2DModel, base: Base) -> ImagePrompt:
        vae = AutoencoderKL.from_pretrained(base.source, subfolder="vae", dtype=transformer.dtype)
        return ImagePrompt(transformer, encoder, vae)

    return wrap
