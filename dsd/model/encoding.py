"""Encode a request's prompts and references into text embeddings and packed latents.

Neither depends on the seed, so `encode` computes them once for all images of a request.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from diffusers import FluxControlPipeline
from PIL import Image
from torch import Tensor

from dsd.model import canvas, latents
from dsd.model.request import Request, check


@torch.no_grad()
def encode(pipe: FluxControlPipeline, request: Request) -> Request:
    """Return the request with its prompts and references encoded; the pipeline draws the same from it."""
    check(request, pipe)
    width, height = request.options.size(pipe.frame)
    embeds, pooled = encode_text(pipe, request, True)
    negative, negative_pooled = encode_text(pipe, request, False) if request.drops_text else (None, None)
    return replace(
        request, prompt=None, negative_prompt=None, image=None,
        condition=encode_condition(pipe, request, height, width),
        prompt_embeds=embeds, pooled_prompt_embeds=pooled,
        negative_prompt_embeds=negative, negative_pooled_prompt_embeds=negative_pooled,
    )  # fmt: skip


def encode_condition(pipe: FluxControlPipeline, request: Request, height: int, width: int) -> Tensor:
    """Return the packed condition [B, tokens, C] of the request's references."""
    if request.condition is not None:
        return request.condition.to(pipe._execution_device)
    fit = request.options.fit
    frames = [[canvas.fit(image, width, height, fit) for image in images] for images in request.references]
    return encode_frames(pipe, frames)


@torch.no_grad()
def encode_frames(pipe: FluxControlPipeline, frames: Sequence[Sequence[Image.Image]]) -> Tensor:
    """Return the packed condition [B, tokens, C] of B images, for each of which `frames` has n references.

    All `[reference | black]` are encoded in one batch; of all but the first, only the left frame is used.
    """
    pixels = canvas.to_tensor([frame for row in frames for frame in row]).to(pipe._execution_device)
    encoded = latents.encode(pipe.vae, canvas.compose(pixels))  # [B * n, C, h, 2w]
    encoded = encoded.unflatten(0, (len(frames), -1))  # [B, n, C, h, 2w]
    return latents.pack_canvas(encoded[:, 0], encoded[:, 1:])


def encode_text(pipe: FluxControlPipeline, request: Request, has_text: bool) -> tuple[Tensor, Tensor]:
    """Return text embeddings [prompts, T, D] and pooled embeddings [prompts, P].

    Without text, they are those of the negative prompt, or of the empty prompt if there is none.
    """
    prompt, embeds, pooled = request.prompt, request.prompt_embeds, request.pooled_prompt_embeds
    length = request.max_sequence_length
    if length is None:  # the dropped text is as long, so that the branches can be batched
        length = latents.text_length(pipe.tokenizer_2) if embeds is None else embeds.shape[1]
    if not has_text:
        embeds, pooled = request.negative_prompt_embeds, request.negative_pooled_prompt_embeds
        prompt = (request.negative_prompt or "") if embeds is None else None
    device = pipe._execution_device
    embeds, pooled, _ = pipe.encode_prompt(
        prompt=prompt, device=device, prompt_embeds=embeds, pooled_prompt_embeds=pooled,
        max_sequence_length=length, lora_scale=(request.joint_attention_kwargs or {}).get("scale"),
    )  # fmt: skip
    return embeds.to(device), pooled.to(device)


def spread(rows: Tensor, request: Request) -> Tensor:
    """Expand one row for all, or one row per prompt, to one row per image: [n, ...] -> [B, ...]."""
    rows = rows.expand(request.batch, *rows.shape[1:])
    return rows.repeat_interleave(request.num_images_per_prompt, dim=0)
