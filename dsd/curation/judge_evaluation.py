"""Evaluation of the judge on drawn pairs with known ground truth.

Half of the pairs show one critter in two contexts. The other half are hard negatives: the critter in the
second image differs in a single trait, by a step that is visible in both contexts of the pair (a hat, for
example, must not hide changed ears). All critters are held out. The judge is asked as for the pairs of a run.
`dsd.evaluation.benefit` measures the judge on a teacher's images, which are less regular.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from dsd.curation.judge import judge
from dsd.curation.verdict import DIFFERENT, LOW, SAME, UNREADABLE, Judged, Thresholds
from dsd.files.jsonl import Row
from dsd.pocket.draw import draw
from dsd.pocket.world import PATTERNS, Context, Critter, change_one_trait, sample_context, sample_critter
from dsd.vlm.open import VLM

TRAITS = ("hue", "stripe_angle", "eye_size", "spots", "eyes", "shape", "pattern", "ears")
NEEDS = {"stripe_angle": "striped", "spots": "spotted"}  # trait -> the pattern that shows it
SEED = 77_003  # no training run uses it
# A change is visible if this share of the pixels (the tip of an ear) changes by this many levels of 255.
VISIBLE_SHARE, VISIBLE_LEVELS = 0.006, 30
Z = NormalDist().inv_cdf(0.975)


class Drawing(NamedTuple):
    """Two images with known ground truth."""

    critter: Critter
    other: Critter  # in the second image
    contexts: tuple[Context, Context]
    images: tuple[Image.Image, Image.Image]
    changed: str | None  # the trait that differs, or None if both show one critter


@dataclass(frozen=True, kw_only=True)
class GradedPair(Judged):
    """A row of `graded.jsonl`: a drawn pair with its verdict and its ground truth."""

    index: int
    changed: str | None
    pattern: str
    one_light: bool  # whether both images have the same light
    size: int | None


def draw_pair(index: int, *, seed: int = SEED, size: int | None = None) -> Drawing:
    """Draw pair number `index`: even numbers show one critter, odd numbers change one trait after another.

    The pair is a function of (seed, index), `size` x `size` pixels or the size that the shipped models use.
    """
    rng = np.random.default_rng((seed, index))
    trait = TRAITS[index // 2 % len(TRAITS)] if index % 2 else None
    while True:
        critter, contexts = sample_critter(rng, held_out=True), (sample_context(rng), sample_context(rng))
        other = change_one_trait(critter, trait, rng) if trait else critter
        if not other.held_out or critter.pattern != NEEDS.get(trait, critter.pattern):
            continue
        if trait is None or all(_can_be_seen(critter, other, context) for context in contexts):
            images = draw(critter, contexts[0], size), draw(other, contexts[1], size)
            return Drawing(critter, other, contexts, images, trait)


def _can_be_seen(critter: Critter, other: Critter, context: Context) -> bool:
    """Return whether replacing the critter is visible in this context; a hat may hide the ears."""
    change = np.asarray(ImageChops.difference(draw(critter, context), draw(other, context)))  # [h, w, 3]
    return float((change.max(2) >= VISIBLE_LEVELS).mean()) >= VISIBLE_SHARE


def judge_drawn(
    indices: Sequence[int],
    *,
    vlm: VLM,
    recipe: str,
    thresholds: Thresholds,
    seed: int = SEED,
    size: int | None = None,
) -> list[GradedPair]:
    """Draw and judge the pairs with these indices, as in a run, but without embeddings."""
    drawings = [draw_pair(index, seed=seed, size=size) for index in indices]
    pairs = []
    for index, drawing in zip(indices, drawings, strict=True):
        first, second = drawing.contexts
        truth = {"changed": drawing.changed, "pattern": drawing.critter.pattern}
        truth["one_light"] = first.light == second.light
        settings = {"recipe": recipe, "seed": seed, "size": size, "similarity": None}
        pairs.append(GradedPair(id=f"{index:06}", index=index, **truth, **settings))
    return judge(pairs, [drawing.images for drawing in drawings], vlm=vlm, thresholds=thresholds)


def grades(pairs: Sequence[GradedPair]) -> Row:
    """Return error rates with 95 % intervals: false keeps have a changed trait, false drops none."""
    same, hard = [pair for pair in pairs if not pair.changed], [pair for pair in pairs if pair.changed]
    first = pairs[0]
    groups = {f"{pattern} critter": [p for p in same if p.pattern == pattern] for pattern in PATTERNS}
    groups["in one light"] = [pair for pair in same if pair.one_light]
    groups["in two lights"] = [pair for pair in same if not pair.one_light]
    changes = {trait: [pair for pair in hard if pair.changed == trait] for trait in TRAITS}
    head = {"judge": first.judge, "recipe": first.recipe, "pairs": len(pairs)}
    return head | {
        "seed": first.seed,
        "size": first.size,
        "in_all": {
            "accuracy": _share(pair.is_kept == (pair.changed is None) for pair in pairs),
            "false keeps": _share(pair.is_kept for pair in hard),
            "false drops": _share(not pair.is_kept for pair in same),
            "unreadable": _share(pair.reason == UNREADABLE for pair in pairs),
        },
        "false_keeps": {trait: _share(pair.is_kept for pair in group) for trait, group in changes.items()},
        "false_drops": {name: _share(not pair.is_kept for pair in group) for name, group in groups.items()},
        "verdicts": {"one critter": _reasons(same), "one trait changed": _reasons(hard)},
        "thresholds": asdict(first.thresholds),
    }


def _reasons(pairs: Iterable[GradedPair]) -> dict[str, int]:
    counts = Counter(pair.reason for pair in pairs)
    return {reason: counts[reason] for reason in (SAME, DIFFERENT, LOW, UNREADABLE)}


def _share(outcomes: Iterable[bool]) -> dict[str, float | int | None]:
    outcomes = list(outcomes)
    share, low, high = wilson(sum(outcomes), len(outcomes))
    return {"pairs": len(outcomes), "share": share, "low": low, "high": high}


def wilson(count: int, total: int) -> tuple[float | None, float | None, float | None]:
    """Return a share and its 95 % interval by Wilson's method, which holds for few trials too."""
    if not total:
        return None, None, None
    share, spread = count / total, Z * Z / total
    center, half = share + spread / 2, Z * sqrt(share * (1 - share) / total + spread / (4 * total))
    low, high = (center - half) / (1 + spread), (center + half) / (1 + spread)
    return share, low if count else 0.0, high if count < total else 1.0  # exactly 0 or 1 despite rounding
