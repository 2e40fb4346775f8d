"""Functions that draw a set of cases, and a hook that validates a model during training."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.evaluation.scores import (
    CRITTERS,
    ROTATIONS,
    Case,
    Draw,
    Levels,
    Scorer,
    Scores,
    evaluate,
    legend,
    measure_levels,
)
from dsd.files import contact_sheet, jsonl
from dsd.grids.recipes import IDENTITY
from dsd.grids.settings import guidance_settings, panel_side
from dsd.model import canvas, latents
from dsd.model.latents import text_length
from dsd.model.presets import choose
from dsd.vlm.base import VLM

logger = logging.getLogger(__name__)

HELD_OUT = "held-out critters"
PROMPTS = 3  # of each critter
SHOWN = 12  # cases on the contact sheet


class Benchmark:
    """A set of cases, its scorer, and the scores at chance and of the true images, measured once."""

    def __init__(
        self, cases: Sequence[Case], scorer: Scorer, *, rotations: int = ROTATIONS, name: str = HELD_OUT
    ) -> None:
        self.cases, self.scorer, self.rotations, self.name = cases, scorer, rotations, name

    @cached_property
    def levels(self) -> Levels:
        return measure_levels(self.cases, self.scorer, rotations=self.rotations)

    def evaluate(self, draw: Draw, *, described: bool = False) -> Scores:
        """Draw all cases and score them; if `described`, the prompts are the full captions."""
        return evaluate(draw, self.cases, self.scorer, described=described, levels=self.levels)

    @property
    def legend(self) -> str:
        """Return a readable explanation of each score."""
        return legend(self.scorer.measures, self.levels)


def open_benchmark(
    what: str | Path,
    *,
    subjects: int,
    prompts: int | None,
    seed: int = 0,
    size: int = 512,
    task: str = IDENTITY.task,
    open_judge: Callable[[], VLM] | None = None,
    **networks: Any,
) -> Benchmark:
    """Return a benchmark of held-out critters if `what` is CRITTERS, else of the images in that folder.

    The truth of a `task` other than identity is known of critters alone; raise ValueError for photographs.
    Critters use `subjects` and `seed`; photographs use `size`, `networks` (see `PhotographScorer`), and the
    judge, if any, whose chance level is measured with one other subject for each case, because it costs most.
    """
    check_task(task, what)
    if task != IDENTITY.task:
        from dsd.evaluation.tasks import TaskScorer, task_cases

        cases = task_cases(task, seed, subjects, prompts)
        return Benchmark(cases, TaskScorer(), name=f"{HELD_OUT}, {task}")
    if what == CRITTERS:
        from dsd.evaluation.critters import CritterScorer, validation_set

        return Benchmark(validation_set(seed, subjects, prompts or PROMPTS), CritterScorer())
    from dsd.evaluation import benchmarks, judged
    from dsd.evaluation.photographs import PhotographScorer

    found = benchmarks.read(what, prompts, size=size)
    scorer = PhotographScorer(**networks)
    if open_judge is None:
        return Benchmark(found.cases, scorer, name=found.name)
    return Benchmark(found.cases, judged.JudgedScorer(scorer, open_judge), rotations=1, name=found.name)


def check_task(task: str, what: str | Path) -> None:
    """Raise ValueError for photographs in a task whose truth is known of critters alone."""
    if task != IDENTITY.task and what != CRITTERS:
        raise ValueError(f"the task {task} is measured on critters alone, got photographs: leave them out")


def by_student(
    pipe: Any,
    *,
    steps: int | None = 28,
    quality: str = "best",
    image_guidance: float | None = None,
    text_guidance: float | None = None,
) -> Draw:
    """Return a `Draw` that uses a `DSDPipeline` with reference and prompt.

    The guidance scales are the model's own where they are None.
    """
    chosen = {"image_guidance": image_guidance, "text_guidance": text_guidance}
    settings = {f"{name}_scale": scale for name, scale in choose(chosen, pipe.scales).items()}
    settings |= {"num_inference_steps": steps, "quality": quality}

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return pipe(prompts, image=references, generator=_generators(seeds), **settings).images

    return draw


def by_teacher(
    pipe: Any, *, side: int | None = None, steps: int = 28, guidance: float = 2.0, tokens: int | None = None
) -> Draw:
    """Return a `Draw` that uses a plain `FluxPipeline` with the prompt alone, ignoring the reference.

    `side` is in pixels and defaults to a panel of the pipeline's grids, `tokens` to its tokenizer's limit, at
    most 512. See `dsd.grids.settings.guidance_settings` for `guidance`.
    """
    side = side or panel_side(pipe)
    settings = {"height": side, "width": side, "num_inference_steps": steps}
    settings["max_sequence_length"] = tokens or text_length(pipe.tokenizer_2)

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        scales = guidance_settings(pipe, guidance, len(prompts))
        return pipe(prompts, generator=_generators(seeds), **settings, **scales).images

    return draw


def by_copying(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
    """Return the references unchanged, as a baseline for models that copy."""
    return references


def by_reconstructing(pipe: Any, width: int, height: int) -> Draw:
    """Return a `Draw` of the reference as the VAE encodes and decodes it: what its code alone loses."""

    @torch.no_grad()
    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        pixels = canvas.to_tensor([canvas.fit(image, width, height) for image in references])
        code = latents.encode(pipe.vae, pixels.to(pipe.vae.device, pipe.vae.dtype))
        return pipe.image_processor.postprocess(latents.decode(pipe.vae, code), output_type="pil")

    return draw


def _generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def in_batches(draw: Draw, batch: int, *, on_done: Callable[[int], object] = lambda count: None) -> Draw:
    """Return a `Draw` that draws `batch` images at a time and passes each batch's size to `on_done`."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def draw_all(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            images += draw(prompts[part], references[part], seeds[part])
            on_done(len(images) - start)
        return images

    return draw_all


