"""Draw the app's examples, held-out critters with a prompt each: `python -m train.pocket.examples`.

Every example gets the seed, of the first 16, whose image the scorer reads best. The image that it reads best
of all is kept, because the page shows it before anything is drawn.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from dsd import load_pipeline
from dsd.files import intake
from dsd.generate import drawing
from dsd.generate.drawing import Options, Result
from dsd.model.presets import POCKET
from dsd.pocket import scorer
from dsd.pocket.draw import draw
from dsd.pocket.scorer import Reading
from dsd.pocket.world import PATTERNS, SHAPES, Context, Critter, sample_critter

FOLDER = Path(POCKET.examples)
SEED = 77
SEEDS = 16  # tried for every example
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
        name = f"{number:02d}-{critter.color}-{critter.shape}-{critter.pattern}.png"
        draw(critter, Context(scene=scene, backdrop=float(rng.random()))).save(folder / name)
        rows.append({"image": name, "prompt": prompt})
    _write_rows(folder, rows)
    return critters


def finish(folder: Path, critters: list[Critter], pipe: Any, *, seeds: int = SEEDS) -> None:
    """Add the best seed of every example to `examples.json`, and write the best image of all."""
    rows, drawn = json.loads((folder / "examples.json").read_text()), []
    for row, critter, (_, wanted) in zip(rows, critters, CASES.values(), strict=True):
        options = Options(prompt=row["prompt"], count=seeds)
        with intake.open_image(folder / row["image"]) as reference:
            results = drawing.generate(pipe, reference, options, model=POCKET.name)
        score, best = _best(results, critter, wanted)
        row["seed"] = best.seed
        drawn.append((score, row, best))
    _, row, best = max(drawn, key=lambda each: each[0])
    row["result"] = drawing.save(best, folder / f"result-{row['image']}").name
    _write_rows(folder, rows)


def _best(results: list[Result], critter: Critter, wanted: dict[str, str]) -> tuple[float, Result]:
    """Return the result that the scorer reads best, and its score: shares of context and identity, 0..2."""
    readings = scorer.load().read([result.image for result in results])

    def score(reading: Reading) -> float:
        followed = [reading.choices[name].split()[0] == value for name, value in wanted.items()]
        return sum(followed) / len(followed) + scorer.identity(critter, reading)

    scores = list(map(score, readings))
    return max(scores), results[scores.index(max(scores))]


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "examples.json").write_text(json.dumps(rows, indent=1) + "\n")


def _sample(rng: np.random.Generator, number: int, used_colors: set[str]) -> Critter:
    """Return a held-out critter whose shape and pattern follow from `number`, in a new color."""
    look = SHAPES[number % len(SHAPES)], PATTERNS[number % len(PATTERNS)]
    while True:
        critter = sample_critter(rng, held_out=True)
        if (critter.shape, critter.pattern) == look and critter.color not in used_colors:
            return critter


if __name__ == "__main__":
    argparse.ArgumentParser("python -m train.pocket.examples", description=__doc__.split(":")[0]).parse_args()
    finish(FOLDER, write(FOLDER), load_pipeline(POCKET.name))
