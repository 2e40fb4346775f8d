"""Image pairs for the judge's training: of one critter, or of two that are more or less alike."""

from functools import cache

import numpy as np

from dsd.curation.judge_evaluation import NEEDS
from train.pocket import scenes
from train.pocket.vae import TRAIN_SEED

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


@cache
def kinds(count: int) -> dict[tuple, list[int]]:
    """Return families grouped by the words for their critter; within a kind only numbers and eyes differ."""
    found: dict[tuple, list[int]] = {}
    for index in range(count):
        critter = scenes.family(TRAIN_SEED, index)[0][0]
        found.setdefault((critter.color, critter.shape, critter.pattern, critter.ears), []).append(index)
    return found


@cache
def changes(count: int) -> dict[str, list[int]]:
    """Return rows of `Images` by the trait that they show changed, without changes that are not visible."""
    found: dict[str, list[int]] = {trait: [] for trait in CHANGED}
    for row in (
        scenes.FAMILY * f + p for f in range(count) for p in range(scenes.SAME, scenes.SAME + scenes.CHANGED)
    ):
        before, after = scene(row - row % scenes.FAMILY)[0], scene(row)[0]
        trait = next(trait for trait in CHANGED if getattr(before, trait) != getattr(after, trait))
        if NEEDS.get(trait, after.pattern) == after.pattern:
            found[trait].append(row)
    return found


def sample_pair(count: int, rng: np.random.Generator) -> list[int]:
    """Return two rows of `Images`: of one critter, or of two that are more or less alike."""
    how = str(rng.choice(list(PAIRS), p=list(PAIRS.values())))
    family = int(rng.integers(count))
    first, second = (scenes.FAMILY * family + int(p) for p in rng.permutation(scenes.SAME)[:2])
    if how == "changed":
        second = int(rng.choice(changes(count)[str(rng.choice(list(CHANGED), p=CHANGED_SHARES))]))
        first = second - second % scenes.FAMILY + int(rng.integers(scenes.SAME))
    if how in ("alike", "any"):
        critter = scenes.family(TRAIN_SEED, family)[0][0]
        kind = kinds(count)[(critter.color, critter.shape, critter.pattern, critter.ears)]
        other = int(rng.choice(kind)) if how == "alike" else int(rng.integers(count))
        second = scenes.FAMILY * other + int(rng.integers(scenes.SAME))
    return [first, second] if rng.random() < 0.5 else [second, first]


def scene(row: int) -> tuple:
    return scenes.family(TRAIN_SEED, row // scenes.FAMILY)[row % scenes.FAMILY]
