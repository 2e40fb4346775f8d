"""Held-out critters as a validation set, and a scorer that reads their traits back from images.

The set is a function of its seed: the same critters, places and prompts for every model. Identity is the
share of visible traits that an image keeps. Following is the share of the requested context that is present.
Copying is the share of the *reference's* context that is present without being requested: its scene, light,
accessory, place in the frame and pose (the tilt of the body). The position of the sun is not read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dsd.evaluation.scores import Case, Measure, Numbers
from dsd.pocket import scorer
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from dsd.pocket.world import NAMED, Context, Critter, sample_context, sample_critter

STREAM = 271828  # separates these random numbers from those of every training


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Ground truth of a case: the critter, and the contexts of its reference and of the requested image."""

    critter: Critter
    reference: Context
    target: Context


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
    cases = []
    for index in range(subjects):
        rng = np.random.default_rng((STREAM, seed, index))
        critter, context = sample_critter(rng, held_out=True), sample_context(rng)
        image = draw(critter, context, size)
        for turn in range(prompts):
            scene = Scene(critter=critter, reference=context, target=_sample_elsewhere(context, rng))
            cases.append(make_case(scene, f"{index:04d}", 1000 * index + turn, size=size, reference=image))
    return cases


def _sample_elsewhere(context: Context, rng: np.random.Generator) -> Context:
    """Sample a context in another scene.

    If the reference's scene were requested, showing it would not count as copying.
    """
    while True:
        other = sample_context(rng)
        if other.scene != context.scene:
            return other


def make_case(
    scene: Scene, subject: str, seed: int, *, size: int | None = None, reference: Image.Image | None = None
) -> Case:
    """Return the case of a scene; pass `reference` to avoid drawing it again for each prompt."""
    return Case(
        subject=subject,
        reference=reference or draw(scene.critter, scene.reference, size),
        prompt=describe_context(scene.target),
        caption=caption(scene.critter, scene.target),
        seed=seed,
        truth=draw(scene.critter, scene.target, size),
        facts=scene,
    )


class CritterScorer:
    """Scorer based on the network that reads a critter's traits back; no other model is involved."""

    measures = (
        Measure("identity", "identity (CP)", "share of the subject's visible traits that the image keeps"),
        Measure(
            "named", "named traits", "the same for color, shape, pattern and ears, which a caption names"
        ),
        Measure("unnamed", "unnamed traits", "the same for exact hue, eyes, stripes, spots and sizes"),
        Measure("following", "following (PF)", "share of the requested context that the image shows"),
        Measure("product", "CP x PF", "identity times following, image by image, then the mean"),
        Measure(
            "copy",
            "copy",
            "share of the reference's scene, light, accessory, place and pose that the image shows although "
            "they were not requested; less is better; 1 is the reference itself, 0 is an image of another "
            "subject",
            from_chance=True,
        ),
    )

    def __init__(self, network: scorer.Scorer | None = None) -> None:
        self.network = network or scorer.load()

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return the scores of each image; the `facts` of each case must be a `Scene`."""
        readings = self.network.read(list(images))
        return [_score(case.facts, reading) for case, reading in zip(cases, readings, strict=True)]


def _score(scene: Scene, reading: scorer.Reading) -> Numbers:
    traits = scorer.check_traits(scene.critter, reading)
    identity = scorer.identity(scene.critter, reading)
    following = _share(scorer.check_context(scene.target, reading).values())
    return {
        "identity": identity,
        "named": _share(value for name, value in traits.items() if name in NAMED),
        "unnamed": _share(value for name, value in traits.items() if name not in NAMED),
        "following": following,
        "product": identity * following,
        "copy": _share(copied_parts(scene, reading).values()),
    }


def copied_parts(scene: Scene, reading: scorer.Reading) -> dict[str, bool]:
    """Return, for each part of the reference's context that was not requested, whether the image shows it.

    Place and pose are never requested, so they are always included. An accessory is included only if the
    reference has one.
    """
    reference, target, seen = scene.reference, scene.target, reading.choices
    parts = {
        "place": seen["place"] == reference.place,
        "pose": abs(reading.tilt - reference.tilt) <= scorer.LEAN,
    }
    for name in ("scene", "light"):
        if getattr(reference, name) != getattr(target, name):
            parts[name] = seen[name] == getattr(reference, name)
    accessory = (reference.accessory, reference.accessory_color)
    if reference.accessory != "none" and accessory != (target.accessory, target.accessory_color):
        parts["accessory"] = (seen["accessory"], seen["accessory_color"]) == accessory
    return parts


def _share(values: Iterable[bool]) -> float:
    return float(np.mean(list(values)))
