"""Write rendered pairs as a dataset, for an upper bound: `python -m train.pocket.rendered --out FOLDER`.

The pairs are what a perfect teacher and a perfect judge would produce: true renders of one critter in two
contexts. The instruction names the context alone, the caption also the critter. A student of these pairs is
the upper bound for a self-distilled one.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from dsd.files import jsonl
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from train.pocket import scenes
from train.pocket.presets import PRESETS, Preset
from train.pocket.vae import TRAIN_SEED

SEED = 61
SHARD_ROWS = 5000


def sample(index: int, families: int, panel: int) -> list[dict]:
    """Return both orders of pair number `index`, as rows of `dsd.files.pairs`; a function of the index."""
    rng = np.random.default_rng((SEED, index))
    family = int(rng.integers(families))
    first, second = (int(p) for p in rng.permutation(scenes.SAME)[:2])
    images = {p: draw(*scenes.family(TRAIN_SEED, family)[p], panel) for p in (first, second)}
    return [row(images, family, *panels) for panels in ((first, second), (second, first))]


def row(images: dict[int, Image.Image], family: int, conditioning: int, target: int) -> dict:
    critter, context = scenes.family(TRAIN_SEED, family)[target]
    return {
        "id": f"{family:06d}-{conditioning}-{target}",
        "conditioning": png(images[conditioning]),
        "target": png(images[target]),
        "caption": caption(critter, context),
        "instruction": describe_context(context),
        "generator": "dsd.pocket.draw",
        "generator_license": "apache-2.0",
    }


def png(image: Image.Image) -> dict:
    """Return an image in the form that `datasets` stores."""
    file = io.BytesIO()
    image.save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def write(preset: Preset, count: int, out: Path) -> None:
    """Write `count` rows, an even number, as parquet files that `dsd.files.pairs.read_pairs` opens."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, count // 2, SHARD_ROWS // 2)
    for number, start in enumerate(starts):
        indices = range(start, min(start + SHARD_ROWS // 2, count // 2))
        pairs = (sample(index, preset.families, preset.panel) for index in indices)
        shard = pyarrow.Table.from_pylist([one for both in pairs for one in both])
        file = io.BytesIO()
        pyarrow.parquet.write_table(shard, file, row_group_size=50)
        jsonl.write(out / f"train-{number:05d}-of-{len(starts):05d}.parquet", file.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    write(PRESETS[args.preset], args.rows, args.out)
    print(f"{args.rows} rows in {args.out}", flush=True)


if __name__ == "__main__":
    main()
