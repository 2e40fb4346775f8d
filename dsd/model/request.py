"""What one pipeline call draws: its options, its inputs, and the checks that come before any work."""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diffusers import FluxControlPipeline
from PIL import Image
from torch import Generator, Tensor

from dsd.model import canvas
from dsd.model.guidance import PLAIN, Branch, branches
from dsd.model.latents import count_references
from dsd.model.presets import DEFAULT_GUIDANCE
from dsd.model.sampling import Quality, check_whole, find
from dsd.model.transformer import is_widened

logger = logging.getLogger(__name__)

OUTPUTS = ("pil", "np", "pt", "latent")


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """How to draw, checked once for Python, the command line and the page; sizes are of ONE frame."""

    quality: str | Quality = "best"  # trades time for quality: a name in QUALITIES, or a custom Quality
    steps: int | None = None  # None: that of the quality, 28 for "best"
    guidance_start: int | None = None  # the first step with guidance; None: that of the quality, 2
    image_guidance: float = 1.0  # how strongly to keep the subject; 1 is off
    text_guidance: float = 1.0  # how strongly to follow the prompt; 1 is off
    guidance: float | None = None  # embedded guidance; None: 3.5 if the model has it
    width: int | None = None  # pixels, a multiple of 16; None: the model's frame size
    height: int | None = None
    fit: str = "crop"  # how a reference is fitted to the frame: one of canvas.FITS

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_whole("steps", self.steps, 1, 200)
        if self.guidance is not None:
            check_number("guidance", self.guidance, 0, 20)
        check_number("image guidance", self.image_guidance, 0, 20)
        check_number("text guidance", self.text_guidance, 0, 20)
        canvas.check_size(*self.size(canvas.MULTIPLE))
        if self.fit not in canvas.FITS:
            raise ValueError(f"fit must be one of {', '.join(canvas.FITS)}, got {self.fit!r}")
        _ = self.loop  # raises ValueError for an unknown quality

    @property
    def loop(self) -> Quality:
        """Return the quality with the steps and the guidance start of these options."""
        quality = find(self.quality)
        steps = quality.steps if self.steps is None else self.steps
        start = quality.guidance_start if self.guidance_start is None else self.guidance_start
        return replace(quality, steps=steps, guidance_start=start)

    @property
    def guided(self) -> tuple[Branch, ...]:
        """Return the branches of the guided steps, or the plain branch if no step is guided."""
        return branches(self.image_guidance, self.text_guidance) if self.loop.guided else PLAIN

    def size(self, default: int | tuple[int, int]) -> tuple[int, int]:
        """Return `(width, height)` of one frame; `default` stands for sides that are not given."""
        width, height = (default, default) if isinstance(default, int) else default
        return (
            width if self.width is None else self.width,
            height if self.height is None else self.height,
        )


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Raise ValueError unless `value` is a number from `low` to `high`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # also rejects NaN and integers too large for a float
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """The options and the inputs of one call, under diffusers' names."""

    options: DrawingOptions = DrawingOptions()
    prompt: str | list[str] | None = None  # one for all references, or one per reference
    negative_prompt: str | list[str] | None = None  # replaces the empty prompt where the text is dropped
    # The reference, or one per prompt. A list in the list holds several references of one image.
    image: Image.Image | list[Image.Image | list[Image.Image]] | None = None
    condition: Tensor | None = None  # encoded references [B, tokens, C], in place of images
    num_images_per_prompt: int = 1
    generator: Generator | list[Generator] | None = None  # a list: one per image
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

    def __post_init__(self) -> None:
        check_whole("num_images_per_prompt", self.num_images_per_prompt, 1, 1000)
        if self.output_type not in OUTPUTS:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUTS)}, got {self.output_type!r}")
        self._check_text()
        self._check_references()

    def _check_text(self) -> None:
        if (self.prompt is None) == (self.prompt_embeds is None):
            raise ValueError("pass either prompt or prompt_embeds")
        if self.negative_prompt is not None and self.negative_prompt_embeds is not None:
            raise ValueError("pass negative_prompt or negative_prompt_embeds, not both")
        for kind in ("", "negative_"):
            embeds, pooled = f"{kind}prompt_embeds", f"{kind}pooled_prompt_embeds"
            if (getattr(self, embeds) is None) != (getattr(self, pooled) is None):
                raise ValueError(f"{embeds} and {pooled} belong together: pass both")

    def _check_references(self) -> None:
        if self.condition is not None and self.condition.ndim != 3:
            shape = list(self.condition.shape)
            raise ValueError(f"an encoded condition must be [B, tokens, C], got {shape}; pass PIL images")
        if self.condition is None and not all([*self.references, self.references]):
            raise ValueError("image is missing: pass the reference image, or a list with one per prompt")
        for image in itertools.chain(*self.references):
            if not isinstance(image, Image.Image):
                raise ValueError(f"image must hold PIL images, got {type(image).__name__}")
        counts = sorted({len(images) for images in self.references})
        if len(counts) > 1:
            numbers = " and ".join(map(str, counts))
            raise ValueError(
                f"each prompt of a call needs as many references, got {numbers}: call it once for each number"
            )

    @property
    def references(self) -> list[tuple[Image.Image, ...]]:
        """Return, for each prompt, the references that are still to be encoded."""
        if self.image is None:
            return []
        images = self.image if _is_list(self.image) else [self.image]
        return [tuple(image) if _is_list(image) else (image,) for image in images]

    @property
    def batch(self) -> int:
        """Return the number of prompts or references; raise ValueError unless equal, or one of them is 1."""
        prompts = _count(self.prompt if self.prompt_embeds is None else self.prompt_embeds)
        references = len(self.references if self.condition is None else self.condition)
        if 0 in (prompts, references) or (prompts != references and 1 not in (prompts, references)):
            problem = f"{prompts} prompts do not go with {references} references"
            raise ValueError(f"{problem}: pass as many of each, or one of either")
        return max(prompts, references)

    @property
    def drops_text(self) -> bool:
        """Return whether a guided step needs the empty or the negative prompt."""
        return not all(branch.text for branch in self.options.guided)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _count(prompts: str | list[str] | Tensor) -> int:
    return 1 if isinstance(prompts, str) else len(prompts)


