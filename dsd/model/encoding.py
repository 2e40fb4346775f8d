"""Encode a request's prompts and references into text embeddings and packed latents.

Neither depends on the seed, so `encoded` computes them once for all images of a request.
"""

from typing import Any

import torch
from diffusers import FluxControlPipeline
from torch import Tensor

from dsd.model import canvas as diptych
from dsd.model import latents
from dsd.model.request import Request, check


@torch.no_grad()
def encoded(pipe: FluxControlPipeline, **options: Any) -> dict[str, Any]:
    """Return a request's options with the prompt and image already encoded, for drawing it several times.

    `pipe(**encoded(pipe, prompt=..., image=..., ...), generator=...)` draws the same as the plain options.
    """
    request = Request(**options)
    check(request, pipe)
    height, width = request.size(pipe.frame_size)
    texts = {"": text(pipe, request, True)}
    if request.drops_text:
        texts["negative_"] = text(pipe, request, False)
    embeds = {f"{kind}prompt_embeds": both[0] for kind, both in texts.items()}
    pooled = {f"{kind}pooled_prompt_embeds": both[1] for kind, both in texts.items()}
    made = {"image": condition(pipe, request, height, width), "height": height, "width": width}
    return {**options, "prompt": None, "negative_prompt": None, **embeds, **pooled, **made}


def condition(pipe: FluxControlPipeline, request: Request, height: int, width: int) -> Tensor:
    """Return the packed latents [references, tokens, C] of `[reference | black]`, encoded in one batch."""
    image = request.image
    if request.packed:
        return image.to(pipe._execution_device)
    if not isinstance(image, Tensor):
        image = diptych.to_tensor([diptych.fit(one, width, height, request.fit) for one in request.images])
    canvas = diptych.compose(image.to(pipe._execution_device))  # [references, 3, H, 2W]
    return latents.pack(latents.encode(pipe.vae, canvas))


def text(pipe: FluxControlPipeline, request: Request, kept: bool) -> tuple[Tensor, Tensor]:
    """Return text embeddings [prompts, T, D] and pooled embeddings [prompts, P].

    If not `kept`, they are those of the negative prompt, or of the empty prompt if there is none.
    """
    prompt, embeds, pooled = request.prompt, request.prompt_embeds, request.pooled_prompt_embeds
    if not kept:
        embeds, pooled = request.negative_prompt_embeds, request.negative_pooled_prompt_embeds
        prompt = (request.negative_prompt or "") if embeds is None else None
    device = pipe._execution_device
    embeds, pooled, _ = pipe.encode_prompt(
        prompt=prompt,
        device=device,
        prompt_embeds=embeds,
        pooled_prompt_embeds=pooled,
        max_sequence_length=_text_length(pipe, request),
        lora_scale=(request.joint_attention_kwargs or {}).get("scale"),
    )
    return embeds.to(device), pooled.to(device)


def _text_length(pipe: FluxControlPipeline, request: Request) -> int:
    if request.max_sequence_length is not None:
        return request.max_sequence_length
    if request.prompt_embeds is not None:  # same length for the dropped text, to batch the branches
        return request.prompt_embeds.shape[1]
    return min(pipe.tokenizer_2.model_max_length, 512)


def spread(rows: Tensor, request: Request) -> Tensor:
    """Expand one row for all, or one row per prompt, to one row per image: [n, ...] -> [B, ...]."""
    rows = rows.expand(request.batch, *rows.shape[1:])
    return rows.repeat_interleave(request.num_images_per_prompt, dim=0)
