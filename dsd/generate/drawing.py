"""Image generation from options: one call for the command line, the app and scripts.

Each image has its own seed (`seed`, `seed + 1`, ...) and can be reproduced alone from it. Each result carries
the settings that `save` writes into its PNG. `python -m dsd.generate` is `dsd/generate/command.py`.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.files import intake
from dsd.generate import provenance
from dsd.model import canvas, checkpoint, encoding
from dsd.model import sampling as quality
from dsd.model.pipeline import DEFAULT_GUIDANCE
from dsd.model.sampling import Quality

BATCH = 4  # images denoised together; larger batches gain little speed and cost memory
MAX_SEED = 2**32 - 1  # browsers keep integers exact only up to 2**53; 32 bits are easier to copy
NEW_SEEDS = 1_000_000  # random seeds are below this: short enough to copy
MAX_SIDE = 2048
RANDOM_SEED = -1  # the usual convention for "any seed"
PACE = 5  # number of recent steps used to estimate the time left


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of one call. Sizes are those of one frame; None means the model's default."""

    prompt: str  # where the subject should be
    seed: int = 0  # of the first image; the next images count up
    quality: str | Quality = "best"  # trades time for quality: one of dsd.model.sampling.QUALITIES
    steps: int | None = None  # denoising steps; None takes the quality's
    image_guidance: float = 1.5  # how strongly to keep the subject; 1 is off
    text_guidance: float = 1.0  # how strongly to follow the prompt; 1 is off
    guidance: float | None = (
        None  # embedded guidance of guidance-distilled models; None is the model's default
    )
    count: int = 1  # number of images
    width: int | None = None
    height: int | None = None
    fit: str = "crop"  # "crop" or "pad"

    def __post_init__(self) -> None:
        intake.check_prompt(self.prompt)
        _whole("count", self.count, 1, 1000)
        _whole("seed", self.seed, 0, MAX_SEED - self.count + 1)
        own = quality.find(self.quality)
        if self.steps is None:
            object.__setattr__(self, "steps", own.steps)  # the dataclass is frozen
        _whole("steps", self.steps, 1, 200)
        _number("image guidance", self.image_guidance, 0, 20)
        _number("text guidance", self.text_guidance, 0, 20)
        if self.guidance is not None:
            _number("guidance", self.guidance, 0, 20)
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None:
                _whole(name, side, canvas.MULTIPLE, MAX_SIDE)
                canvas.check_size(side, side)
        if self.fit not in canvas.FITS:
            raise ValueError(f"fit must be one of {', '.join(canvas.FITS)}, got {self.fit!r}")

    @property
    def plan(self) -> Quality:
        """The quality preset with the number of steps of these options."""
        return replace(quality.find(self.quality), steps=self.steps)


def pick_seed(seed: int | None) -> int:
    """Return `seed`, or a random seed if it is None or -1."""
    return random.randrange(NEW_SEEDS) if seed is None or seed == RANDOM_SEED else seed


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _number(name: str, value: object, low: float, high: float) -> None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not low <= value <= high:  # also rejects NaN and integers too large for a float
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")


