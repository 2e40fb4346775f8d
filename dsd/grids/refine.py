"""Draw the panels of grids again, each by itself, beginning with what the grid shows.

A teacher follows the words of one image better than those of four at once. So every panel is noised and drawn
again from its own words, as SDEdit does (Meng et al. 2021, arXiv 2108.01073). The panels of a grid get the
same noise, so that they stay alike.
"""

import inspect

import torch
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline
from PIL import Image

from dsd.grids.gutters import Box
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import IDENTITY, RECIPES
from dsd.grids.settings import Settings, guidance_settings, text_tokenizer
from dsd.model.checkpoint import LoadError

NEEDS = {"image", "strength", "height", "width", "max_sequence_length", "generator"}


def image_pipeline(pipe: DiffusionPipeline, name: str) -> DiffusionPipeline:
    """Return the pipeline that draws from an image with the same parts; raise LoadError if there is none."""
    problem = f"{name} is a {type(pipe).__name__}, which cannot draw a panel again: leave out refine"
    try:
        other = AutoPipelineForImage2Image.from_pipe(pipe)
    except ValueError as error:
        raise LoadError(problem) from error
    if NEEDS - inspect.signature(type(other).__call__).parameters.keys():
        raise LoadError(problem)
    other.set_progress_bar_config(disable=True)
    return other


def refine(
    pipe: DiffusionPipeline,
    settings: Settings,
    images: list[Image.Image],
    prompts: list[Prompt],
    boxes: list[list[Box]],
) -> list[Image.Image]:
    """Return the grids with the panels in these boxes drawn again by an `image_pipeline`, in one batch."""
    size, pairs = (settings.panel, settings.panel), list(zip(images, boxes, strict=True))
    cut = [image.crop(box).resize(size) for image, own in pairs for box in own]
    words = [describe_panel(prompt, index) for prompt in prompts for index in range(len(prompt.places))]
    seeds = [prompt.seed for prompt in prompts for _ in prompt.places]
    drawn, refined = iter(_draw_again(pipe, settings, cut, words, seeds)), []
    for image, own in pairs:
        refined.append(image.copy())
        for left, upper, right, lower in own:
            refined[-1].paste(next(drawn).resize((right - left, lower - upper)), (left, upper))
    return refined


def describe_panel(prompt: Prompt, index: int) -> str:
    """Return the words of one panel alone, in the wording of the grid's recipe."""
    recipe = RECIPES.get(prompt.recipe, IDENTITY)
    return recipe.single.format(subject=prompt.subject, place=prompt.places[index])


def _draw_again(
    pipe: DiffusionPipeline, settings: Settings, panels: list[Image.Image], words: list[str], seeds: list[int]
) -> list[Image.Image]:
    tokens = min(settings.tokens, text_tokenizer(pipe).model_max_length)
    return pipe(
        prompt=words,
        image=panels,
        strength=settings.refine,
        height=settings.panel,
        width=settings.panel,
        num_inference_steps=settings.steps,
        max_sequence_length=tokens + settings.template,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **guidance_settings(pipe, settings.guidance, len(panels), settings.guidance_name),
    ).images
