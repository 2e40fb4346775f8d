"""Options in, pictures out: one call for the command line, the app and your own script.

Every picture has its own seed (`seed`, `seed + 1`, ...) and can be made again alone from it; every result
carries the settings that `save` writes into its PNG. `python -m dsd.generate` is `dsd/generate/command.py`.
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

BATCH = 4  # pictures denoised together; more gain little speed and cost memory
MAX_SEED = 2**32 - 1  # a browser's numbers are exact only to 2**53, and 32 bits are easier to copy
NEW_SEEDS = 1_000_000  # where seeds are taken from when none is given: short enough to copy
MAX_SIDE = 2048
RANDOM_SEED = -1  # as programs of this field write "any seed"
PACE = 5  # steps that the estimate of the time left looks back on


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one call draws. Sizes are those of one frame; None means the model's own."""

    prompt: str  # where the subject should be
    seed: int = 0  # of the first picture; the next ones count up
    quality: str | Quality = "best"  # how much time to take: one of dsd.model.sampling.QUALITIES
    steps: int | None = None  # denoising steps; None becomes the quality's
    image_guidance: float = 1.5  # how strongly to keep the subject; 1 is off
    text_guidance: float = 1.0  # how strongly to follow the prompt; 1 is off
    guidance: float | None = (
        None  # embedded guidance of models distilled with it; None is the model's default
    )
    count: int = 1  # pictures
    width: int | None = None
    height: int | None = None
    fit: str = "crop"  # "crop" or "pad"

    def __post_init__(self) -> None:
        intake.check_prompt(self.prompt)
        _whole("count", self.count, 1, 1000)
        _whole("seed", self.seed, 0, MAX_SEED - self.count + 1)
        own = quality.find(self.quality)
        if self.steps is None:
            object.__setattr__(self, "steps", own.steps)  # frozen for others only
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
        """The quality, with the steps that these options take."""
        return replace(quality.find(self.quality), steps=self.steps)


def pick_seed(seed: int | None) -> int:
    """Return `seed`, or a random one where it is None or -1."""
    return random.randrange(NEW_SEEDS) if seed is None or seed == RANDOM_SEED else seed


def _whole(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _number(name: str, value: object, low: float, high: float) -> None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or not low <= value <= high:  # which NaN is not, nor a whole number too long for a float
        raise ValueError(f"{name} must be a number from {low} to {high}, got {value!r}")


@dataclass(frozen=True)
class Result:
    """One picture and all that it takes to make it again."""

    image: Image.Image
    reference: Image.Image  # the reference as the model redrew it in the left frame
    frame: Image.Image  # the reference as the model saw it
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Where a call stands: `step` of `total` over all its pictures."""

    step: int
    total: int
    seconds_left: float
    previews: list[Image.Image] | None = None  # the pictures now being drawn, when a preview was due
    results: list[Result] = field(default_factory=list)  # finished ones; all of them at the last step


def generate(
    pipe: Any,
    image: Image.Image,
    options: Options,
    on_step: Callable[[int, int], None] | None = None,
    **labels: str | None,
) -> list[Result]:
    """Draw `options.count` pictures of the subject in `image`. `labels` as in `stream`."""
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
    """The same, step by step; closing it stops within a step.

    `model` and `weights` are the names the pipeline was loaded by, for the settings. A preview is decoded
    whenever `preview_seconds` have passed since the last one; None means never.
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
            Result(picture, redrawn, frame, seed, {**common, "seed": seed})
            for picture, redrawn, seed in zip(drawn.images, drawn.references, seeds[start:], strict=False)
        ]
        yield Progress(clock.done, clock.total, clock.seconds_left(), None, results)


def check(pipe: Any, options: Options) -> None:
    """Refuse a setting that this model does not have, rather than ignore it."""
    if options.guidance is not None and not checkpoint.has_embedded_guidance(pipe):
        raise ValueError(f"this model has no embedded guidance: leave it out, got {options.guidance}")


def _size(pipe: Any, options: Options) -> tuple[int, int]:
    return options.width or pipe.frame_size, options.height or pipe.frame_size


def _encoded(pipe: Any, frame: Image.Image, options: Options) -> dict[str, Any]:
    """What all pictures of a call share: its words and its reference are encoded once, not once a batch."""
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
    """Draw one batch; yields after each step and returns the pipeline's output."""
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
        "reference_sha256": provenance.picture_hash(frame),
        "versions": provenance.versions(),
    }


def public_name(name: str) -> str:
    """A model's name without the folders of somebody's home: pictures and pages are for others."""
    return Path(name).name if Path(name).is_absolute() else name


def save(result: Result, path: str | Path) -> Path:
    """Write the picture as a PNG that carries its settings and its reference."""
    return provenance.save(path, result.image, result.settings, result.frame)


def options_from(settings: dict[str, Any]) -> Options:
    """The options that make a saved picture again. A stranger's file, so all of it is checked."""
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
        raise ValueError(f"the settings in this picture lack {error}: it cannot be made again") from error


class Clock:
    """Counts steps over all batches and says how long the rest may take."""

    def __init__(self, total: int, preview_seconds: float | None) -> None:
        self.total, self.done, self._preview_seconds = total, 0, preview_seconds
        self._ticks = [(time.monotonic(), 0)]
        self._previewed = self._ticks[0][0]

    def tick(self, pictures: int) -> None:
        self.done += pictures
        self._ticks = [*self._ticks[-PACE:], (time.monotonic(), self.done)]

    def seconds_left(self) -> float:
        # The last few steps only: guidance starts after the second step and makes each later one dearer.
        (before, first), (now, last) = self._ticks[0], self._ticks[-1]
        return (now - before) / max(1, last - first) * (self.total - self.done)

    def preview_due(self) -> bool:
        if self._preview_seconds is None or time.monotonic() - self._previewed < self._preview_seconds:
            return False
        self._previewed = time.monotonic()
        return True
