"""Draw images from options: one call for the command line, the app and scripts.

Each image has its own seed (`seed`, `seed + 1`, ...) and can be reproduced alone from it. Each result carries
the settings that `save` writes into its PNG. `python -m dsd.generate` is `dsd/generate/command.py`.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.files import intake
from dsd.generate import provenance
from dsd.model import canvas, checkpoint, encoding, sampling
from dsd.model.pipeline import DSDPipelineOutput
from dsd.model.presets import SCALES
from dsd.model.request import DrawingOptions, Request, embedded_guidance
from dsd.model.sampling import check_whole

BATCH = 4  # images denoised together; larger batches gain little speed and cost memory
MAX_SEED = 2**32 - 1  # browsers keep integers exact only up to 2**53; 32 bits are easier to copy
NEW_SEEDS = 1_000_000  # random seeds are below this: short enough to copy
RANDOM_SEED = -1  # the usual convention for "any seed"
PACE = 5  # number of recent steps used to estimate the time left
SETTINGS = ("prompt", "seed", "image_guidance", "text_guidance", "guidance", "width", "height", "fit")


@dataclass(frozen=True, kw_only=True)
class Options(DrawingOptions):
    """What to draw of one image, and how."""

    prompt: str  # where the subject should be
    seed: int = 0  # of the first image; the next images count up
    count: int = 1  # number of images
    image_guidance: float = SCALES["image_guidance"]  # for scripts; page and commands use `pipe.scales`
    text_guidance: float = SCALES["text_guidance"]

    def __post_init__(self) -> None:
        intake.check_prompt(self.prompt)
        check_whole("count", self.count, 1, 1000)
        check_whole("seed", self.seed, 0, MAX_SEED - self.count + 1)
        super().__post_init__()


def pick_seed(seed: int | None) -> int:
    """Return `seed`, or a random seed if it is None or -1."""
    return random.randrange(NEW_SEEDS) if seed is None or seed == RANDOM_SEED else seed


@dataclass(frozen=True)
class Result:
    """One image and everything needed to reproduce it."""

    image: Image.Image
    reference: Image.Image  # the left frame: the reference as redrawn by the model
    frame: Image.Image  # the reference as the model saw it
    seed: int
    settings: dict[str, Any]
    further: tuple[Image.Image, ...] = ()  # further references as the model saw them


@dataclass(frozen=True)
class Progress:
    """Progress of a call: `step` of `total` over all its images."""

    step: int
    total: int
    seconds_left: float
    previews: list[Image.Image] | None = None  # images of the current batch, if a preview is due
    results: list[Result] = field(default_factory=list)  # finished images; all of them at the last step
    seconds: float = 0.0  # since the call began


def generate(
    pipe: Any,
    image: Image.Image | Sequence[Image.Image],
    options: Options,
    *,
    model: str | None = None,
    weights: str | None = None,
) -> list[Result]:
    """Draw `options.count` images of the subject in one or several images; see `stream` for the rest."""
    images = [image] if isinstance(image, Image.Image) else image
    frames = [fit_reference(pipe, image, options) for image in images]
    *_, progress = stream(pipe, frames, options, model=model, weights=weights)
    return progress.results


def fit_reference(pipe: Any, image: Image.Image, options: Options) -> Image.Image:
    """Return the reference as the model sees it with these options."""
    return canvas.fit(image, *options.size(pipe.frame), options.fit)


def stream(
    pipe: Any,
    frame: Image.Image | Sequence[Image.Image],
    options: Options,
    *,
    model: str | None = None,
    weights: str | None = None,
    preview_seconds: float | None = None,
) -> Iterator[Progress]:
    """Draw `options.count` images and yield a Progress after each step; closing stops within one step.

    `frame` is a reference from `fit_reference`, or several of one subject. `model` and `weights` are the
    names that the pipeline was loaded with, for the settings. A preview is decoded at most every
    `preview_seconds`; None means never.
    """
    frames = [frame] if isinstance(frame, Image.Image) else list(frame)
    settings = _settings(pipe, frames, options, model, weights)  # raises ValueError before the model works
    clock = Clock(options.loop.steps * options.count, preview_seconds)
    request = Request(options=options, prompt=options.prompt.strip(), image=[frames])
    request = encoding.encode(pipe, request)
    results: list[Result] = []
    seeds = range(options.seed, options.seed + options.count)
    for start in range(0, options.count, BATCH):
        batch = seeds[start : start + BATCH]
        output = yield from _draw(pipe, request, batch, clock, results)
        results = results + [
            Result(image, reference, frames[0], seed, {**settings, "seed": seed}, tuple(frames[1:]))
            for image, reference, seed in zip(output.images, output.references, batch, strict=True)
        ]
        yield clock.progress(None, results)


def count_steps(requests: Sequence[Options]) -> int:
    """Return the number of steps of all images of several requests."""
    return sum(options.loop.steps * options.count for options in requests)


def stream_each(
    pipe: Any,
    frame: Image.Image | Sequence[Image.Image],
    requests: Sequence[Options],
    **arguments: Any,
) -> Iterator[Progress]:
    """Draw several requests of one reference in turn, and yield a Progress over all of them after each step.

    `results` has the finished images of all requests. `arguments` are the keyword arguments of `stream`.
    """
    clock, finished = Clock(count_steps(requests), None), []
    for options in requests:
        before = clock.done
        with closing(stream(pipe, frame, options, **arguments)) as steps:
            for progress in steps:
                clock.tick(before + progress.step - clock.done)
                yield clock.progress(progress.previews, [*finished, *progress.results])
        finished += progress.results


def _draw(
    pipe: Any, request: Request, seeds: range, clock: "Clock", results: list[Result]
) -> Iterator[Progress]:
    """Draw one batch: yield after each step and return the pipeline's output."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    request = replace(request, num_images_per_prompt=len(seeds), generator=generators)
    with closing(pipe.stream(request)) as steps:
        for step in steps:
            if isinstance(step, DSDPipelineOutput):
                return step
            clock.tick(len(seeds))
            previews = step.preview() if clock.preview_due() else None
            yield clock.progress(previews, results)


