"""Draw grids from prompts, check them, and cut them into panels.

A run stores each grid as `RUN/grids/<id>.png`, with a row in `RUN/grids/grids.jsonl` that holds the boxes of
its panels. A grid without boxes is kept for inspection, and its row says why it is rejected. This module does
not check what the panels show.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dsd.files import jsonl
from dsd.files.contact_sheet import marked_png, read_png
from dsd.files.jsonl import Record, Row, RunError
from dsd.grids.gutters import Box, equal_boxes
from dsd.grids.prompts import Prompt
from dsd.model.origin import Facts

if TYPE_CHECKING:
    from dsd.grids.teacher import Teacher

FROM_PROMPT = ("id", "prompt", "seed", "rows", "columns", "recipe", "subject", "places")
MEND = "run train.grids again with --mend to draw what is missing"


@dataclass(frozen=True, kw_only=True)
class Grid(Record):
    """A row of `grids.jsonl`: a prompt, the image drawn from it, and the teacher's settings."""

    file: str | None  # None if the teacher cannot draw the prompt
    prompt: str
    seed: int
    rows: int
    columns: int
    recipe: str
    subject: str
    places: list[str]
    generator: str
    generator_hash: str
    license: str
    steps: int
    guidance: float
    margin: int  # pixels to crop from each side of a panel
    rejected: str | None  # why the grid is not used, or None
    boxes: list[list[int]] | None = None  # left, upper, right, lower of each panel; None: equal parts
    panel: int | None = None  # side of a panel as drawn, in pixels; None: drawn before it was recorded
    teacher_lora: Facts | None = None  # of a LoRA that the teacher drew with
    shared_noise: float | None = None  # correlation of two panels' noise; None: 0
    refine: float | None = None  # strength at which the panels of accepted grids were drawn again; None: 0

    OPTIONAL = frozenset({"boxes", "panel", "teacher_lora", "shared_noise", "refine"})

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise RunError(f"grid {self.id!r} has {self.rows} x {self.columns} panels: delete its row")


def describe_lora(facts: Facts) -> str:
    """Return the facts about a teacher's LoRA in a few words, for a card."""
    text = f"LoRA {facts['file']} (SHA-256 {facts['hash']}, scale {facts['scale']:g}"
    if {"run", "grids", "steps"} <= facts.keys():
        text += f"; {facts['steps']} steps on {facts['grids']} kept grids of {facts['run']}"
    return f"{text})"


def panels(
    grid: Image.Image, rows: int, columns: int, margin: int = 0, boxes: Sequence[Sequence[int]] | None = None
) -> list[Image.Image]:
    """Return the panels in reading order, cropped by `margin` pixels on each side; no `boxes`: equal parts.

    Raise ValueError if the grid does not divide into these panels or the margin does not fit.
    """
    boxes = boxes or equal_boxes(grid, rows, columns)
    if len(boxes) != rows * columns or not _fit(boxes, grid, margin):
        size = f"{grid.width} x {grid.height} pixels"
        where = f"at {boxes}" if boxes else "of one size"
        raise ValueError(f"a grid of {size} has no {rows}x{columns} panels {where} with a margin of {margin}")
    return [grid.crop((x + margin, y + margin, right - margin, low - margin)) for x, y, right, low in boxes]


def _fit(boxes: Sequence[Sequence[int]], grid: Image.Image, margin: int) -> bool:
    left, upper, right, lower = np.array(boxes).T  # [panels]
    is_inside = min(left.min(), upper.min()) >= 0 and right.max() <= grid.width and lower.max() <= grid.height
    return bool(is_inside and 0 <= 2 * margin < min((right - left).min(), (lower - upper).min()))


def table(run: Path) -> Path:
    """Return the path of a run's grid rows."""
    return run / "grids" / "grids.jsonl"


def read_grids(run: Path) -> list[Grid]:
    """Return the grids of a run; raise RunError for a row that lacks a field."""
    return jsonl.read_records(table(run), Grid)


def read_prompts(run: Path) -> list[Prompt]:
    """Return the prompts of a run; raise RunError if there are none, a field is missing or an id is bad."""
    path = run / "prompts.jsonl"
    prompts, rows = jsonl.read_records(path, Prompt), len(jsonl.read(path))
    if not prompts:
        raise RunError(f"{path} has no prompts: python -m train.prompts {run} --count 1000 writes them")
    for prompt in prompts:
        if not re.fullmatch(r"\w+", prompt.id):  # it becomes a file name
            raise RunError(f"{path}: an id may contain only letters, digits and _, got {prompt.id!r}")
    if len(prompts) < rows:
        raise RunError(f"{path} has two rows with the same id: write it again with train.prompts")
    return prompts


def with_seeds(prompts: list[Prompt], seeds: int) -> list[Prompt]:
    """Return the prompts, and each of them again for every further seed, as `ID_1`, `ID_2` ...

    A further seed is a hash of the prompt's own, with 32 bits, so that it is unlike those of other prompts.
    """
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    again = [_draw_again(prompt, turn) for turn in range(1, seeds) for prompt in prompts]
    if taken := {prompt.id for prompt in prompts} & {prompt.id for prompt in again}:
        raise RunError(f"--seeds {seeds} needs the id {min(taken)}, which another prompt has: rename it")
    return [*prompts, *again]


