"""Draw the README's first image, held-out critters in new contexts: `python -m train.pocket.teaser`."""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from dsd import load_pipeline
from dsd.model.presets import ASSETS
from train.pocket.examples import FOLDER

SHOWN, CELL, LABEL, GAP, STEPS = (0, 1, 5), 192, 34, 12, 28
PROMPTS = (
    "on the beach",
    "wearing a red hat in the snow",
    "holding a yellow balloon in the forest",
    "in space",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ASSETS.parent / "teaser.png")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    examples = sorted(FOLDER.glob("*.png"))
    references = [Image.open(examples[i]).convert("RGB") for i in SHOWN]
    lay_out(references, [draw(reference, args.seed) for reference in references]).save(args.out)


def draw(reference: Image.Image, seed: int) -> list[Image.Image]:
    pipe = load_pipeline("pocket")
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(PROMPTS))]
    return pipe(
        list(PROMPTS),
        image=reference,
        generator=generators,
        num_inference_steps=STEPS,
        image_guidance_scale=1.5,
    ).images


def lay_out(references: list[Image.Image], drawn: list[list[Image.Image]]) -> Image.Image:
    """Lay out the prompts on top and, in each row, the reference on the left of the drawn images."""
    width, height = (CELL + GAP) * (len(PROMPTS) + 1) + 2 * GAP, LABEL + (CELL + GAP) * len(references)
    grid = Image.new("RGB", (width, height), "white")
    for column, words in enumerate(("your image", *PROMPTS)):
        label(grid, words, left(column))
    for row, images in enumerate(zip(references, drawn, strict=True)):
        for column, image in enumerate((images[0], *images[1])):
            cell = image.resize((CELL, CELL), Image.Resampling.BICUBIC)
            grid.paste(cell, (left(column), LABEL + row * (CELL + GAP)))
    return grid


def left(column: int) -> int:
    return GAP + column * (CELL + GAP) + (GAP if column else 0)  # a wider gap after the reference


def label(grid: Image.Image, words: str, x: int) -> None:
    font, pen = ImageFont.load_default(size=13), ImageDraw.Draw(grid)
    lines = words if pen.textlength(words, font) <= CELL else words.replace(" in ", "\nin ")
    pen.multiline_text((x, 2), lines, fill=(60, 60, 60), font=font, spacing=1)


if __name__ == "__main__":
    main()
