"""Draw the panels of grids again, each by itself, beginning with what the grid shows.

A teacher follows the words of one image better than those of four at once. So every panel is noised and drawn
again from its own words, as SDEdit does (Meng et al. 2021, arXiv 2108.01073). The panels of a grid get the
same noise, even if each step adds new noise; this keeps them alike.
"""

import inspect
from collections.abc import Iterator

import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from PIL import Image

from dsd.grids.gutters import Box
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import RECIPES
from dsd.grids.settings import Settings, guidance_settings, text_tokenizer
from dsd.model.checkpoint import LoadError
from dsd.model.sampling import stochastic_with

NEEDS = {"image", "strength", "height", "width", "max_sequence_length", "generator"}


def image_pipeline(pipe: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """Return the pipeline that draws from an image with the same parts; raise LoadError if there is none."""
    problem = f"{name} is a {type(pipe).__name__}, which cannot draw a panel again: pass --refine 0, or "
    problem += "name a FLUX.1, Qwen-Image or Z-Image model"
    try:
        other = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError as error:
        raise LoadError(problem) from error
    if NEEDS - inspect.signature(type(other).__call__).parameters.keys():
        raise LoadError(problem)
    other.set_progress_bar_config(disable=True)
    return other


def refuse(pipe: DiffusionPipeline, settings: Settings, prompt: Prompt) -> str | None:
    """Return why the panels of a prompt's grid cannot be drawn again, or None."""
    count = prompt.rows * prompt.columns
    if len(prompt.places) != count:
        return f"not one place for each panel: {len(prompt.places)} for {count}; --refine 0 needs none"
    if prompt.recipe not in RECIPES:
        return f"no wording for a panel alone: the recipe is {prompt.recipe!r}; --refine 0 needs none"
    words, most = [panel_prompt(prompt, i) for i in range(count)], _tokens(pipe, settings)
    longest = max(map(len, text_tokenizer(pipe)(words, verbose=False).input_ids))
    return f"words of a panel too long: {longest} tokens, the model reads {most}" if longest > most else None


def refine(
    pipe: DiffusionPipeline,
    settings: Settings,
    images: list[Image.Image],
    prompts: list[Prompt],
    boxes: list[list[Box] | str],
) -> list[Image.Image]:
    """Return the grids; where there are boxes, their panels are drawn again by an `image_pipeline`."""
    size, grids = (settings.panel, settings.panel), list(zip(images, prompts, boxes, strict=True))
    parts = [(image, prompt, own) for image, prompt, own in grids if not isinstance(own, str)]
    panels = [image.crop(box).resize(size) for image, _, own in parts for box in own]
    words = [panel_prompt(prompt, i) for _, prompt, own in parts for i in range(len(own))]
    seeds = [prompt.seed for _, prompt, own in parts for _ in own]
    drawn = _draw_again(pipe, settings, panels, words, seeds)
    return [image if isinstance(own, str) else _paste(image, own, drawn) for image, _, own in grids]


def _paste(image: Image.Image, boxes: list[Box], panels: Iterator[Image.Image]) -> Image.Image:
    """Return a copy of the grid with the next panels in these boxes."""
    refined = image.copy()
    for left, upper, right, lower in boxes:
        refined.paste(next(panels).resize((right - left, lower - upper)), (left, upper))
    return refined


def panel_prompt(prompt: Prompt, index: int) -> str:
    """Return the words of one panel alone, in the wording of the grid's recipe."""
    return RECIPES[prompt.recipe].single.format(subject=prompt.subject, place=prompt.places[index])


def _tokens(pipe: DiffusionPipeline, settings: Settings) -> int:
    return min(settings.tokens, text_tokenizer(pipe).model_max_length)  # weights may read fewer for one image


def _draw_again(
    pipe: DiffusionPipeline, settings: Settings, panels: list[Image.Image], words: list[str], seeds: list[int]
) -> Iterator[Image.Image]:
    """Yield the panels, drawn `batch` at a time, which needs less memory than `batch` grids."""
    for start in range(0, len(panels), settings.batch):
        part = slice(start, start + settings.batch)
        noise = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        if settings.stochastic:
            pipe.register_modules(scheduler=stochastic_with(pipe.scheduler, noise))
        yield from pipe(
            prompt=words[part],
            image=panels[part],
            strength=settings.refine,
            height=settings.panel,
            width=settings.panel,
            num_inference_steps=settings.steps,
            max_sequence_length=_tokens(pipe, settings) + settings.template,
            generator=noise,
            **guidance_settings(pipe, settings.guidance, len(panels[part]), settings.guidance_name),
        ).images