@dataclass(frozen=True)
class Result:
    """One image and everything needed to reproduce it."""

    image: Image.Image
    reference: Image.Image  # the left frame: the reference as redrawn by the model
    frame: Image.Image  # the reference as the model saw it
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Progress of a call: `step` of `total` over all its images."""

    step: int
    total: int
    seconds_left: float
    previews: list[Image.Image] | None = None  # images of the current batch, if a preview is due
    results: list[Result] = field(default_factory=list)  # finished images; all of them at the last step


def generate(
    pipe: Any,
    image: Image.Image,
    options: Options,
    on_step: Callable[[int, int], None] | None = None,
    **labels: str | None,
) -> list[Result]:
    """Draw `options.count` images of the subject in `image`; `labels` are passed to `stream`."""
    results: list[Result] = []
    for progress in stream(pipe, image, options, **labels):
        results = progress.results
        if on_step:
            on_step(progress.step, progress.total)
    return results


def stream(
    pipe: Any,
    image: Image.Image,
    options: Options,
    *,
    model: str | None = None,
    weights: str | None = None,
    preview_seconds: float | None = None,
) -> Iterator[Progress]:
    """Draw `options.count` images and yield a Progress after each step; closing stops within one step.

    `model` and `weights` are the names that the pipeline was loaded with, for the settings. A preview is
    decoded whenever `preview_seconds` have passed since the last one; None means never.
    """
    check(pipe, options)
    frame = canvas.fit(image, *_size(pipe, options), options.fit)
    common = _settings(pipe, frame, options, model, weights)
    asked = _encoded(pipe, frame, options)
    clock = Clock(options.steps * options.count, preview_seconds)
    results: list[Result] = []
    seeds = range(options.seed, options.seed + options.count)
    for start in range(0, options.count, BATCH):
        drawn = yield from _draw(pipe, asked, seeds[start : start + BATCH], clock, results)
        results = results + [
            Result(image, redrawn, frame, seed, {**common, "seed": seed})
            for image, redrawn, seed in zip(drawn.images, drawn.references, seeds[start:], strict=False)
        ]
        yield Progress(clock.done, clock.total, clock.seconds_left(), None, results)


def check(pipe: Any, options: Options) -> None:
    """Raise ValueError for a setting that the model does not support."""
    if options.guidance is not None and not checkpoint.has_embedded_guidance(pipe):
        raise ValueError(f"this model has no embedded guidance: leave it out, got {options.guidance}")


def _size(pipe: Any, options: Options) -> tuple[int, int]:
    return options.width or pipe.frame_size, options.height or pipe.frame_size


def _encoded(pipe: Any, frame: Image.Image, options: Options) -> dict[str, Any]:
    """Encode the prompt and the reference once for all batches of a call."""
    return encoding.encoded(
        pipe,
        prompt=options.prompt.strip(),
        image=frame,
        width=frame.width,
        height=frame.height,
        num_inference_steps=options.steps,
        quality=options.quality,
        guidance_scale=options.guidance,
        image_guidance_scale=options.image_guidance,
        text_guidance_scale=options.text_guidance,
    )


def _draw(
    pipe: Any, asked: dict[str, Any], seeds: range, clock: "Clock", results: list[Result]
) -> Iterator[Progress]:
    """Draw one batch: yield after each step and return the pipeline's output."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    steps = pipe.stream(**asked, num_images_per_prompt=len(seeds), generator=generators)
    with contextlib.closing(steps):
        for step in steps:
            if hasattr(step, "images"):  # the last item is the output itself
                return step
            clock.tick(len(seeds))
            previews = step.preview() if clock.preview_due() else None
            yield Progress(clock.done, clock.total, clock.seconds_left(), previews, results)


def _settings(
    pipe: Any, frame: Image.Image, options: Options, model: str | None, weights: str | None
) -> dict[str, Any]:
    default = DEFAULT_GUIDANCE if checkpoint.has_embedded_guidance(pipe) else None
    return {
        "made_by": provenance.MARK,
        "prompt": options.prompt.strip(),
        "seed": options.seed,
        "steps": options.steps,
        "quality": quality.settings(options.plan),
        "image_guidance": options.image_guidance,
        "text_guidance": options.text_guidance,
        "guidance": default if options.guidance is None else options.guidance,
        "width": frame.width,
        "height": frame.height,
        "fit": options.fit,
        "model": public_name(model or pipe.config.get("_name_or_path") or ""),
        "weights": public_name(weights) if weights else None,
        "model_hash": checkpoint.model_hash(pipe),
        "reference_sha256": provenance.image_hash(frame),
        "versions": provenance.versions(),
    }


def public_name(name: str) -> str:
    """Return a model's name without local folders, because images and pages are shared."""
    return Path(name).name if Path(name).is_absolute() else name


def save(result: Result, path: str | Path) -> Path:
    """Write the image as a PNG that contains its settings and its reference."""
    return provenance.save(path, result.image, result.settings, result.frame)


def options_from(settings: dict[str, Any]) -> Options:
    """Return the options that reproduce a saved image; raise ValueError for invalid settings."""
    names = (
        "prompt",
        "seed",
        "steps",
        "image_guidance",
        "text_guidance",
        "guidance",
        "width",
        "height",
        "fit",
    )
    drawn = quality.from_settings(settings["quality"]) if "quality" in settings else "best"
    try:
        return Options(**{name: settings[name] for name in names}, quality=drawn)
    except KeyError as error:
        raise ValueError(f"the settings in this image lack {error}: it cannot be made again") from error


class Clock:
    """A step counter over all batches that estimates the time left."""

    def __init__(self, total: int, preview_seconds: float | None) -> None:
        self.total, self.done, self._preview_seconds = total, 0, preview_seconds
        self._ticks = [(time.monotonic(), 0)]
        self._previewed = self._ticks[0][0]

    def tick(self, images: int) -> None:
        self.done += images
        self._ticks = [*self._ticks[-PACE:], (time.monotonic(), self.done)]

    def seconds_left(self) -> float:
        # Only recent steps count: guidance starts after the second step and makes later steps slower.
        (before, first), (now, last) = self._ticks[0], self._ticks[-1]
        return (now - before) / max(1, last - first) * (self.total - self.done)

    def preview_due(self) -> bool:
        if self._preview_seconds is None or time.monotonic() - self._previewed < self._preview_seconds:
            return False
        self._previewed = time.monotonic()
        return True