def check(request: Request, pipe: FluxControlPipeline) -> None:
    """Raise ValueError before any work if this pipeline cannot serve the request."""
    if not is_widened(pipe.transformer):
        problem = f"reads {pipe.transformer.config.in_channels} channels and cannot see a reference"
        raise ValueError(f"the transformer {problem}: widen it first")
    for name in request.callback_on_step_end_tensor_inputs:
        if name not in pipe._callback_tensor_inputs:
            names = ", ".join(pipe._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs must be one of {names}, got {name!r}")
    embedded_guidance(request.options, pipe)
    _check_reference_count(request, pipe)
    _check_components(request, pipe)
    _check_negative_prompt(request)


def embedded_guidance(options: DrawingOptions, pipe: FluxControlPipeline) -> float | None:
    """Return the guidance scale to embed, or None for a model without embedded guidance.

    Raise ValueError if the options have a scale that such a model cannot take.
    """
    if pipe.transformer.config.guidance_embeds:
        return DEFAULT_GUIDANCE if options.guidance is None else options.guidance
    if options.guidance is not None:
        problem = "but this model has no embedded guidance: leave it out"
        raise ValueError(f"guidance is {options.guidance}, {problem}")
    return None


def _check_reference_count(request: Request, pipe: FluxControlPipeline) -> None:
    """Raise ValueError for more references than the weights were trained with."""
    if request.condition is None:
        count = len(request.references[0])
    else:
        width, height = request.options.size(pipe.frame)
        scale = pipe.vae_scale_factor
        count = count_references(request.condition.shape[1], height, width, vae_scale=scale)
    if count > (most := pipe.trained_references):
        raise ValueError(
            f"these weights were trained with {most} reference{'s' * (most > 1)}, got {count}: pass fewer "
            f"images of the subject, or weights of python -m train.train --references {count}"
        )


def _check_components(request: Request, pipe: FluxControlPipeline) -> None:
    if pipe.vae is None and (request.condition is None or request.output_type != "latent"):
        remedy = 'pass an encoded condition [B, tokens, C] as image, and output_type "latent"'
        raise ValueError(f"without a vae, {remedy}")
    missing = ["prompt_embeds"] * (request.prompt is not None)
    missing += ["negative_prompt_embeds"] * (request.drops_text and request.negative_prompt_embeds is None)
    if missing and None in (pipe.text_encoder, pipe.text_encoder_2, pipe.tokenizer, pipe.tokenizer_2):
        pooled = missing[0].replace("prompt", "pooled_prompt")
        raise ValueError(f"this pipeline has no text encoders: pass {missing[0]} and {pooled}")


def _check_negative_prompt(request: Request) -> None:
    embeds = request.negative_prompt_embeds
    negative = request.negative_prompt if embeds is None else embeds
    if negative is None:
        return
    if _count(negative) not in (1, request.batch):
        raise ValueError(
            f"{_count(negative)} negative prompts do not go with {request.batch} images: pass one or as many"
        )
    if not request.drops_text:
        logger.warning("the negative prompt has no effect: at these guidance scales no step drops the text")
