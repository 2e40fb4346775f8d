"""The judge is judged, on drawn pairs whose truth is known.

Half of them show one critter in two contexts. The other half are hard negatives: the second picture's
critter differs in one single trait, by a step that can be seen in both of the pair's contexts (no changed
ears under a hat). All critters are held out, and the seed is one that no training draws scenes from. The
judge is asked through `dsd.curation.judge.judge`, and held to the same thresholds as on a run's pairs.

What this does not know: how the judge does on a teacher's own, less tidy pictures. That asks
`dsd.evaluation.worth`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops

from dsd.curation.judge import judge
from dsd.curation.verdict import DIFFERENT, KEEP, LOW, SAME, UNREADABLE, Thresholds
from dsd.files.jsonl import Row
from dsd.pocket.draw import draw
from dsd.pocket.world import PATTERNS, Context, Critter, change_one_trait, sample_context, sample_critter
from dsd.vlm.open import VLM

TRAITS = ("hue", "stripe_angle", "eye_size", "spots", "eyes", "shape", "pattern", "ears")
NEEDS = {"stripe_angle": "striped", "spots": "spotted"}  # trait -> the pattern that shows it
SEED = 77_003  # no training draws scenes from it
# A change can be seen if at least this share of the picture changes by at least so many of 255 levels:
# about the tip of an ear.
VISIBLE_SHARE, VISIBLE_LEVELS = 0.006, 30
Z = NormalDist().inv_cdf(0.975)


# ---------------------------------------------------------------- pairs of known truth


@dataclass(frozen=True)
class Drawn:
    """Two pictures of known truth: `changed` is the trait that differs, or None if they show one critter."""

    critter: Critter
    other: Critter  # the second picture's
    contexts: tuple[Context, Context]
    pictures: tuple[Image.Image, Image.Image]
    changed: str | None


def drawn_pair(index: int, *, seed: int = SEED, size: int | None = None) -> Drawn:
    """Pair number `index`: even ones show one critter, odd ones take the traits in turn.

    A function of (seed, index); pictures of `size` x `size` pixels, by default the shipped family's.
    """
    rng = np.random.default_rng((seed, index))
    changed = TRAITS[index // 2 % len(TRAITS)] if index % 2 else None
    while True:
        critter, contexts = sample_critter(rng, held_out=True), (sample_context(rng), sample_context(rng))
        other = change_one_trait(critter, changed, rng) if changed else critter
        if not other.held_out or critter.pattern != NEEDS.get(changed, critter.pattern):
            continue
        if changed is None or all(_can_be_seen(critter, other, context) for context in contexts):
            pictures = draw(critter, contexts[0], size), draw(other, contexts[1], size)
            return Drawn(critter, other, contexts, pictures, changed)


def _can_be_seen(critter: Critter, other: Critter, context: Context) -> bool:
    """Whether it shows when one takes the other's place in this very context: a hat may hide the ears."""
    change = np.asarray(ImageChops.difference(draw(critter, context), draw(other, context)))  # [h, w, 3]
    return float((change.max(2) >= VISIBLE_LEVELS).mean()) >= VISIBLE_SHARE


def judge_drawn(
    items: list[Row],
    *,
    vlm: VLM,
    recipe: str,
    thresholds: Thresholds,
    seed: int = SEED,
    size: int | None = None,
) -> list[Row]:
    """The drawn pairs of these `index`es, judged as a run's are, but by the judge alone: no similarity."""
    drawn = [drawn_pair(item["index"], seed=seed, size=size) for item in items]
    pairs = [
        {
            **item,
            "changed": one.changed,
            "pattern": one.critter.pattern,
            "one_light": one.contexts[0].light == one.contexts[1].light,
            "recipe": recipe,
            "seed": seed,
            "size": size,
            "similarity": None,
        }
        for item, one in zip(items, drawn, strict=True)
    ]
    return judge(pairs, [one.pictures for one in drawn], vlm=vlm, thresholds=thresholds)


# ---------------------------------------------------------------- grades


def grades(graded: Sequence[Row]) -> Row:
    """What the judge got right and wrong, as shares with 95 % intervals; `graded` are rows of `judge_drawn`.

    A false keep is a pair with a changed trait that was kept, a false drop one critter's pair that was not.
    """
    same, hard = _where(graded, changed=None), [row for row in graded if row["changed"]]
    right = [(row["verdict"] == KEEP) == (row["changed"] is None) for row in graded]
    return {
        "judge": graded[0]["judge"],
        "recipe": graded[0]["recipe"],
        "pairs": len(graded),
        "seed": graded[0]["seed"],
        "size": graded[0]["size"],
        "in_all": {
            "accuracy": _share(right),
            "false keeps": _share(_kept(hard)),
            "false drops": _share([not kept for kept in _kept(same)]),
            "unreadable": _share([row["reason"] == UNREADABLE for row in graded]),
        },
        "false_keeps": {trait: _share(_kept(_where(hard, changed=trait))) for trait in TRAITS},
        "false_drops": {
            name: _share([not kept for kept in _kept(part)]) for name, part in _parts(same).items()
        },
        "verdicts": {"one critter": _reasons(same), "one trait changed": _reasons(hard)},
        "thresholds": graded[0]["thresholds"],
    }


def _parts(same: Sequence[Row]) -> dict[str, list[Row]]:
    """One critter's pairs by what may have misled the judge."""
    patterns = {f"{pattern} critter": _where(same, pattern=pattern) for pattern in PATTERNS}
    return {
        **patterns,
        "in one light": _where(same, one_light=True),
        "in two lights": _where(same, one_light=False),
    }


def _where(graded: Sequence[Row], **wanted: object) -> list[Row]:
    return [row for row in graded if all(row[name] == value for name, value in wanted.items())]


def _kept(graded: Sequence[Row]) -> list[bool]:
    return [row["verdict"] == KEEP for row in graded]


def _reasons(graded: Sequence[Row]) -> dict[str, int]:
    found = Counter(row["reason"] for row in graded)
    return {reason: found[reason] for reason in (SAME, DIFFERENT, LOW, UNREADABLE)}


def _share(outcomes: Sequence[bool]) -> dict[str, float | int | None]:
    share, low, high = wilson(sum(outcomes), len(outcomes))
    return {"pairs": len(outcomes), "share": share, "low": low, "high": high}


def wilson(count: int, of: int) -> tuple[float | None, float | None, float | None]:
    """A share and its 95 % interval after Wilson (1927), which holds for few trials and near 0 and 1 too."""
    if not of:
        return None, None, None
    share, spread = count / of, Z * Z / of
    centre, half = share + spread / 2, Z * sqrt(share * (1 - share) / of + spread / (4 * of))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return share, low if count else 0.0, high if count < of else 1.0  # exact ends, whatever rounding does
