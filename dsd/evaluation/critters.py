"""Held-out critters as a validation set, and a scorer that reads their traits back from images.

The set is a function of its seed: the same critters, places and prompts for every model. Identity is the
share of visible traits that an image keeps. Following is the share of the requested context that is present.
Copying is the share of the *reference's* context that is present without being requested: its scene, light,
accessory, place in the frame and pose (the tilt of the body). The position of the sun is not read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dsd.evaluation.scores import Case, Measure, Row
from dsd.pocket import scorer
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from dsd.pocket.world import NAMED, Context, Critter, sample_context, sample_critter

STREAM = 271828  # separates these random numbers from those of every training


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Ground truth of a case: the critter, the reference's context and the requested context."""

    critter: Critter
    shown: Context
    asked: Context


def validation_set(
    seed: int = 0, subjects: int = 200, prompts: int = 3, *, size: int | None = None
) -> list[Case]:
    """Return `subjects` x `prompts` cases of held-out critters.

    Every prompt asks for another scene than the reference's. A smaller set consists of the first subjects and
    prompts of a larger one. `size` is the side of the images in pixels, by default the shipped family's.
    Raise ValueError for a count below 1.
    """
    for name, count in (("subjects", subjects), ("prompts", prompts)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    return [case for index in range(subjects) for case in _subject(seed, index, prompts, size)]


def _subject(seed: int, index: int, prompts: int, size: int | None) -> list[Case]:
    rng = np.random.default_rng((STREAM, seed, index))
    critter, shown = sample_critter(rng, held_out=True), sample_context(rng)
    reference = draw(critter, shown, size)
    cases = []
    for turn in range(prompts):
        scene = Scene(critter=critter, shown=shown, asked=_elsewhere(shown, rng))
        cases.append(case(scene, f"{index:04d}", 1000 * index + turn, size, reference))
    return cases


def _elsewhere(shown: Context, rng: np.random.Generator) -> Context:
    """Draw a context in another scene than `shown`.

    If the reference's scene were requested, showing it would not count as copying.
    """
    while True:
        context = sample_context(rng)
        if context.scene != shown.scene:
            return context


def case(
    scene: Scene, subject: str, seed: int, size: int | None = None, reference: Image.Image | None = None
) -> Case:
    """Return the case of a scene; pass `reference` to avoid drawing it again for each prompt."""
    return Case(
        subject=subject,
        reference=reference or draw(scene.critter, scene.shown, size),
        prompt=describe_context(scene.asked),
        caption=caption(scene.critter, scene.asked),
        seed=seed,
        truth=draw(scene.critter, scene.asked, size),
        facts=scene,
    )


class CritterScorer:
    """Scorer based on the network that reads a critter's traits back; no other model is involved."""

    measures = (
        Measure(
            "identity",
            "identity (CP)",
            "share of the subject's visible traits, named and unnamed, that the image keeps",
        ),
        Measure(
            "named", "named traits", "the same of color, shape, pattern and ears, which a caption can tell"
        ),
        Measure(
            "unnamed",
            "unnamed traits",
            "the same of exact hue, eyes, stripes, spots and sizes, which only an image can tell",
        ),
        Measure(
            "following",
            "following (PF)",
            "share of the asked scene, accessory, its color and light that is there",
        ),
        Measure("product", "CP x PF", "identity times following, image by image, then the mean"),
        Measure(
            "copy",
            "copy",
            "share of the reference's scene, light, accessory, place and pose taken over unasked; less is "
            "better; 1 is the reference itself, 0 what images of others happen to share with it",
            from_chance=True,
        ),
    )

    def __init__(self, network: scorer.Scorer | None = None) -> None:
        self.network = network or scorer.load()

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Row]:
        """Return one row of scores per image; the `facts` of each case must be a `Scene`."""
        readings = self.network.read(list(images))
        return [_row(case.facts, reading) for case, reading in zip(cases, readings, strict=True)]


def _row(scene: Scene, reading: scorer.Reading) -> Row:
    traits, parts = scorer.kept(scene.critter, reading), scorer.followed(scene.asked, reading)
    identity, following = scorer.identity(scene.critter, reading), _share(parts.values())
    return {
        "identity": identity,
        "named": _share(value for name, value in traits.items() if name in NAMED),
        "unnamed": _share(value for name, value in traits.items() if name not in NAMED),
        "following": following,
        "product": identity * following,
        "copy": _share(taken(scene.shown, scene.asked, reading).values()),
    }


def taken(shown: Context, asked: Context, reading: scorer.Reading) -> dict[str, bool]:
    """Return, for each part of the reference's context that was not requested, whether the image shows it.

    Place and pose are never requested, so they are always included. An accessory is included only if the
    reference has one.
    """
    seen = reading.choices
    parts = {
        "place": seen["place"] == shown.place,
        "pose": abs(reading.tilt - shown.tilt) <= scorer.LEAN,
    }
    for name in ("scene", "light"):
        if getattr(shown, name) != getattr(asked, name):
            parts[name] = seen[name] == getattr(shown, name)
    worn = (shown.accessory, shown.accessory_color)
    if shown.accessory != "none" and worn != (asked.accessory, asked.accessory_color):
        parts["accessory"] = (seen["accessory"], seen["accessory_color"]) == worn
    return parts


def _share(values) -> float:
    values = list(values)
    return sum(values) / len(values)
