"""Image pairs for the judge's training: of one critter, or of two that are more or less alike."""

from functools import cache

import numpy as np

from dsd.curation.judge_evaluation import NEEDS
from dsd.pocket.world import Context
from train.pocket import scenes
from train.pocket.vae.model import TRAIN_SEED

# Shares of pairs: one critter; one trait changed; another critter with the same color, shape, pattern and
# ears; any other critter. If too few numbers differ, the judge learns to copy the second description from
# the first instead of reading the image.
PAIRS = {"same": 0.3, "changed": 0.4, "alike": 0.2, "any": 0.1}
# Weights of the changed traits: the less visible a change is, the more often it is sampled. With equal
# weights, moved spots would be one pair in a hundred, since only a spotted critter shows them.
CHANGED = {
    "spots": 5, "eye_size": 4, "ears": 4, "stripe_angle": 2, "shape": 2, "hue": 1, "pattern": 1, "eyes": 1,
}  # fmt: skip
CHANGED_SHARES = [weight / sum(CHANGED.values()) for weight in CHANGED.values()]


# The tasks' pairs: one context in two lights, an edit, or any of the above.
TASK_PAIRS = {"relit": 0.35, "edited": 0.35, "other": 0.3}


def scene(row: int) -> scenes.Scene:
    """Return the scene of a row of all images, row FAMILY f + p for panel p of family f.

    Rows of edits are negative: row ~(EDITS f + e) is edit e of family f.
    """
    if row < 0:
        return scenes.edits(TRAIN_SEED, ~row // scenes.EDITS)[~row % scenes.EDITS]
    return scenes.family(TRAIN_SEED, row // scenes.FAMILY)[row % scenes.FAMILY]


def words_of(family: int) -> tuple[str, ...]:
    """Return the traits of a family's critter that captions mention."""
    critter = scene(scenes.FAMILY * family)[0]
    return critter.color, critter.shape, critter.pattern, critter.ears


@cache
def families_by_words(count: int) -> dict[tuple[str, ...], list[int]]:
    """Return families grouped by the words for their critter; only numbers and eyes differ within a group."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for family in range(count):
        groups.setdefault(words_of(family), []).append(family)
    return groups


@cache
def rows_by_change(count: int) -> dict[str, list[int]]:
    """Return rows by the trait that they show changed, without changes that are not visible."""
    rows: dict[str, list[int]] = {trait: [] for trait in CHANGED}
    for family in range(count):
        before = scene(scenes.FAMILY * family)[0]
        for panel in range(scenes.SAME, scenes.SAME + scenes.CHANGED):
            row = scenes.FAMILY * family + panel
            after = scene(row)[0]
            trait = next(trait for trait in CHANGED if getattr(before, trait) != getattr(after, trait))
            if NEEDS.get(trait, after.pattern) == after.pattern:
                rows[trait].append(row)
    return rows


def sample_pair(count: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of two images: of one critter, or of two that are more or less alike."""
    kind = str(rng.choice(list(PAIRS), p=list(PAIRS.values())))
    family = int(rng.integers(count))
    first, second = (scenes.FAMILY * family + int(panel) for panel in rng.permutation(scenes.SAME)[:2])
    if kind == "changed":
        second = int(rng.choice(rows_by_change(count)[str(rng.choice(list(CHANGED), p=CHANGED_SHARES))]))
        first = second - second % scenes.FAMILY + int(rng.integers(scenes.SAME))
    if kind in ("alike", "any"):
        alike = families_by_words(count)[words_of(family)]
        other = int(rng.choice(alike)) if kind == "alike" else int(rng.integers(count))
        second = scenes.FAMILY * other + int(rng.integers(scenes.SAME))
    return [first, second] if rng.random() < 0.5 else [second, first]


def sample_task_pair(count: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of two images that the tasks may compare."""
    kind = str(rng.choice(list(TASK_PAIRS), p=list(TASK_PAIRS.values())))
    return sample_pair(count, rng) if kind == "other" else sample_related(kind, count, rng)


def sample_related(kind: str, count: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of one context in two lights (`relit`), or of it and its edits (`edited`)."""
    panels = rng.permutation(scenes.ONE_CONTEXT if kind == "relit" else scenes.EDITED)[:2]
    family = int(rng.integers(count))
    return [_row(family, int(panel)) for panel in panels]


def _row(family: int, panel: int) -> int:
    if panel < scenes.FAMILY:
        return scenes.FAMILY * family + panel
    return ~(scenes.EDITS * family + panel - scenes.FAMILY)


def sample_edit(count: int, rng: np.random.Generator) -> list[int]:
    """Return the rows of two images that differ in one thing."""
    while True:
        before, after = sample_related("edited", count, rng)
        contexts = [scene(row)[1] for row in (before, after)]
        if sum(one != other for one, other in zip(*map(_things, contexts), strict=True)) == 1:
            return [before, after]


def _things(context: Context) -> tuple[object, ...]:
    worn = context.accessory != "none" and (context.accessory, context.accessory_color)
    return worn, context.place