def _draw_again(prompt: Prompt, turn: int) -> Prompt:
    seed = int(np.random.SeedSequence((prompt.seed, turn)).generate_state(1)[0])
    return replace(prompt, id=f"{prompt.id}_{turn}", seed=seed)


def prompt_id(grid: str) -> str:
    """Return the id of the prompt that a grid of a further seed was drawn from: `000042` for `000042_1`."""
    return re.sub(r"_\d+$", "", grid)


def draw_grids(folder: Path, prompts: list[Prompt], teacher: "Teacher") -> list[Grid]:
    """Draw the prompts into `folder` and return a row for each."""
    boxes = {prompt.id: teacher.refuse(prompt) for prompt in prompts}  # or why a grid is rejected
    accepted = [prompt for prompt in prompts if boxes[prompt.id] is None]
    images = teacher.draw(accepted) if accepted else []

    def save(prompt: Prompt, image: Image.Image) -> None:
        jsonl.write_atomic(folder / f"{prompt.id}.png", marked_png(image))

    with ThreadPoolExecutor() as pool:  # encoding a large PNG takes as long as drawing it on a small GPU
        found = list(pool.map(teacher.find_panels, images, accepted))
        list(pool.map(save, accepted, teacher.refine(images, accepted, found)))
    boxes |= {prompt.id: own for prompt, own in zip(accepted, found, strict=True)}
    files = {prompt.id: f"{prompt.id}.png" for prompt in accepted}
    return [new_grid(prompt, files.get(prompt.id), boxes[prompt.id], teacher.stamp) for prompt in prompts]


def new_grid(prompt: Prompt, file: str | None, boxes: list[Box] | str, stamp: Row) -> Grid:
    """Return a grid's row, with its panels' boxes or why it is rejected, and the teacher's stamp."""
    fields = {name: getattr(prompt, name) for name in FROM_PROMPT} | stamp
    if isinstance(boxes, str):
        return Grid(file=file, **fields, rejected=boxes)
    return Grid(file=file, **fields, rejected=None, boxes=[list(box) for box in boxes])


def open_grid(run: Path, grid: Grid) -> Image.Image:
    """Return the RGB image of a grid; raise RunError if it is missing, damaged or not in the run."""
    try:
        return read_png(_find_file(run, str(grid.file)))
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{error}: {MEND}") from error


def _find_file(run: Path, name: str) -> Path:
    """Return the path of a grid's image; raise RunError if it leads out of the run, which may be foreign."""
    path = run / "grids" / name
    if not path.resolve().is_relative_to(run.resolve()):
        raise RunError(f"{table(run)} names the file {name!r}, which is not in {run}: delete that row")
    return path


def open_panels(run: Path, grid: Grid) -> list[Image.Image]:
    """Return the panels of a grid in reading order, RGB; raise RunError if its file is missing or damaged."""
    return panels(open_grid(run, grid), grid.rows, grid.columns, grid.margin, grid.boxes)


def check_run(run: Path, prompts: list[Prompt], stamp: Row) -> None:
    """Raise RunError if a run cannot be resumed: other settings, other prompts, or missing files."""
    path, rows = table(run), {grid.id: grid.to_json() for grid in read_grids(run)}
    # A model and a LoRA may have several names, so only the hash of the weights is compared.
    names = ("generator", "license", "teacher_lora")
    settings = {name: it for name, it in stamp.items() if name not in names}
    settings = {"shared_noise": None, "refine": None} | settings
    for prompt in prompts:
        if row := rows.get(prompt.id):
            fields = {name: getattr(prompt, name) for name in ("prompt", "seed", "rows", "columns")}
            # The side of a panel is None in rows from before it was recorded.
            known = {name: it for name, it in settings.items() if name != "panel" or row["panel"]}
            jsonl.check_same(f"{path} row {prompt.id}", row, known | fields)
    files = [_find_file(run, row["file"]) for row in rows.values() if row["file"]]
    if missing := [file for file in files if not file.exists() or file.stat().st_size == 0]:
        raise RunError(f"{len(missing)} grids are missing or empty, such as {missing[0]}: {MEND}")


def check_files(run: Path) -> None:
    """Raise RunError, naming one, if grids are damaged, as a power failure or a full disk leaves them."""

    def is_damaged(grid: Grid) -> bool:
        try:
            with Image.open(_find_file(run, grid.file)) as image:
                image.verify()
        except Exception:  # on damaged data Pillow raises anything from SyntaxError to struct.error
            return True
        return False

    drawn = [grid for grid in read_grids(run) if grid.file]
    with ThreadPoolExecutor() as pool:
        damaged = [grid.file for grid, bad in zip(drawn, pool.map(is_damaged, drawn), strict=True) if bad]
    if damaged:
        raise RunError(f"{len(damaged)} grids are damaged, such as {table(run).parent / damaged[0]}: {MEND}")


def mend(run: Path) -> int:
    """Remove the rows whose image cannot be read, so that they are drawn again, and return their number."""
    damaged = set()
    for grid in read_grids(run):
        try:
            if grid.file:
                open_grid(run, grid)
        except RunError:
            damaged.add(grid.id)
    jsonl.merge(table(run), keep=lambda row: row["id"] not in damaged)
    return len(damaged)
