"""The options of one pipeline call: each with its default, all checked before any work."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from diffusers import FluxControlPipeline
from PIL import Image
from torch import Tensor

from dsd.model import canvas
from dsd.model.guidance import PLAIN, Branch, branches
from dsd.model.sampling import Quality, find

logger = logging.getLogger(__name__)

DEFAULT_GUIDANCE = 3.5
OUTPUTS = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The options of `DSDPipeline.__call__` and `.stream`, under diffusers' names; sizes are of ONE frame."""

    prompt: str | list[str] | None = None  # one for all references, or one per reference
    negative_prompt: str | list[str] | None = None  # replaces the empty prompt where the text is dropped
    image: Any = None  # PIL, list of PIL, pixels [B, 3, H, W] in -1..1, or packed condition [B, tokens, C]
    height: int | None = None  # pixels, a multiple of 16; None: the model's frame size
    width: int | None = None
    num_inference_steps: int | None = None  # None: that of the quality, 28 for "best"
    quality: str | Quality = "best"  # a name in dsd.model.sampling.QUALITIES, or a custom Quality
    guidance_scale: float | None = None  # embedded guidance; None: 3.5 if the model has it
    image_guidance_scale: float = 1.0
    text_guidance_scale: float = 1.0
    guidance_start_step: int | None = None  # no guidance before it; None: that of the quality, 2
    num_images_per_prompt: int = 1
    generator: torch.Generator | list[torch.Generator] | None = None  # a list: one per image
    latents: Tensor | None = None  # packed initial noise [B, tokens, C]
    prompt_embeds: Tensor | None = None  # [B, T, D]
    pooled_prompt_embeds: Tensor | None = None  # [B, P]
    negative_prompt_embeds: Tensor | None = None
    negative_pooled_prompt_embeds: Tensor | None = None
    output_type: str = "pil"  # one of OUTPUTS; "latent" gives packed canvas latents
    joint_attention_kwargs: dict[str, Any] | None = None
    callback_on_step_end: Callable | None = None  # (pipe, index, timestep, kwargs) -> kwargs
    callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",)
    max_sequence_length: int | None = None  # text tokens; None: the limit of tokenizer_2, at most 512
    fit: str = "crop"  # how a PIL reference is fitted to the frame: one of canvas.FITS

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_text()
        self._check_image()

    def _check_choices(self) -> None:
        find(self.quality)
        for name, least in (
            ("num_inference_steps", 1),
            ("num_images_per_prompt", 1),
            ("guidance_start_step", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        for name, choices in (("output_type", OUTPUTS), ("fit", canvas.FITS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def _check_text(self) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("pass either prompt or prompt_embeds")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise ValueError("pass negative_prompt or negative_prompt_embeds, not both")
        for kind in ("", "negative_"):
            embeds, pooled = f"{kind}prompt_embeds", f"{kind}pooled_prompt_embeds"
            if (getattr(self, embeds) is None) != (getattr(self, pooled) is None):
                raise ValueError(f"{embeds} and {pooled} belong together; pass both")

    def _check_image(self) -> None:
        if self.image is None or (isinstance(self.image, list | tuple) and not self.image):
            raise ValueError("image is missing: pass the reference image, or a list with one per prompt")
        if isinstance(self.image, Tensor):
            return self._check_tensor()
        for image in self.images:
            if not isinstance(image, Image.Image):
                raise ValueError(f"image must hold PIL images or be a tensor, got {type(image).__name__}")

    def _check_tensor(self) -> None:
        if self.image.ndim not in (3, 4) or (self.image.ndim == 4 and self.image.shape[1] != 3):
            raise ValueError(f"an image tensor is [B, 3, H, W] in -1..1, got {list(self.image.shape)}")
        if self.image.ndim == 4 and self.image.abs().max() > 1.01:
            raise ValueError(f"an image tensor lies in -1..1, got up to {self.image.abs().max().item():.3g}")

    @property
    def images(self) -> list:
        """Return the references as a list of PIL images, or the rows of a tensor."""
        return [self.image] if isinstance(self.image, Image.Image) else list(self.image)

    @property
    def batch(self) -> int:
        """Return the number of prompts or references, whichever is larger.

        Raise ValueError unless both numbers are equal or one of them is 1.
        """
        prompts = self.prompt_embeds if self.prompt is None else self.prompt
        counts = {
            "prompts": 1 if isinstance(prompts, str) else len(prompts),
            "references": len(self.images),
        }
        if 0 in counts.values() or (counts["prompts"] != counts["references"] and 1 not in counts.values()):
            raise ValueError(
                f"{counts['prompts']} prompts do not go with {counts['references']} references: "
                "pass as many of each, or one of either"
            )
        return max(counts.values())

    def size(self, default: int) -> tuple[int, int]:
        """Return `(height, width)` of one frame in pixels; a pixel tensor sets its own size."""
        own = tuple(self.image.shape[-2:]) if isinstance(self.image, Tensor) and not self.packed else None
        height, width = own or (default, default)
        height = height if self.height is None else self.height
        width = width if self.width is None else self.width
        canvas.check_size(width, height)
        if own is not None and own != (height, width):
            raise ValueError(
                f"the image tensor is {own[1]} x {own[0]}, the frame {width} x {height}: fit it first"
            )
        return height, width

    @property
    def packed(self) -> bool:
        """Return whether the image is an already encoded and packed condition."""
        return isinstance(self.image, Tensor) and self.image.ndim == 3

    @cached_property
    def plan(self) -> Quality:
        """Return the quality with this request's own steps and guidance start, if set."""
        own = {"steps": self.num_inference_steps, "guidance_start": self.guidance_start_step}
        return replace(
            find(self.quality), **{name: value for name, value in own.items() if value is not None}
        )

    @property
    def guided(self) -> tuple[Branch, ...]:
        """Return the branches of the guided steps, or the plain branch if no step is guided."""
        guided = branches(self.image_guidance_scale, self.text_guidance_scale)
        return guided if self.plan.guided else PLAIN

    @property
    def drops_text(self) -> bool:
        return not all(branch.text for branch in self.guided)


def check(request: Request, pipe: FluxControlPipeline) -> None:
    """Raise ValueError before any work if this pipeline cannot serve the request.

    The message gives the value and the remedy.
    """
    inputs, outputs = pipe.transformer.config.in_channels, pipe.transformer.config.out_channels
    if inputs != 2 * (outputs or inputs):
        raise ValueError(
            f"the transformer reads {inputs} channels and cannot see a reference: widen it first"
        )
    for name in request.callback_on_step_end_tensor_inputs:
        if name not in pipe._callback_tensor_inputs:
            known = ", ".join(pipe._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs knows {known}, got {name!r}")
    request.size(pipe.frame_size)
    embedded_guidance(request, pipe)
    _check_components(request, pipe)
    _check_dropped_text(request)


def embedded_guidance(request: Request, pipe: FluxControlPipeline) -> float | None:
    """Return the guidance scale to embed, or None for a model without embedded guidance.

    Raise ValueError if a scale is passed to such a model.
    """
    if pipe.transformer.config.guidance_embeds:
        return DEFAULT_GUIDANCE if request.guidance_scale is None else request.guidance_scale
    if request.guidance_scale is not None:
        raise ValueError(
            f"guidance_scale={request.guidance_scale}, but this model has no embedded guidance: leave it out"
        )
    return None


def _check_components(request: Request, pipe: FluxControlPipeline) -> None:
    if pipe.vae is None and not (request.packed and request.output_type == "latent"):
        raise ValueError(
            'without a vae, image must be packed latents [B, tokens, C] and output_type "latent"'
        )
    missing = ["prompt_embeds"] * (request.prompt is not None)
    missing += ["negative_prompt_embeds"] * (request.drops_text and request.negative_prompt_embeds is None)
    if missing and None in (pipe.text_encoder, pipe.text_encoder_2, pipe.tokenizer, pipe.tokenizer_2):
        raise ValueError(f"this pipeline has no text encoders: pass {missing[0]} and its pooled twin")


def _check_dropped_text(request: Request) -> None:
    embeds = request.negative_prompt_embeds
    negative = request.negative_prompt if embeds is None else embeds
    if negative is None:
        return
    count = 1 if isinstance(negative, str) else len(negative)
    if count not in (1, request.batch):
        raise ValueError(
            f"{count} negative prompts do not go with {request.batch} images: pass one or as many"
        )
    if not request.drops_text:
        logger.warning(
            "the negative prompt has no effect: at these guidance scales the text is never dropped"
        )
