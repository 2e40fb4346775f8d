"""Write rendered pairs as a dataset, for an upper bound: `python -m train.pocket.rendered --out FOLDER`.

The pairs are what a perfect teacher and a perfect judge would produce: true renders of one critter in two
contexts. The instruction describes only the context; the caption also describes the critter.
"""

import argparse
from pathlib import Path

import numpy as np

from dsd.files import whole
from dsd.files.contact_sheet import png
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from train import command
from train.pocket import scenes
from train.pocket.presets import PRESETS, Preset
from train.pocket.vae.model import TRAIN_SEED

SEED = 61
SHARD_ROWS = 5000


def sample(index: int, families: int, panel: int) -> list[dict[str, object]]:
    """Return pair number `index` in both orders, as rows of `dsd.files.pairs`; the same for each call."""
    rng = np.random.default_rng((SEED, index))
    family = int(rng.integers(families))
    first, second = (int(p) for p in rng.permutation(scenes.SAME)[:2])
    panels = scenes.family(TRAIN_SEED, family)
    images = {p: {"bytes": png(draw(*panels[p], panel)), "path": None} for p in (first, second)}
    return [
        {
            "id": f"{family:06d}-{reference}-{target}", "conditioning": images[reference],
            "target": images[target], "caption": caption(*panels[target]),
            "instruction": describe_context(panels[target][1]), "generator": "dsd.pocket.draw",
            "generator_license": "apache-2.0",
        }
        for reference, target in ((first, second), (second, first))
    ]  # fmt: skip


def write(preset: Preset, count: int, out: Path) -> None:
    """Write `count` rows, an even number, as parquet files that `dsd.files.pairs.read_pairs` opens."""
    import pyarrow
    import pyarrow.parquet

    out.mkdir(parents=True, exist_ok=True)
    starts = range(0, count // 2, SHARD_ROWS // 2)
    for number, start in enumerate(starts):
        indices = range(start, min(start + SHARD_ROWS // 2, count // 2))
        rows = [row for index in indices for row in sample(index, preset.families, preset.panel)]
        path = out / f"train-{number:05d}-of-{len(starts):05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.rendered", description=__doc__.split(":")[0])
    text = "data and batch sizes for a CPU or a GPU (cpu)"
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help=text)
    parser.add_argument("--rows", type=int, default=10_000, help="number of rows to write, even (10000)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the parquet files to")
    args = parser.parse_args()
    with whole.locked(args.out / "dataset"):
        write(PRESETS[args.preset], args.rows, args.out)
    print(f"{args.rows} rows in {args.out}", flush=True)


if __name__ == "__main__":
    command.run(main)
