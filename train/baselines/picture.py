"""Show our method beside others in one picture: `python -m train.baselines.picture OUT --picture FILE`.

OUT is the folder of a finished `python -m train.baselines`. A row shows a held-out critter: the reference,
then what ours, the prompted teacher, the zero-shot method of the highest CP x PF beside ours, and DreamBooth
draw for the same prompt, or for the full caption where the column says so. The rows are the first critters of
the benchmark, with the first prompt and seed of each: nothing is picked by its looks. Above each column
stands its CP x PF over all images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image, ImageDraw, ImageFont

from dsd.files import contact_sheet, jsonl
from train import command

OURS, TEACHER, DREAMBOOTH = "ours", "prompted teacher", "DreamBooth-LoRA"
ZERO_SHOT = ("reference tokens", "image-encoder tokens", "channel concatenation", "SDEdit")
CELL, GAP, HEAD, LINE = 160, 8, 56, 22  # pixels
INK, DIM = (40, 40, 40), (110, 110, 110)


class Mean(TypedDict):
    """What is read of a score in `results.json`."""

    mean: float


class Way(TypedDict):
    """What is read of the scores of a way in `results.json`."""

    product: Mean


class Results(TypedDict):
    """What is read of `results.json`."""

    scores: dict[str, Way]


class Drawn(TypedDict):
    """What is read of a row of `images.jsonl`."""

    way: str
    subject: str
    prompt: str
    asked: str
    reference: str
    file: str


def choose_ways(scores: dict[str, dict[str, Any]]) -> list[str]:
    """Return the columns: ours, the teacher, the best other zero-shot method, and DreamBooth.

    Raise ValueError if a row is missing.
    """
    rivals = [name for name in ZERO_SHOT if name in scores]
    best = max(rivals, key=lambda name: scores[name]["product"]["mean"], default=ZERO_SHOT[0])
    ways = [OURS, TEACHER, best, DREAMBOOTH]
    if lacking := [name for name in ways if name not in scores]:
        raise ValueError(
            f"the comparison lacks the rows {', '.join(lacking)}: run python -m train.baselines without "
            "--only, or with these names, too"
        )
    return ways


def choose_rows(images: Sequence[dict[str, Any]], ways: Sequence[str], count: int) -> list[dict[str, dict]]:
    """Return for each of the first subjects the first image of every way, by its name.

    Raise ValueError if no subject has an image of every way.
    """
    firsts: dict[str, dict[str, dict]] = {}
    for row in images:
        if row["way"] in ways:
            firsts.setdefault(row["subject"], {}).setdefault(row["way"], row)
    whole = [row for row in firsts.values() if len(row) == len(ways)]
    if not whole:
        raise ValueError(f"no critter has an image of each of {', '.join(ways)}: run train.baselines again")
    return whole[:count]


def compose(folder: Path, scores: dict[str, Any], ways: Sequence[str], rows: Sequence[dict]) -> Image.Image:
    """Return the picture: a row for each critter under its prompt, a column for each way."""
    step, height = CELL + GAP, CELL + LINE + GAP
    page = Image.new("RGB", (GAP + step * (len(ways) + 1), HEAD + height * len(rows)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for column, way in enumerate(ways, 1):
        score = "CP x PF {mean:.2f}".format(**scores[way]["product"])
        asked = "" if rows[0][way]["asked"] == rows[0][way]["prompt"] else "\nfull caption"
        pen.text((GAP + column * step, 4), way, fill=INK, font=font)
        pen.multiline_text((GAP + column * step, 20), score + asked, fill=DIM, font=font, spacing=1)
    pen.text((GAP, 4), "reference", fill=INK, font=font)
    for index, row in enumerate(rows):
        top = HEAD + index * height
        pen.text((GAP, top + 2), f"“{row[ways[0]]['prompt']}”", fill=INK, font=font)
        files = [row[ways[0]]["reference"], *(row[way]["file"] for way in ways)]
        for column, file in enumerate(files):
            image = contact_sheet.read_png_in(folder / "images", file)
            cell = image.resize((CELL, CELL), Image.Resampling.BICUBIC)
            page.paste(cell, (GAP + column * step, top + LINE))
    return page


def main(argv: list[str] | None = None) -> int:
    parser = command.Parser(prog="python -m train.baselines.picture", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder of python -m train.baselines")
    parser.add_argument("--picture", type=Path, required=True, metavar="FILE", help="PNG to write")
    parser.add_argument("--critters", type=int, default=3, metavar="N", help="rows of the picture (3)")
    args: argparse.Namespace = parser.parse_args(argv)
    if args.critters < 1:
        raise ValueError(f"--critters must be at least 1, got {args.critters}")
    if not (args.folder / "results.json").is_file():
        raise ValueError(f"there is no results.json in {args.folder}: run python -m train.baselines first")
    scores = jsonl.read_object(args.folder / "results.json", Results)["scores"]
    ways = choose_ways(scores)
    rows = choose_rows(jsonl.read_typed(args.folder / "images.jsonl", Drawn), ways, args.critters)
    jsonl.write_atomic(args.picture, contact_sheet.marked_png(compose(args.folder, scores, ways, rows)))
    print(f"{args.picture}: {', '.join(ways)}")
    return 0


if __name__ == "__main__":
    command.run(main)
