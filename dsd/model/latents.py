"""Conversion between pixels and packed latents, token positions, and the time schedule.

Training, validation and drawing share these definitions, which use the stock pipeline's own parts. The
tokens of a canvas are those of `[reference | target]`, then those of each further reference, if any.
`vae_scale` is the number of pixels per latent along one side (8 for FLUX); a token is a 2x2 patch of latents.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxControlPipeline
from diffusers.pipelines.flux.pipeline_flux_control import calculate_shift, retrieve_timesteps
from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from dsd.model import flow


def encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Encode pixels [B, 3, H, W] in -1..1 as shifted and scaled latents [B, C, H/8, W/8].

    Use the mode of the VAE's distribution, never a sample, so that the image depends only on the seed.
    """
    encoded = vae.encode(pixels.to(vae.dtype))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Invert `encode`: decode latents [B, C, h, w] to pixels [B, 3, 8h, 8w] in about -1..1."""
    latents = latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    return vae.decode(latents.to(vae.dtype), return_dict=False)[0]


def pack(latents: Tensor) -> Tensor:
    """Pack latents [B, C, h, w] into tokens [B, h/2 * w/2, 4C]."""
    return FluxControlPipeline._pack_latents(latents, *latents.shape)


def unpack(tokens: Tensor, height: int, width: int, *, vae_scale: int = 8) -> Tensor:
    """Unpack tokens [B, n, 4C] of a canvas of `height` x `width` pixels into latents [B, C, h, w]."""
    return FluxControlPipeline._unpack_latents(tokens, height, width, vae_scale)


def pack_canvas(canvas: Tensor, further: Tensor) -> Tensor:
    """Pack canvases [B, C, h, 2w] with n further references of each into tokens [B, T, 4C].

    Of the further `[reference | black]` [B, n, C, h, 2w], only the left frames are used.
    """
    left = further.chunk(2, dim=-1)[0].unbind(1)  # n x [B, C, h, w]
    return torch.cat([pack(canvas), *map(pack, left)], dim=1)  # T = (2 + n) * h/2 * w/2


def unpack_canvas(tokens: Tensor, height: int, width: int, *, vae_scale: int = 8) -> Tensor:
    """Unpack the tokens of `[reference | target]` into latents [B, C, h, 2w], for the pixels of one frame.

    Those of further references are left out.
    """
    tokens = tokens[:, : 2 * count_tokens(height, width, vae_scale=vae_scale)]
    return unpack(tokens, height, 2 * width, vae_scale=vae_scale)


def count_tokens(height: int, width: int, *, vae_scale: int = 8) -> int:
    """Return the number of tokens of one frame, whose size is in pixels."""
    return (height // (2 * vae_scale)) * (width // (2 * vae_scale))


def count_references(tokens: int, height: int, width: int, *, vae_scale: int = 8) -> int:
    """Return the number of references of a canvas with this many tokens; raise ValueError if none fits."""
    frame = count_tokens(height, width, vae_scale=vae_scale)
    frames, rest = divmod(tokens, frame)
    if rest or frames < 2:
        raise ValueError(
            f"a condition for frames of {width} x {height} must have {2 * frame} tokens, and {frame} more "
            f"for each further reference, got {tokens}: encode it at the size that is drawn"
        )
    return frames - 1


def canvas_positions(
    references: int, height: int, width: int, *, vae_scale: int = 8, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the rotary positions [tokens, 3] of a canvas, for the size in pixels of one frame.

    A further reference has the rows and columns of the first, and differs from it on the first axis. FLUX.1
    leaves that axis at 0, and FLUX.1 Kontext marks its reference on it.
    """
    settings: dict[str, Any] = {"vae_scale": vae_scale, "device": device}
    parts = [positions(height, 2 * width, **settings)]
    for number in range(1, references):
        part = positions(height, width, **settings)
        part[:, 0] = number
        parts.append(part)
    return torch.cat(parts)


def sample_noise(
    pipe: FluxControlPipeline,
    condition: Tensor,
    height: int,
    width: int,
    generator: Generator | list[Generator] | None,
) -> Tensor:
    """Return the initial noise for a packed condition [B, tokens, C], and the size in pixels of one frame.

    The noise of the canvas is drawn first: it does not depend on the number of further references.
    """
    count, tokens, channels = condition.shape
    further = count_references(tokens, height, width, vae_scale=pipe.vae_scale_factor) - 1
    settings = (condition.dtype, condition.device, generator)
    widths = [2 * width, *[width] * further]
    parts = [pipe.prepare_latents(count, channels // 4, height, side, *settings)[0] for side in widths]
    return torch.cat(parts, dim=1)


def positions(height: int, width: int, *, vae_scale: int = 8, device: torch.device | str = "cpu") -> Tensor:
    """Return the rotary positions [tokens, 3] for a canvas size in pixels."""
    # In float32, because bfloat16 merges integers above 256.
    rows, columns = height // (2 * vae_scale), width // (2 * vae_scale)
    return FluxControlPipeline._prepare_latent_image_ids(1, rows, columns, device, torch.float32)


def text_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of text tokens that a model reads: the limit of its T5 tokenizer, at most 512."""
    return min(tokenizer.model_max_length, 512)


def timesteps(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, tokens: int, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Set the scheduler to `steps` shifted times and return them [steps], in 0..1000.

    The shift grows with the number of tokens: 2048 tokens (two frames of 512 x 512) give mu = 0.8033.
    """
    mu = dynamic_shift(scheduler, tokens)
    return retrieve_timesteps(scheduler, steps, device, sigmas=flow.sigmas(steps), mu=mu)[0]


def dynamic_shift(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int) -> float:
    """Return `mu`, the logarithm of the shift for this many tokens; a static schedule ignores it."""
    defaults = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    return calculate_shift(tokens, *(scheduler.config.get(*default) for default in defaults.items()))