def save_in(folder: Path, name: str, draw: Draw) -> Draw:
    """Return a `Draw` that saves images in `folder` and draws none again; `name` must identify `draw`.

    A batch of which some images are missing is drawn as a whole, because rounding depends on the batch. An
    image's `info["file"]` is the name of its file.
    """

    def draw_missing(*columns: list[Any]) -> list[Image.Image]:  # prompts, references, seeds
        files = [folder / f"{_image_name(name, *request)}.png" for request in zip(*columns, strict=True)]
        images = [_read_saved(file) for file in files]
        if not all(images):
            for file, saved, image in zip(files, images, drawn := draw(*columns), strict=True):
                if not saved:
                    jsonl.write_atomic(file, contact_sheet.marked_png(image))
            images = [saved or image for saved, image in zip(images, drawn, strict=True)]
        for file, image in zip(files, images, strict=True):
            image.info["file"] = file.name
        return images

    return draw_missing


def _read_saved(file: Path) -> Image.Image | None:
    """Return a saved image, or None if there is none or it is damaged."""
    if not file.exists():
        return None
    try:
        return contact_sheet.read_png(file)
    except ValueError as error:
        logger.warning("%s: it is drawn again", error)
        return None


def _image_name(name: str, prompt: str, reference: Image.Image, seed: int) -> str:
    """Return a hash of everything that an image depends on."""
    digest = hashlib.sha256(repr((name, prompt, seed, reference.mode, reference.size)).encode())
    digest.update(reference.tobytes())
    return digest.hexdigest()[:24]


class Validator:
    """A hook that draws the cases by `by_student(**settings)`, writes `samples/STEP.png`, returns scores.

    It does not use the random generators of the training run, so it does not change the run.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, *, batch: int = 16, **settings: Any) -> None:
        self.benchmark, self.folder, self.batch, self.settings = benchmark, folder, batch, settings

    def __call__(self, pipe: Any, step: int) -> dict[str, float]:
        pipe.set_progress_bar_config(disable=True)
        scores = self.benchmark.evaluate(in_batches(by_student(pipe, **self.settings), self.batch))
        page = sample_sheet(self.benchmark.cases, {"drawn": scores.images})
        jsonl.write_atomic(self.folder / "samples" / f"{step:06d}.png", contact_sheet.marked_png(page))
        return scores.flat()


def sample_sheet(cases: Sequence[Case], images: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Return a contact sheet: columns for the reference, each entry of `images`, and the truth if known.

    Every subject gets one case before any gets a second: another subject says more than another case.
    """
    repeats: Counter[str] = Counter()
    order = []
    for index, case in enumerate(cases):
        order.append((repeats[case.subject], index))
        repeats[case.subject] += 1
    indices = [index for _, index in sorted(order)[:SHOWN]]
    columns = {"reference": [cases[index].reference for index in indices]}
    columns |= {name: [column[index] for index in indices] for name, column in images.items()}
    if all(cases[index].truth for index in indices):
        columns["truth"] = [cases[index].truth for index in indices]
    return contact_sheet.compose(columns, [cases[index].prompt for index in indices])
