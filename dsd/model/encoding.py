"""What a request's words and reference become before the first step: text embeddings and packed latents.

Neither depends on the seed, so `encoded` makes them once for all pictures of one request.
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
    """The options of a request with its prompt and picture already encoded, for drawing it more than once.

    `pipe(**encoded(pipe, prompt=..., image=..., ...), generator=...)` draws what the options would draw.
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
    """The packed latents [references, tokens, C] of `[reference | black]`, encoded in one go."""
    image = request.image
    if request.packed:
        return image.to(pipe._execution_device)
    if not isinstance(image, Tensor):
        image = diptych.to_tensor([diptych.fit(one, width, height, request.fit) for one in request.pictures])
    canvas = diptych.compose(image.to(pipe._execution_device))  # [references, 3, H, 2W]
    return latents.pack(latents.encode(pipe.vae, canvas))


def text(pipe: FluxControlPipeline, request: Request, kept: bool) -> tuple[Tensor, Tensor]:
    """Embeddings [prompts, T, D] and pooled [prompts, P]; when dropped, of what takes the prompt's place."""
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
    if request.prompt_embeds is not None:  # the dropped text is then as long, so that branches can be batched
        return request.prompt_embeds.shape[1]
    return min(pipe.tokenizer_2.model_max_length, 512)


def spread(rows: Tensor, request: Request) -> Tensor:
    """One row for all, or one per prompt, to one per picture: [n, ...] -> [B, ...]."""
    rows = rows.expand(request.batch, *rows.shape[1:])
    return rows.repeat_interleave(request.num_images_per_prompt, dim=0)
