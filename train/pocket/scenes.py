"""Training images of the pocket models, in families: as scenes, as pixels and as numbers.

A family shows one critter in several contexts, two near misses, and the first context again in other lights.
Its edits show the first context with one thing changed; they are kept apart, as only the tasks need them. A
scene is a function of (seed, index). Held-out critters occur only with `held_out=True`.
"""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from dsd.pocket.draw import draw
from dsd.pocket.scorer import CHOICES, NUMBERS, encode_numbers, number_mask
from dsd.pocket.world import (
    LIGHTS,
    Context,
    Critter,
    change_one_trait,
    sample_context,
    sample_critter,
    sample_edits,
)
from train.pocket.arrays import on_all_cores, store, with_rows

Scene = tuple[Critter, Context]
# Numbers of panels in a family: the same critter, one changed trait, and panel 0 in another light.
SAME, CHANGED, RELIT = 6, 2, 3
FAMILY = SAME + CHANGED + RELIT
EDITS = 3  # panels that are numbered after the family's: panel 0 with one thing changed
ONE_CONTEXT = (0, *range(FAMILY - RELIT, FAMILY))  # the panels that differ only in their light
EDITED = (0, *range(FAMILY, FAMILY + EDITS))  # panel 0 and its edits
CHANGES = ("hue", "shape", "pattern", "ears", "eyes", "stripe_angle", "eye_size", "spots")
WORDED = ("color", "shape", "pattern", "ears", "scene", "accessory", "accessory_color", "light", "place")


@cache
def family(seed: int, index: int, *, held_out: bool = False) -> list[Scene]:
    """Return the `FAMILY` scenes of a family; the first `SAME` and the last `RELIT` show one critter."""
    rng = np.random.default_rng((seed, index))
    critter = sample_critter(rng, held_out=held_out)
    critters = [critter] * SAME + [_change(critter, rng) for _ in range(CHANGED)]
    scenes = [(each, sample_context(rng)) for each in critters]
    first = scenes[0][1]
    others = rng.permutation([name for name in LIGHTS if name != first.light])[:RELIT]
    return scenes + [(critter, replace(first, light=str(name))) for name in others]


def edits(seed: int, index: int, *, held_out: bool = False) -> list[Scene]:
    """Return the `EDITS` scenes that each differ from panel 0 of a family in one thing."""
    critter, context = family(seed, index, held_out=held_out)[0]
    return [(critter, other) for other in sample_edits(context, np.random.default_rng((seed, index, EDITS)))]


KINDS = {"families": (family, FAMILY), "edits": (edits, EDITS)}  # name in files -> scenes, and their number


def _change(critter: Critter, rng: np.random.Generator) -> Critter:
    """Return the critter with one trait changed, on the same side of the held-out split."""
    while True:
        other = change_one_trait(critter, str(rng.choice(CHANGES)), rng)
        if other.held_out == critter.held_out:
            return other


def all_scenes(seed: int, families: range, *, held_out: bool = False, kind: str = "families") -> list[Scene]:
    """Return the scenes of these families, or their edits, one after another."""
    return [scene for index in families for scene in KINDS[kind][0](seed, index, held_out=held_out)]


def render(
    seed: int, count: int, size: int, folder: Path, *, held_out: bool = False, kind: str = "families"
) -> np.ndarray:
    """Return `count` families, uint8 [count, FAMILY, size, size, 3], drawn once and kept in `folder`.

    The kind `edits` has EDITS images of each family.
    """
    path = with_rows(folder, f"{kind}-{seed}-{{}}-{size}{'-held-out' * held_out}.npy", count)
    draw_some = partial(_render, seed=seed, size=size, held_out=held_out, kind=kind)
    shape = (count, KINDS[kind][1], size, size, 3)
    return store(path, shape, np.uint8, on_all_cores(draw_some, count, 25))[:count]


