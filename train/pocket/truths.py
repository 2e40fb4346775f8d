"""The content of every image of the families, as numbers: computed once, on all cores, and kept.

A scene is a function of its index, but a slow one: a GPU learns from more grids in a second than one core can
sample in a minute.
"""

from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from dsd.pocket.scorer import CHOICES, NUMBERS
from train.pocket import scenes
from train.pocket.loop import once
from train.pocket.scorer import targets

WORDED = ("color", "shape", "pattern", "ears", "scene", "accessory", "accessory_color", "light", "place")
CHUNK = 250  # families


class Truths:
    """`train.pocket.scorer.targets` in one table, float32 [families FAMILY, choices + 2 NUMBERS]."""

    def __init__(self, table: np.ndarray):
        self.table, self.families = table, len(table) // scenes.FAMILY
        columns = table[:, : len(CHOICES)].clip(0).astype(np.uint8)  # no accessory: any color
        self.words = {name: columns[:, i] for i, name in enumerate(CHOICES) if name in WORDED}

    def scene(self, family: int, panel: int) -> SimpleNamespace:
        """Return what words can tell of an image, in place of its critter and its context."""
        row = family * scenes.FAMILY + panel
        return SimpleNamespace(**{name: CHOICES[name][column[row]] for name, column in self.words.items()})

    def targets(self, where: str) -> dict[str, Tensor]:
        named, numbers, mask = np.split(self.table, [len(CHOICES), len(CHOICES) + NUMBERS], axis=1)
        wanted = {name: torch.from_numpy(named[:, i]).long().to(where) for i, name in enumerate(CHOICES)}
        return wanted | {
            "numbers": torch.from_numpy(numbers).to(where),
            "mask": torch.from_numpy(mask).to(where),
        }


def load(seed: int, count: int, folder: Path) -> Truths:
    """Return the truths of the families that `scenes.render` draws."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    return Truths(np.array(once(folder / f"truths-{seed}-{count}.npy", lambda: np.concatenate(_made(jobs)))))


def _made(jobs: list[tuple[int, int, int]]) -> list[np.ndarray]:
    if len(jobs) == 1:
        return [_table(jobs[0])]
    with get_context("spawn").Pool() as pool:
        return pool.map(_table, jobs)


def _table(job: tuple[int, int, int]) -> np.ndarray:
    seed, first, stop = job
    wanted = targets([scene for index in range(first, stop) for scene in scenes.family(seed, index)])
    columns = [wanted[name][:, None].float() for name in CHOICES]
    return torch.cat([*columns, wanted["numbers"], wanted["mask"].float()], 1).numpy()
