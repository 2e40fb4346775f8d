"""Draw the app's examples, held-out critters with a prompt each: `python -m train.pocket.examples`.

Every example gets the seed, of the first 16, whose image the scorer reads best, that image, and a picture of
reference and image side by side to pick it by. The page opens with the example that the scorer reads best of
all. A student that was trained for further tasks gets examples of each, with references of their own.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dsd import load_pipeline
from dsd.evaluation.critters import Scene
from dsd.evaluation.tasks import TARGETS, TaskScorer, task_cases
from dsd.files import intake, whole
from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.model.presets import POCKET
from dsd.pocket import scorer
from dsd.pocket.draw import draw
from dsd.pocket.scorer import Reading
from dsd.pocket.world import PATTERNS, SHAPES, Context, Critter, sample_critter
from train import command

FOLDER = Path(POCKET.examples)
SEED = 77
SEEDS = 16  # tried for every example
CRITTERS = 40  # of which one in each color is taken for a task
CASES = {  # scene -> prompt, and what the scorer must read in the image
    "beach": ("wearing a red hat in the snow", {"scene": "snow", "accessory": "hat"}),
    "forest": ("holding a yellow balloon under the sea", {"scene": "sea", "accessory": "balloon"}),
    "snow": ("on the beach at sunset", {"scene": "beach", "light": "sunset"}),
    "desert": ("wearing a blue scarf in the city", {"scene": "city", "accessory": "scarf"}),
    "city": ("in space holding a white flag", {"scene": "space", "accessory": "flag"}),
    "sea": ("in the forest wearing a black hat", {"scene": "forest", "accessory": "hat"}),
    "space": ("in a room holding a green balloon", {"scene": "room", "accessory": "balloon"}),
    "room": ("in the desert wearing a red scarf at sunset", {"scene": "desert", "accessory": "scarf"}),
}  # fmt: skip


def write(folder: Path) -> list[Critter]:
    """Write the images and `examples.json`, each critter in a different color; return the critters."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows, critters = np.random.default_rng(SEED), [], []
    for number, (scene, (prompt, _)) in enumerate(CASES.items(), 1):
        critter = _sample(rng, number, {critter.color for critter in critters})
        critters.append(critter)
        name = f"{number:02d}-{_describe(critter)}.png"
        draw(critter, Context(scene=scene, backdrop=float(rng.random()))).save(folder / name)
        rows.append({"image": name, "prompt": prompt})
    _write_rows(folder, rows)
    return critters


def finish(folder: Path, critters: list[Critter], pipe: Any, *, seeds: int = SEEDS) -> None:
    """Draw every example, and mark in `examples.json` the one that the page opens with."""
    rows, scores = json.loads((folder / "examples.json").read_text()), []
    for row, critter, (_, wanted) in zip(rows, critters, CASES.values(), strict=True):
        scores.append(_draw_best(folder, row, pipe, partial(_score, critter, wanted), seeds=seeds))
    rows[scores.index(max(scores))]["first"] = True
    _write_rows(folder, rows)


def add_tasks(folder: Path, pipe: Any, *, seeds: int = SEEDS) -> None:
    """Add examples of the tasks that the student was trained for beside identity, a critter in each color."""
    rows = json.loads((folder / "examples.json").read_text())
    for task in [task for task in pipe.trained_tasks if task in TARGETS]:
        cases = {case.facts.critter.color: case for case in task_cases(task, SEED, CRITTERS, 1)}
        for number, case in enumerate(cases.values(), 1):
            name = f"{task}-{number:02d}-{_describe(case.facts.critter)}.png"
            case.reference.save(folder / name)
            row = {"image": name, "prompt": case.prompt, "task": task}
            _draw_best(folder, row, pipe, partial(_score_task, case.facts), seeds=seeds)
            rows.append(row)
    _write_rows(folder, rows)


def _draw_best(
    folder: Path, row: dict[str, Any], pipe: Any, score: Callable[[Reading], float], *, seeds: int
) -> float:
    """Draw an example, save the image that is read best and put it into the row; return its score."""
    options = Options(prompt=row["prompt"], count=seeds, **pipe.scales)
    with intake.open_image(folder / row["image"]) as reference:
        results = drawing.generate(pipe, reference, options, model=POCKET.name)
    scores = list(map(score, scorer.load().read([result.image for result in results])))
    best = results[scores.index(max(scores))]
    row |= {"seed": best.seed, "result": drawing.save(best, folder / f"result-{row['image']}").name}
    tile = _side_by_side(best.frame, best.image)
    row["tile"] = provenance.save_marked(folder / f"tile-{row['image']}", tile, row["prompt"]).name
    return max(scores)


def _side_by_side(frame: Image.Image, image: Image.Image) -> Image.Image:
    tile = Image.new("RGB", (frame.width + image.width, image.height))
    tile.paste(frame, (0, 0))
    tile.paste(image, (frame.width, 0))
    return tile


def _score(critter: Critter, wanted: dict[str, str], reading: Reading) -> float:
    """Return the shares of the context and of the identity that the scorer reads, 0..2."""
    followed = [reading.choices[name].split()[0] == value for name, value in wanted.items()]
    return sum(followed) / len(followed) + scorer.identity(critter, reading)


def _score_task(scene: Scene, reading: Reading) -> float:
    """Return whether the change is there, and the shares of the rest and of the identity, 0..3."""
    numbers = TaskScorer.score_one(scene, reading)
    return numbers["changed"] + numbers["kept"] + numbers["identity"]


def _describe(critter: Critter) -> str:
    return f"{critter.color}-{critter.shape}-{critter.pattern}"


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    whole.write_atomic(folder / "examples.json", (json.dumps(rows, indent=1) + "\n").encode())


def _sample(rng: np.random.Generator, number: int, used_colors: set[str]) -> Critter:
    """Return a held-out critter whose shape and pattern follow from `number`, in a new color."""
    look = SHAPES[number % len(SHAPES)], PATTERNS[number % len(PATTERNS)]
    while True:
        critter = sample_critter(rng, held_out=True)
        if (critter.shape, critter.pattern) == look and critter.color not in used_colors:
            return critter


def main() -> None:
    argparse.ArgumentParser("python -m train.pocket.examples", description=__doc__.split(":")[0]).parse_args()
    with whole.locked(FOLDER):
        student = load_pipeline(POCKET.name)
        finish(FOLDER, write(FOLDER), student)
        add_tasks(FOLDER, student)


if __name__ == "__main__":
    command.run(main)
