"""Grids on disk: drawing them from prompts, checking them, and cutting them into panels.

A run stores each grid as `RUN/grids/<id>.png`, with a row in `RUN/grids/grids.jsonl`. A grid with misplaced
panels is kept for inspection, and its row says why it is rejected. This module does not check what the panels
show.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dsd.files import jsonl
from dsd.files.contact_sheet import png
from dsd.files.jsonl import Row, RunError

SIDE = 64  # pixels of a panel in the gutter check: removes fine texture but keeps boundaries
NEAR = 2  # how far a boundary may be from its place, in these pixels
STEP = 14  # least difference between neighboring pixels across a boundary, in levels of 255
SEEN = 0.45  # least share of a boundary's length that must be visible
CLEAR = 0.1  # least lead of a boundary over three quarters of the other lines: textures differ everywhere
STRONGER = 0.2  # largest lead of any other line over the weakest boundary

FROM_PROMPT = ("prompt", "seed", "rows", "columns", "recipe", "subject", "places")
MEND = "run train.grids again with --mend, which draws it anew"

# ---------------------------------------------------------------- one grid


def panels(grid: Image.Image, rows: int, columns: int, margin: int = 0) -> list[Image.Image]:
    """Return the panels in reading order, cropped by `margin` pixels on each side.

    The margin removes gutters and what bled across them. Raise ValueError if the grid does not divide into
    equal panels or the margin does not fit.
    """
    width, height = grid.width // columns, grid.height // rows
    if (width * columns, height * rows) != grid.size or not 0 <= 2 * margin < min(width, height):
        raise ValueError(
            f"a grid of {grid.width} x {grid.height} pixels has no {rows}x{columns} panels of one size "
            f"with a margin of {margin}"
        )
    corners = [(width * column, height * row) for row in range(rows) for column in range(columns)]
    return [grid.crop((x + margin, y + margin, x + width - margin, y + height - margin)) for x, y in corners]


def check_gutters(grid: Image.Image, rows: int, columns: int) -> str | None:
    """Return why the panels are misplaced, or None.

    A boundary is a line along which neighboring pixels differ nearly everywhere, with or without a gutter;
    edges inside panels are shorter. Two neighboring panels that show the same place have no visible boundary
    there, so about half the length must suffice. Measured on drawn grids, also after the VAE: at most 0.5 %
    of intact grids are rejected, and more than 90 % of single images and of grids rolled by 8 to 56 of 64
    pixels.
    """
    size = (columns * SIDE, rows * SIDE)
    pixels = np.asarray(grid.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)
    upright = _check_lines(pixels, columns, "columns") if columns > 1 else None
    return upright or (_check_lines(pixels.transpose(1, 0, 2), rows, "rows") if rows > 1 else None)


def _check_lines(pixels: np.ndarray, count: int, name: str) -> str | None:
    """Check boundaries that run along the first axis of `pixels` [length, count * SIDE, 3]."""
    steps = np.abs(np.diff(pixels, axis=1)).max(axis=2)  # [length, count * SIDE - 1]
    length = (steps >= STEP).mean(axis=0)  # share of each line, [count * SIDE - 1]
    place = np.arange(1, len(length) + 1)
    apart = np.abs(place[:, None] - SIDE * np.arange(1, count))  # [lines, boundaries]
    found = [length[distance <= NEAR].max() for distance in apart.T]
    weakest, others = int(np.argmin(found)), length[apart.min(axis=1) > NEAR + 1]
    if found[weakest] < max(SEEN, np.quantile(others, 0.75) + CLEAR):
        return f"gutters: no boundary between {name} {weakest + 1} and {weakest + 2}"
    if others.max() > found[weakest] + STRONGER:
        return f"gutters: a stronger boundary inside the {name} than between them"
    return None


# ---------------------------------------------------------------- the grids of a run


def table(run: Path) -> Path:
    """Return the path of a run's grid rows."""
    return run / "grids" / "grids.jsonl"


def read_prompts(run: Path) -> list[Row]:
    """Return the prompts of a run; raise RunError if there are none, a field is missing or an id is bad."""
    path = run / "prompts.jsonl"
    prompts = jsonl.read(path)
    if not prompts:
        raise RunError(f"{path} has no prompts: python -m train.prompts {run} --count 1000 writes them")
    for number, prompt in enumerate(prompts, 1):
        if lacking := {"id", *FROM_PROMPT} - prompt.keys():
            raise RunError(f"{path} line {number} lacks {', '.join(sorted(lacking))}: use train.prompts")
        if not re.fullmatch(r"\w+", prompt["id"]):  # it becomes a file name
            raise RunError(f"{path} line {number}: an id is letters and digits, got {prompt['id']!r}")
    if len({prompt["id"] for prompt in prompts}) < len(prompts):
        raise RunError(f"{path} has an id twice: use train.prompts")
    return prompts


