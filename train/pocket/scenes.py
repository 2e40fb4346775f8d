"""The training images of all parts, in families.

A family shows one critter in several contexts, two near misses, and the first context again in other lights.
A scene is a function of (seed, index), so that only pixels are stored. Held-out critters are drawn only with
`held_out=True`.
"""

import os
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from dsd.pocket.draw import draw
from dsd.pocket.world import LIGHTS, Context, Critter, change_one_trait, sample_context, sample_critter

# Panels of a family: the critter itself, the critter with one trait changed, and panel 0 in another light.
SAME, CHANGED, RELIT = 6, 2, 3
FAMILY = SAME + CHANGED + RELIT
CHANGES = ("hue", "shape", "pattern", "ears", "eyes", "stripe_angle", "eye_size", "spots")


@cache
def family(seed: int, index: int, *, held_out: bool = False) -> list[tuple[Critter, Context]]:
    """Return the `FAMILY` scenes of a family; the first `SAME` and the last `RELIT` show one critter."""
    rng = np.random.default_rng((seed, index))
    critter = sample_critter(rng, held_out=held_out)
    critters = [critter] * SAME + [_changed(critter, rng) for _ in range(CHANGED)]
    scenes = [(each, sample_context(rng, LIGHTS)) for each in critters]
    first = scenes[0][1]
    others = rng.permutation([name for name in LIGHTS if name != first.light])[:RELIT]
    return scenes + [(critter, replace(first, light=str(name))) for name in others]


def _changed(critter: Critter, rng: np.random.Generator) -> Critter:
    """Return the critter with one trait changed, on the same side of the held-out split."""
    while True:
        other = change_one_trait(critter, str(rng.choice(CHANGES)), rng)
        if other.held_out == critter.held_out:
            return other


def _draw_families(job: tuple[Path, int, int, int, bool]) -> None:
    """Draw families directly into the file, so that no images pass between processes."""
    path, seed, start, stop, held_out = job
    file = np.lib.format.open_memmap(path, mode="r+")
    for i in range(start, stop):
        file[i] = [np.asarray(draw(*scene, file.shape[2])) for scene in family(seed, i, held_out=held_out)]


def render(
    seed: int,
    count: int,
    size: int,
    folder: Path,
    *,
    held_out: bool = False,
    processes: int | None = None,
    chunk: int = 25,
) -> np.ndarray:
    """Return `count` families, uint8 [count, FAMILY, size, size, 3], drawn once and kept in `folder`.

    `processes` None means one per core.
    """
    path = folder / f"families-{seed}-{count}-{size}{'-held-out' * held_out}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{os.getpid()}-{path.name}")  # several commands may render at once
        np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, FAMILY, size, size, 3))
        jobs = [(part, seed, i, min(i + chunk, count), held_out) for i in range(0, count, chunk)]
        with get_context("spawn").Pool(processes or os.cpu_count()) as pool:
            list(pool.imap_unordered(_draw_families, jobs))
        part.replace(path)
    return np.load(path, mmap_mode="r")
