"""A small run on FLUX: the wheel's commands one after the other, as docs/training.md gives them."""

from pathlib import Path

import numpy as np
from PIL import Image

from dsd.files import jsonl
from tests.chat.server import Chat, serving
from tests.hub import published, shelf
from tests.hub.running import Ended, succeed
from tests.judging import BLUE, DARK_RED, ORANGE, RED

CAPTIONS = ["a red fox in the snow", "a grey cat on a sofa", "a wooden toy robot, studio light"]
FLUX = ("--model", "flux-dev")
QUICK = (
    "--steps", 2, "--batch", 2, "--accumulate", 1, "--rank", 2, "--warmup", 1, "--lr", 1e-2,
    "--sizes", "64x64", "--log-every", 1,
)  # fmt: skip
PANEL = 512


def make(run: Path) -> dict[str, Ended]:
    """Run `prompts`, `grids` and `curate` with a judge behind an address; return how each ended.

    Random weights draw no panels, so that four plain ones are painted over the grid in between.
    """
    captions = run.parent / "captions.txt"
    captions.write_text("\n".join(CAPTIONS))
    with serving(Chat()) as address:
        asked = ("--recipe", "identity", "--captions", captions, "--writer", address)
        wrote = succeed("train.prompts", run, "--count", 1, *asked)
        drew = succeed("train.grids", run, *FLUX, "--steps", 1)
        drawn = jsonl.read(run / "grids" / "grids.jsonl")
        paint(run, drawn)
        look = ("--embedder", shelf.DINO, "--floor", -1, "--ceiling", 1)
        judged = succeed("train.curate", run, "--judge", address, "--votes", 2, 2, *look)
    return {"prompts": wrote, "grids": drew, "curate": judged}


def paint(run: Path, rows: list[jsonl.Row]) -> None:
    """Replace the grids by four plain panels, three of them red, and accept them."""
    grid = Image.new("RGB", (2 * PANEL, 2 * PANEL))
    for place, color in enumerate((RED, DARK_RED, ORANGE, BLUE)):
        x, y = place % 2 * PANEL, place // 2 * PANEL
        grid.paste(color, (x, y, x + PANEL, y + PANEL))
    table = run / "grids" / "grids.jsonl"
    table.unlink()
    for row in rows:
        grid.save(run / "grids" / row["file"])
    with jsonl.writing(table) as append:
        append([row | {"rejected": None} for row in rows])


def photographs(folder: Path) -> Path:
    """Make a folder with a photograph of each of two subjects."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    for name in ("corgi dog", "toy robot"):
        published.picture(rng).save(folder / f"{name}.png")
    return folder
