"""Draw the README's first image, held-out critters in new contexts: `python -m train.pocket.teaser`."""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from dsd import load_pipeline
from dsd.evaluation.validation import by_student
from dsd.files.contact_sheet import marked_png
from dsd.model.presets import ASSETS
from train import command
from train.pocket.examples import FOLDER

OUT = ASSETS.parent / "teaser.png"
EXAMPLES, CELL, LABEL, GAP = (0, 1, 5), 192, 34, 12
PROMPTS = ["on the beach", "wearing a red hat in the snow", "holding a yellow balloon in the forest",
           "in space"]  # fmt: skip


def draw(reference: Image.Image, seed: int) -> list[Image.Image]:
    """Return the reference's subject in the context of every prompt."""
    count = len(PROMPTS)
    return by_student(load_pipeline("pocket"))(PROMPTS, [reference] * count, [*range(seed, seed + count)])


def lay_out(rows: list[list[Image.Image]]) -> Image.Image:
    """Lay out rows of a reference and its drawn images, under the prompts."""
    lefts = [GAP + column * (CELL + GAP) + (GAP if column else 0) for column in range(len(PROMPTS) + 1)]
    page = Image.new("RGB", (lefts[-1] + CELL + GAP, LABEL + (CELL + GAP) * len(rows)), "white")
    font, pen = ImageFont.load_default(size=13), ImageDraw.Draw(page)
    for left, words in zip(lefts, ("your image", *PROMPTS), strict=True):
        lines = words if pen.textlength(words, font) <= CELL else words.replace(" in ", "\nin ")
        pen.multiline_text((left, 2), lines, fill=(60, 60, 60), font=font, spacing=1)
    for row, images in enumerate(rows):
        for left, image in zip(lefts, images, strict=True):
            cell = image.resize((CELL, CELL), Image.Resampling.BICUBIC)
            page.paste(cell, (left, LABEL + row * (CELL + GAP)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.teaser", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="file to write (assets/teaser.png)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image of each row (0)")
    args = parser.parse_args()
    files = sorted(FOLDER.glob("*.png"))
    references = [Image.open(files[i]).convert("RGB") for i in EXAMPLES]
    page = lay_out([[reference, *draw(reference, args.seed)] for reference in references])
    args.out.write_bytes(marked_png(page))


if __name__ == "__main__":
    command.run(main)
