"""Sheets on disk: drawn from prompts, checked, cut into panels.

A run's sheets are `RUN/grids/<id>.png`, and a row each in `RUN/grids/grids.jsonl`. A sheet whose panels are
not where they should be is kept for inspection, and its row says why it is not to be used. What the panels
show is not looked at here.
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

SIDE = 64  # pixels of a panel where gutters are looked for: fine texture is gone, boundaries are not
NEAR = 2  # of these pixels: how far from its place a boundary may be
STEP = 14  # levels of 255: neighbouring pixels on two sides of a boundary differ by as much or more
SEEN = 0.45  # least share of its length along which a boundary is seen
CLEAR = 0.1  # at least so much more than three other lines in four: textures differ everywhere
STRONGER = 0.2  # how much more of its length any other line may show

FROM_PROMPT = ("prompt", "seed", "rows", "columns", "recipe", "subject", "places")
MEND = "run train.grids again with --mend, which draws it anew"

# ---------------------------------------------------------------- a sheet


def panels(sheet: Image.Image, rows: int, columns: int, margin: int = 0) -> list[Image.Image]:
    """The panels in reading order, without `margin` pixels on each side: gutters, and what bled over them."""
    width, height = sheet.width // columns, sheet.height // rows
    if (width * columns, height * rows) != sheet.size or not 0 <= 2 * margin < min(width, height):
        raise ValueError(
            f"a sheet of {sheet.width} x {sheet.height} pixels has no {rows}x{columns} panels of one size "
            f"with a margin of {margin}"
        )
    corners = [(width * column, height * row) for row in range(rows) for column in range(columns)]
    return [sheet.crop((x + margin, y + margin, x + width - margin, y + height - margin)) for x, y in corners]


def check_gutters(sheet: Image.Image, rows: int, columns: int) -> str | None:
    """Why the panels are not where they should be, or None.

    A boundary is a line along which neighbouring pixels differ nearly everywhere, with a gutter in between or
    without; edges inside panels are shorter. Two neighbours in one place have nothing between them to see, so
    that about half the length has to do. Measured on drawn sheets, also through the VAE: of whole ones at
    most 0.5 % are rejected, of single pictures, and of sheets rolled by 8 to 56 of 64 pixels, more than 90 %.
    """
    size = (columns * SIDE, rows * SIDE)
    pixels = np.asarray(sheet.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)
    upright = _check_lines(pixels, columns, "columns") if columns > 1 else None
    return upright or (_check_lines(pixels.transpose(1, 0, 2), rows, "rows") if rows > 1 else None)


def _check_lines(pixels: np.ndarray, count: int, name: str) -> str | None:
    """`pixels` [length, count * SIDE, 3]; the lines run along the first axis."""
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


# ---------------------------------------------------------------- a run's sheets


def table(run: Path) -> Path:
    """Where a run's rows of sheets are."""
    return run / "grids" / "grids.jsonl"


def read_prompts(run: Path) -> list[Row]:
    """The prompts of a run; RunError if there are none, or if they are not what `train.prompts` writes."""
    path = run / "prompts.jsonl"
    prompts = jsonl.read(path)
    if not prompts:
        raise RunError(f"{path} has no prompts: python -m train.prompts {run} --count 1000 writes them")
    for number, prompt in enumerate(prompts, 1):
        if lacking := {"id", *FROM_PROMPT} - prompt.keys():
            raise RunError(f"{path} line {number} lacks {', '.join(sorted(lacking))}: use train.prompts")
        if not re.fullmatch(r"\w+", prompt["id"]):  # it becomes the name of a file
            raise RunError(f"{path} line {number}: an id is letters and digits, got {prompt['id']!r}")
    if len({prompt["id"] for prompt in prompts}) < len(prompts):
        raise RunError(f"{path} has an id twice: use train.prompts")
    return prompts


def draw_sheets(
    block: Sequence[Row],
    *,
    folder: Path,
    draw: Callable[[list[Row]], list[Image.Image]],
    refuse: Callable[[Row], str | None],
    stamp: Row,
) -> list[Row]:
    """Draw a block of prompts into `folder` and return a row for each.

    `refuse` says why a prompt cannot be drawn, `stamp` is what all rows say of who draws
    (`dsd.grids.teacher`).
    """
    reasons = {prompt["id"]: refuse(prompt) for prompt in block}
    drawn = [prompt for prompt in block if reasons[prompt["id"]] is None]
    files = {prompt["id"]: f"{prompt['id']}.png" for prompt in drawn}

    def keep(pair: tuple[Row, Image.Image]) -> None:
        prompt, sheet = pair
        jsonl.write(folder / files[prompt["id"]], png(sheet))
        reasons[prompt["id"]] = check_gutters(sheet, prompt["rows"], prompt["columns"])

    with ThreadPoolExecutor() as pool:  # a large PNG takes as long to pack as a small GPU takes to draw it
        list(pool.map(keep, zip(drawn, draw(drawn) if drawn else [], strict=True)))
    return [_row(prompt, files.get(prompt["id"]), reasons[prompt["id"]], stamp) for prompt in block]


def _row(prompt: Row, file: str | None, reason: str | None, stamp: Row) -> Row:
    told = {name: prompt[name] for name in FROM_PROMPT}
    return {"id": prompt["id"], "file": file, **told, **stamp, "rejected": reason}


def open_sheet(run: Path, sheet: Row) -> Image.Image:
    """The picture of a row, RGB. RunError if it is gone or damaged."""
    path = run / "grids" / str(sheet["file"])
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise RunError(f"{path} cannot be read ({error}): {MEND}") from error


# ---------------------------------------------------------------- going on with a run


def check_run(run: Path, prompts: Iterable[Row], stamp: Row) -> None:
    """RunError if a run cannot go on as it began: other settings, other prompts, files that are gone."""
    path = table(run)
    drawn = jsonl.read_all(path)
    for row in drawn[:1]:  # they are all alike: this was asked before each of them
        _check_settings(path, row, stamp)
    _check_prompts(path, {row["id"]: row for row in drawn}, prompts)
    gone = [row["file"] for row in drawn if row["file"] and not _there(path.with_name(row["file"]))]
    if gone:
        raise RunError(f"{len(gone)} sheets are missing or empty, {path.with_name(gone[0])} for one: {MEND}")


def _check_settings(path: Path, row: Row, stamp: Row) -> None:
    names = [name for name in stamp if name not in ("generator", "licence")]  # one model has many names
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
                f"{path} has sheet {prompt['id']} by another prompt than prompts.jsonl now says: "
                f"use another run folder, or delete {path.parent}"
            )


def _there(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def sweep(run: Path) -> None:
    """Remove the unfinished files that killed processes left; only while none is at work."""
    for part in table(run).parent.glob(".*.part"):
        part.unlink()


def mend(run: Path) -> int:
    """Forget the rows whose picture cannot be read, so that they are drawn again; returns how many."""

    def readable(row: Row) -> bool:
        try:
            return not row["file"] or bool(open_sheet(run, row))
        except RunError:
            return False

    before = jsonl.read_all(table(run))
    jsonl.merge(table(run), keep=readable)
    return len(before) - len(jsonl.read(table(run)))
