"""Ways to draw a set of cases, and the hook that validates a model during training.

The cases come from `critters` or `photographs`, the scores from `scores`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.evaluation.scores import Case, Draw, Scorer, evaluate, legend, measure_levels
from dsd.files import contact_sheet, jsonl
from dsd.grids.teacher import guidance_settings, panel_side

SHOWN = 12  # cases on the contact sheet


def by_student(
    pipe: Any,
    *,
    steps: int = 28,
    image_guidance: float = 1.5,
    text_guidance: float = 1.0,
    batch: int = 16,
    on_done: Callable[[int], object] = lambda count: None,
) -> Draw:
    """Return a `Draw` that uses a `DSDPipeline` with reference and prompt.

    `on_done(n)` is called after each batch of n images.
    """

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return pipe(
            prompts,
            image=references,
            generator=_generators(seeds),
            num_inference_steps=steps,
            image_guidance_scale=image_guidance,
            text_guidance_scale=text_guidance,
        ).images

    return _in_batches(draw, batch, on_done)


def by_teacher(
    pipe: Any,
    *,
    side: int | None = None,
    steps: int = 28,
    guidance: float = 2.0,
    tokens: int | None = None,
    batch: int = 16,
    on_done: Callable[[int], object] = lambda count: None,
) -> Draw:
    """Return a `Draw` that uses a plain `FluxPipeline` with the prompt alone, ignoring the reference.

    `side` is in pixels and defaults to one panel of the pipeline's grids. `tokens` defaults to what its
    tokenizer reads, at most 512. See `dsd.grids.teacher.guidance_settings` for `guidance`.
    """
    side = side or panel_side(pipe)
    tokens = tokens or min(pipe.tokenizer_2.model_max_length, 512)

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

    return _in_batches(draw, batch, on_done)


def by_copying(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
    """Return the references unchanged: the baseline of a model that only copies."""
    return references


def _generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _in_batches(draw: Draw, batch: int, on_done: Callable[[int], object]) -> Draw:
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def all_of_them(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        images: list[Image.Image] = []
        for start in range(0, len(prompts), batch):
            part = slice(start, start + batch)
            drawn = draw(prompts[part], references[part], seeds[part])
            images += drawn
            on_done(len(drawn))
        return images

    return all_of_them


# ---------------------------------------------------------------- validation during training


class Validator:
    """Hook `validate(pipe, step)`: draws the cases, writes `samples/STEP.png` and returns flat scores.

    Chance and ceiling are measured once, in the constructor. Validation leaves the model unchanged and does
    not use the training's random numbers, so it does not change the course of a training.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        scorer: Scorer,
        folder: Path,
        *,
        way: Callable[[Any], Draw] = by_student,
    ) -> None:
        self.cases, self.scorer, self.folder, self.way = cases, scorer, Path(folder), way
        self.levels = measure_levels(cases, scorer)

    def __call__(self, pipe: Any, step: int) -> dict[str, float]:
        pipe.set_progress_bar_config(disable=True)
        with _at_rest(pipe.transformer):
            result = evaluate(self.way(pipe), self.cases, self.scorer, levels=self.levels)
        page = sample_sheet(self.cases, {"drawn": result.images})
        jsonl.write(self.folder / "samples" / f"{step:06d}.png", contact_sheet.png(page))
        return result.flat()

    @property
    def legend(self) -> str:
        """Return the meaning of each score, for people to read."""
        return legend(self.scorer.measures, self.levels)


def sample_sheet(cases: Sequence[Case], drawn: dict[str, Sequence[Image.Image]]) -> Image.Image:
    """Return a contact sheet: the reference, the image of each way of drawing, and the truth if known.

    The cases are spread over all subjects.
    """
    # Take one case of each subject before a second one of any: a new subject tells the most.
    turns: dict[str, int] = {}
    order = []
    for index, case in enumerate(cases):
        turns[case.subject] = turns.get(case.subject, -1) + 1
        order.append((turns[case.subject], index))
    chosen = [index for _, index in sorted(order)[:SHOWN]]
    columns = {"reference": [cases[i].reference for i in chosen]}
    columns |= {name: [images[i] for i in chosen] for name, images in drawn.items()}
    if all(cases[i].truth for i in chosen):
        columns["truth"] = [cases[i].truth for i in chosen]
    return contact_sheet.compose(columns, [cases[i].prompt for i in chosen])


@contextmanager
def _at_rest(model: torch.nn.Module) -> Iterator[None]:
    """Set the model to evaluation mode inside the block, then restore each module's mode."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was
