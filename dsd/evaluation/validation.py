"""Ways to draw a set of cases, and the hook that validates a model during training.

The cases and their scorer come from `critters` or `photographs`, the scores from `scores`.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.evaluation.scores import Case, Draw, Scorer, Scores, evaluate, legend, measure_levels
from dsd.files import contact_sheet, jsonl
from dsd.grids.teacher import guidance_settings, panel_side
from dsd.model.latents import text_length

CRITTERS = "critters"
SHOWN = 12  # cases on the contact sheet


class Benchmark:
    """Cases, their scorer, and the scores of chance and of the truth, which are measured once."""

    def __init__(self, cases: Sequence[Case], scorer: Scorer) -> None:
        self.cases, self.scorer, self.levels = cases, scorer, measure_levels(cases, scorer)

    def evaluate(self, draw: Draw, *, described: bool = False) -> Scores:
        """Draw all cases and score them; with `described` the prompt is the full caption."""
        return evaluate(draw, self.cases, self.scorer, described=described, levels=self.levels)

    @property
    def legend(self) -> str:
        """Return the meaning of each score, for people to read."""
        return legend(self.scorer.measures, self.levels)


def open_benchmark(
    what: str | Path, *, subjects: int, prompts: int, seed: int = 0, size: int = 512, **networks: Any
) -> Benchmark:
    """Return the benchmark of held-out critters, or of the photographs in the folder `what`.

    `subjects` and `seed` are for critters; `size` and `networks` (see `PhotographScorer`) for photographs.
    """
    if what == CRITTERS:
        from dsd.evaluation.critters import CritterScorer, validation_set

        return Benchmark(validation_set(seed, subjects, prompts), CritterScorer())
    from dsd.evaluation.photographs import PhotographScorer, read_cases

    return Benchmark(read_cases(what, prompts, size=size), PhotographScorer(**networks))


# ---------------------------------------------------------------- ways to draw


def by_student(
    pipe: Any, *, steps: int = 28, image_guidance: float = 1.5, text_guidance: float = 1.0
) -> Draw:
    """Return a `Draw` that uses a `DSDPipeline` with reference and prompt."""

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return pipe(
            prompts,
            image=references,
            generator=_generators(seeds),
            num_inference_steps=steps,
            image_guidance_scale=image_guidance,
            text_guidance_scale=text_guidance,
        ).images

    return draw


def by_teacher(
    pipe: Any,
    *,
    side: int | None = None,
    steps: int = 28,
    guidance: float = 2.0,
    tokens: int | None = None,
) -> Draw:
    """Return a `Draw` that uses a plain `FluxPipeline` with the prompt alone, ignoring the reference.

    `side` is in pixels and defaults to one panel of the pipeline's grids. `tokens` defaults to what its
    tokenizer reads, at most 512. See `dsd.grids.teacher.guidance_settings` for `guidance`.
    """
    side = side or panel_side(pipe)
    tokens = tokens or text_length(pipe.tokenizer_2)

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return pipe(
            prompts,
            height=side,
            width=side,
            num_inference_steps=steps,
            max_sequence_length=tokens,
            generator=_generators(seeds),
            **guidance_settings(pipe, guidance, len(prompts)),
        ).images

    return draw


def by_copying(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
    """Return the references unchanged: the baseline of a model that only copies."""
    return references


def _generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def in_batches(draw: Draw, batch: int, *, on_done: Callable[[int], object] = lambda count: None) -> Draw:
    """Return a `Draw` that uses `draw` for `batch` images at a time and calls `on_done(n)` after each n."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def draw_all(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            new = draw(prompts[part], references[part], seeds[part])
            images += new
            on_done(len(new))
        return images

    return draw_all


def saved_in(folder: Path, name: str, draw: Draw) -> Draw:
    """Return a `Draw` that saves its images in `folder` and does not draw a saved image again.

    `name` must identify the weights and settings of `draw`.
    """

    def draw_missing(
        prompts: list[str], references: list[Image.Image], seeds: list[int]
    ) -> list[Image.Image]:
        requests = list(zip(prompts, references, seeds, strict=True))
        files = [folder / f"{_image_name(name, *request)}.png" for request in requests]
        missing = [index for index, file in enumerate(files) if not file.exists()]
        if missing:
            images = draw(*map(list, zip(*(requests[index] for index in missing), strict=True)))
            for index, image in zip(missing, images, strict=True):
                jsonl.write_atomic(files[index], contact_sheet.png(image))
        return [Image.open(file).convert("RGB") for file in files]

    return draw_missing


def _image_name(name: str, prompt: str, reference: Image.Image, seed: int) -> str:
    """Return a hash of everything that an image depends on."""
    digest = hashlib.sha256(repr((name, prompt, seed, reference.mode, reference.size)).encode())
    digest.update(reference.tobytes())
    return digest.hexdigest()[:24]


# ---------------------------------------------------------------- validation during training


class Validator:
    """Hook `validate(pipe, step)`: draws the cases, writes `samples/STEP.png` and returns flat scores.

    Validation does not use the training's random numbers, so it does not change the course of a training.
    `settings` are those of `by_student`.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, *, batch: int = 16, **settings: Any) -> None:
        self.benchmark, self.folder, self.batch, self.settings = benchmark, folder, batch, settings

    def __call__(self, pipe: Any, step: int) -> dict[str, float]:
        pipe.set_progress_bar_config(disable=True)
        scores = self.benchmark.evaluate(in_batches(by_student(pipe, **self.settings), self.batch))
        page = sample_sheet(self.benchmark.cases, {"drawn": scores.images})
        jsonl.write_atomic(self.folder / "samples" / f"{step:06d}.png", contact_sheet.png(page))
        return scores.flat()


def sample_sheet(cases: Sequence[Case], images: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Return a contact sheet: the reference, the image of each way of drawing, and the truth if known.

    One case of each subject comes before a second one of any, because a new subject shows the most.
    """
    turns: dict[str, int] = {}
    order = []
    for index, case in enumerate(cases):
        turns[case.subject] = turns.get(case.subject, -1) + 1
        order.append((turns[case.subject], index))
    chosen = [index for _, index in sorted(order)[:SHOWN]]
    columns = {"reference": [cases[index].reference for index in chosen]}
    columns |= {name: [column[index] for index in chosen] for name, column in images.items()}
    if all(cases[index].truth for index in chosen):
        columns["truth"] = [cases[index].truth for index in chosen]
    return contact_sheet.compose(columns, [cases[index].prompt for index in chosen])
