"""A small run as the stages before the dataset leave it: drawn grids, their judged pairs, captions."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.words import describe_context, describe_critter
from dsd.pocket.world import sample_context, sample_critter

SIZE = 32  # pixels of a panel
# Of the six pairs of every grid, in their order. Two are kept; four pass the floor.
REASONS = ("same subject", "too different", "judged different", "too alike", "same subject", "unreadable")
KEPT = [(0, 1), (1, 3)]


def make_run(folder: Path, *, grids: int = 3, **changed: object) -> Path:
    """`changed` replaces fields of every grid's row."""
    for index in range(grids):
        grid = make_grid(folder, index) | changed
        pairs = [judged(grid, *pair) for pair in zip(combinations(range(4), 2), REASONS, strict=True)]
        append(folder / "grids" / "grids.jsonl", [grid])
        append(folder / "pairs.jsonl", pairs)
        append(
            folder / "captions.jsonl",
            [captioned(grid, *order) for a, b in KEPT for order in ((a, b), (b, a))],
        )
    return folder


def make_grid(folder: Path, index: int) -> dict:
    """One critter in four places, 2x2, as a PNG, and its row."""
    rng = np.random.default_rng(index)
    critter, contexts = sample_critter(rng), [sample_context(rng) for _ in range(4)]
    file = f"{index:06}.png"
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    draw_grid([draw(critter, context, SIZE) for context in contexts], 2).save(folder / "grids" / file)
    places = [describe_context(context) for context in contexts]
    subject = describe_critter(critter)
    return {
        "id": f"{index:06}", "file": file, "prompt": f"4 images of the same {subject}", "seed": 7 * index,
        "rows": 2, "columns": 2, "recipe": "critters", "subject": subject, "places": places,
        "generator": "pocket", "generator_hash": "0123456789ab", "license": "Apache-2.0", "steps": 28,
        "guidance": 3.5, "margin": 0, "rejected": None,
    }  # fmt: skip


def judged(grid: dict, panels: tuple[int, int], reason: str) -> dict:
    seen = reason not in ("too different", "too alike")
    keep = reason == "same subject"
    return {
        "id": f"{grid['id']}-{panels[0]}-{panels[1]}", "grid": grid["id"], "first": panels[0],
        "second": panels[1], "prompt": grid["prompt"], "seed": grid["seed"], "recipe": "critters",
        "similarity": 0.75, "answers": ["..."] if seen else [], "subject": "critter" if keep else None,
        "descriptions": None, "differences": None, "scores": {"color": 4, "eyes": 3} if keep else None,
        "votes": [keep] if seen else [], "lowest": [3] if seen else [],
        "verdict": "keep" if keep else "drop", "reason": reason, "judge": "a tiny judge",
        "embedder": "a tiny embedder", "thresholds": {"floor": 0.5, "ceiling": 0.98},
    }  # fmt: skip


def captioned(grid: dict, one: int, other: int) -> dict:
    name = f"{grid['id']}-{one}-{other}"
    said = {"caption": f"caption of {other}", "instruction": f"from {one} to {other}"}
    return {"id": name, **said, "cut": False, "writer": "a tiny judge"}


def append(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def change(path: Path, edit: Callable[[dict], dict | None]) -> None:
    """Rewrite a file of rows, each as `edit(row)` leaves it; None removes it."""
    found = [edit(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    path.unlink()
    append(path, [row for row in found if row is not None])


def panel(run: Path, grid: str, index: int) -> Image.Image:
    """Cut here by hand, so that a mistake in the library's own cutting shows."""
    whole = Image.open(run / "grids" / f"{grid}.png")
    left, top = SIZE * (index % 2), SIZE * (index // 2)
    return whole.crop((left, top, left + SIZE, top + SIZE))