def _settings(
    pipe: Any, frames: list[Image.Image], options: Options, model: str | None, weights: str | None
) -> dict[str, Any]:
    hashes = [provenance.image_hash(frame) for frame in frames]
    return {
        "made_by": provenance.MARK,
        **{name: getattr(options, name) for name in SETTINGS},
        "prompt": options.prompt.strip(),
        "steps": options.loop.steps,
        "quality": asdict(options.loop),
        "guidance": embedded_guidance(options, pipe),
        "width": frames[0].width,
        "height": frames[0].height,
        "model": public_name(model or pipe.config.get("_name_or_path") or ""),
        "weights": public_name(weights) if weights else None,
        "lora": [f"{public_name(style.source)}:{style.scale:g}" for style in pipe.styles],
        "speed": asdict(pipe.speed),
        "model_hash": checkpoint.model_hash(pipe),
        "reference_sha256": hashes[0],
        **({provenance.FURTHER: hashes[1:]} if hashes[1:] else {}),
        "versions": provenance.versions(),
    }


def public_name(name: str) -> str:
    """Return a model's name without local folders, because images and pages are shared."""
    return Path(name).name if Path(name).is_absolute() else name


def save(result: Result, path: str | Path) -> Path:
    """Write the image as a PNG that contains its settings and its references."""
    return provenance.save(path, result.image, result.settings, result.frame, *result.further)


def options_from(settings: dict[str, Any]) -> Options:
    """Return the options that reproduce a saved image; raise ValueError for invalid settings."""
    if isinstance(panels := settings.get("panels"), list):
        raise ValueError(f"this image is a strip of {len(panels)} panels: draw one again from its own file")
    quality = sampling.from_settings(settings["quality"]) if "quality" in settings else "best"
    missing = [name for name in (*SETTINGS, "steps") if name not in settings]
    if missing:
        raise ValueError(f"the settings in this image lack {missing[0]!r}: it cannot be drawn again")
    return Options(**{name: settings[name] for name in (*SETTINGS, "steps")}, quality=quality)


class Clock:
    """A step counter over all batches that estimates the time left."""

    def __init__(self, total: int, preview_seconds: float | None) -> None:
        self.total = total
        self.done = 0
        self._preview_seconds = preview_seconds
        self._start = self._last_preview = time.monotonic()
        self._ticks = [(self._start, 0)]

    def tick(self, images: int) -> None:
        self.done += images
        self._ticks = [*self._ticks[-PACE:], (time.monotonic(), self.done)]

    def seconds_left(self) -> float:
        # Only recent steps count: guidance starts after the second step and makes later steps slower.
        (before, first), (now, last) = self._ticks[0], self._ticks[-1]
        return (now - before) / max(1, last - first) * (self.total - self.done)

    def progress(self, previews: list[Image.Image] | None, results: list[Result]) -> Progress:
        seconds = time.monotonic() - self._start
        return Progress(self.done, self.total, self.seconds_left(), previews, results, seconds)

    def preview_due(self) -> bool:
        if self._preview_seconds is None or time.monotonic() - self._last_preview < self._preview_seconds:
            return False
        self._last_preview = time.monotonic()
        return True
