"""Draw the app's examples, held-out critters with a prompt each: `python -m train.pocket.examples`."""

import argparse
import json
from pathlib import Path

import numpy as np

from dsd.model.presets import ASSETS
from dsd.pocket.draw import draw
from dsd.pocket.world import PATTERNS, SHAPES, Context, Critter, sample_critter

FOLDER = ASSETS.parent / "examples"
SEED = 77
CASES = {  # scene -> prompt
    "beach": "wearing a red hat in the snow", "forest": "holding a yellow balloon under the sea",
    "snow": "on the beach at sunset", "desert": "wearing a blue scarf in the city",
    "city": "in space holding a white flag", "sea": "in the forest wearing a black hat",
    "space": "in a room holding a green balloon", "room": "in the desert wearing a red scarf at sunset",
}  # fmt: skip


def write(folder: Path) -> None:
    """Write the images and `examples.json`, each critter in a different color."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows, colors = np.random.default_rng(SEED), [], set()
    for number, (scene, prompt) in enumerate(CASES.items(), 1):
        critter = _sample(rng, number, colors)
        colors.add(critter.color)
        name = f"{number:02d}-{critter.color}-{critter.shape}-{critter.pattern}.png"
        draw(critter, Context(scene=scene, backdrop=float(rng.random()))).save(folder / name)
        rows.append({"image": name, "prompt": prompt})
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
    write(FOLDER)