def draw_grids(
    block: Sequence[Row],
    *,
    folder: Path,
    draw: Callable[[list[Row]], list[Image.Image]],
    refuse: Callable[[Row], str | None],
    stamp: Row,
) -> list[Row]:
    """Draw a block of prompts into `folder` and return a row for each.

    `refuse` returns why a prompt cannot be drawn, or None. `stamp` holds the fields about the teacher that
    all rows share (`dsd.grids.teacher`).
    """
    reasons = {prompt["id"]: refuse(prompt) for prompt in block}
    drawn = [prompt for prompt in block if reasons[prompt["id"]] is None]
    files = {prompt["id"]: f"{prompt['id']}.png" for prompt in drawn}

    def keep(pair: tuple[Row, Image.Image]) -> None:
        prompt, grid = pair
        jsonl.write(folder / files[prompt["id"]], png(grid))
        reasons[prompt["id"]] = check_gutters(grid, prompt["rows"], prompt["columns"])

    with ThreadPoolExecutor() as pool:  # encoding a large PNG takes as long as drawing it on a small GPU
        list(pool.map(keep, zip(drawn, draw(drawn) if drawn else [], strict=True)))
    return [_row(prompt, files.get(prompt["id"]), reasons[prompt["id"]], stamp) for prompt in block]


def _row(prompt: Row, file: str | None, reason: str | None, stamp: Row) -> Row:
    told = {name: prompt[name] for name in FROM_PROMPT}
    return {"id": prompt["id"], "file": file, **told, **stamp, "rejected": reason}


def open_grid(run: Path, grid: Row) -> Image.Image:
    """Return the RGB image of a row; raise RunError if it is missing or damaged."""
    path = run / "grids" / str(grid["file"])
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        raise RunError(f"{path} cannot be read ({error}): {MEND}") from error


# ---------------------------------------------------------------- resuming a run


def check_run(run: Path, prompts: Iterable[Row], stamp: Row) -> None:
    """Raise RunError if a run cannot be resumed: other settings, other prompts, or missing files."""
    path = table(run)
    drawn = jsonl.read_all(path)
    for row in drawn[:1]:  # all rows share these settings, since each was drawn after this check
        _check_settings(path, row, stamp)
    _check_prompts(path, {row["id"]: row for row in drawn}, prompts)
    gone = [row["file"] for row in drawn if row["file"] and not _there(path.with_name(row["file"]))]
    if gone:
        raise RunError(f"{len(gone)} grids are missing or empty, {path.with_name(gone[0])} for one: {MEND}")


def _check_settings(path: Path, row: Row, stamp: Row) -> None:
    names = [name for name in stamp if name not in ("generator", "license")]  # a model may have several names
    other = [f"{name} {row.get(name)}, now {stamp[name]}" for name in names if row.get(name) != stamp[name]]
    if other:
        raise RunError(
            f"{path} was drawn by {row.get('generator')} with other settings ({'; '.join(other)}): "
            "use those again, or another run folder"
        )


def _check_prompts(path: Path, drawn: dict[str, Row], prompts: Iterable[Row]) -> None:
    for prompt in prompts:
        row = drawn.get(prompt["id"], prompt)
        if any(row.get(name) != prompt[name] for name in ("prompt", "seed", "rows", "columns")):
            raise RunError(
                f"{path} has grid {prompt['id']} by another prompt than prompts.jsonl now says: "
                f"use another run folder, or delete {path.parent}"
            )


def _there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def sweep(run: Path) -> None:
    """Remove the unfinished files of killed processes; call it only while no process writes."""
    for part in table(run).parent.glob(".*.part"):
        part.unlink()


def mend(run: Path) -> int:
    """Remove the rows whose image cannot be read, so that they are drawn again, and return their number."""

    def readable(row: Row) -> bool:
        try:
            return not row["file"] or bool(open_grid(run, row))
        except RunError:
            return False

    before = jsonl.read_all(table(run))
    jsonl.merge(table(run), keep=readable)
    return len(before) - len(jsonl.read(table(run)))