def _render(families: range, *, seed: int, size: int, held_out: bool, kind: str) -> np.ndarray:
    shown = all_scenes(seed, families, held_out=held_out, kind=kind)
    images = np.stack([np.asarray(draw(*scene, size)) for scene in shown])
    return images.reshape(len(families), -1, size, size, 3)


def targets(scenes: list[Scene], where: str = "cpu") -> dict[str, Tensor]:
    """Return the index of each choice [N], numbers [N, NUMBERS] and their mask [N, NUMBERS]."""
    traits = [{**vars(critter), **vars(context)} for critter, context in scenes]
    result = {name: torch.tensor([c.index(row[name]) for row in traits]) for name, c in CHOICES.items()}
    result["accessory_color"][result["accessory"] == CHOICES["accessory"].index("none")] = -100  # ignored
    result["numbers"] = torch.tensor([encode_numbers(critter) for critter, _ in scenes])
    result["mask"] = torch.tensor([number_mask(critter) for critter, _ in scenes])
    return {name: values.to(where) for name, values in result.items()}


def take(values: dict[str, Tensor], rows: Tensor | slice) -> dict[str, Tensor]:
    """Return the given rows of every tensor."""
    return {name: tensor[rows] for name, tensor in values.items()}


class Truths:
    """The `targets` of whole families in one table, float32 [families panels, choices + 2 NUMBERS].

    A family has FAMILY panels, or these and EDITS more. A GPU trains on more grids in a second than one core
    could compute these for in a minute.
    """

    def __init__(self, table: np.ndarray, panels: int = FAMILY):
        self.table, self.panels, self.families = table, panels, len(table) // panels
        columns = table[:, : len(CHOICES)].clip(0).astype(np.uint8)  # color 0 if there is no accessory
        self.words = {name: columns[:, i] for i, name in enumerate(CHOICES) if name in WORDED}

    def scene(self, family: int, panel: int) -> SimpleNamespace:
        """Return the traits of an image that words can describe, in place of its critter and context."""
        row = family * self.panels + panel
        return SimpleNamespace(**{name: CHOICES[name][column[row]] for name, column in self.words.items()})

    def targets(self, where: str) -> dict[str, Tensor]:
        """Return the targets of all images on the device `where`."""
        choices, numbers, mask = np.split(self.table, [len(CHOICES), len(CHOICES) + NUMBERS], axis=1)
        result = {name: torch.from_numpy(choices[:, i]).long().to(where) for i, name in enumerate(CHOICES)}
        return result | {"numbers": torch.tensor(numbers).to(where), "mask": torch.tensor(mask).to(where)}


def load_truths(seed: int, count: int, folder: Path, *, edits: bool = False) -> Truths:
    """Return the truths of the families that `render` draws, computed once and kept in `folder`.

    With `edits`, each family has its edits as further panels.
    """
    kinds = ("families", "edits") if edits else ("families",)
    tables = [_load_table(seed, count, folder, kind) for kind in kinds]
    columns = tables[0].shape[1]
    table = np.concatenate([table.reshape(count, -1, columns) for table in tables], 1)
    return Truths(table.reshape(-1, columns), table.shape[1])


def _load_table(seed: int, count: int, folder: Path, kind: str) -> np.ndarray:
    panels = KINDS[kind][1]
    chunks = on_all_cores(partial(_truths, seed=seed, kind=kind), panels * count, panels * 250)
    shape = (panels * count, len(CHOICES) + 2 * NUMBERS)
    return store(folder / f"{prefix(kind)}truths-{seed}-{count}.npy", shape, np.float32, chunks)


def prefix(kind: str) -> str:
    """Return how names of files of this kind begin; those of families have no prefix."""
    return "" if kind == "families" else f"{kind}-"


def _truths(rows: range, *, seed: int, kind: str) -> np.ndarray:
    panels = KINDS[kind][1]
    values = targets(all_scenes(seed, range(rows.start // panels, rows.stop // panels), kind=kind))
    columns = [values[name][:, None].float() for name in CHOICES]
    return torch.cat([*columns, values["numbers"], values["mask"].float()], 1).numpy()
