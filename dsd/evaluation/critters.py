"""Held-out critters as a validation set, and a scorer that reads their traits back from images.

The set is a function of its seed: the same critters, places and prompts for every model. Identity is the
share of visible traits that an image keeps. Following is the share of the requested context that is present.
Copying is the share of the *reference's* context that is present without being requested: its scene, light,
accessory, place in the frame and pose (the tilt of the body). The position of the sun is not read. A row
also has a number for each trait and each part of the context: 1 if the image shows it, NaN if the critter or
the request has none.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean

import numpy as np
from PIL import Image

from dsd.evaluation.scores import Case, Measure, Numbers, Scores
from dsd.model.checkpoint import weights_hash
from dsd.pocket import scorer
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from dsd.pocket.world import NAMED, Context, Critter, sample_context, sample_critter

CONTEXT = ("scene", "accessory", "light", "accessory_color")
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
    """Return `subjects` x `prompts` cases of held-out critters; raise ValueError for a count below 1.

    A smaller set consists of the first subjects and prompts of a larger one. `size` is in pixels.
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
            target = sample_context(rng)
            while target.scene == context.scene:  # otherwise showing the scene would not count as copying
                target = sample_context(rng)
            scene = Scene(critter=critter, reference=context, target=target)
            cases.append(make_case(scene, f"{index:04d}", 1000 * index + turn, size=size, reference=image))
    return cases


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


class Reader(ABC):
    """Base of the scorers of critters: a network reads images, `score_one` compares each to the truth."""

    def __init__(self, network: scorer.Scorer | None = None) -> None:
        self.network = network or scorer.load()
        self.backbones = {"reader of traits": weights_hash(self.network)}

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return the scores of each image; the `facts` of each case must be a `Scene`."""
        readings = self.network.read(list(images))
        return [self.score_one(case.facts, reading) for case, reading in zip(cases, readings, strict=True)]

    @staticmethod
    @abstractmethod
    def score_one(scene: Scene, reading: scorer.Reading) -> Numbers:
        """Return the numbers of one image by what was read in it."""


class CritterScorer(Reader):
    """Scorer based on the network that reads a critter's traits back; no other model is involved."""

    measures = (
        Measure(
            "identity", "identity (CP)", "share of the subject's visible traits that the image keeps",
            is_identity=True,
        ),
        Measure(
            "named", "named traits", "the same for color, shape, pattern and ears, which a caption names",
            is_identity=True,
        ),
        Measure(
            "unnamed", "unnamed traits", "the same for exact hue, eyes, stripes, spots and sizes",
            is_identity=True,
        ),
        Measure("following", "following (PF)", "share of the requested context that the image shows"),
        Measure("product", "CP x PF", "identity times following, image by image, then the mean"),
        Measure(
            "copy", "copy",
            "share of the reference's scene, light, accessory, place and pose that the image shows although "
            "they were not requested; less is better; 1 is the reference itself, 0 is an image of another "
            "subject", from_chance=True,
        ),
        Measure(
            "debiased", "de-biased CP x PF",
            "CP x PF times the share of the reference's context that the image leaves out, of what was not "
            "requested; a true image shares some by chance",
        ),
    )  # fmt: skip
    traits = (*scorer.IDENTITY, *scorer.TOLERANCE)

    @staticmethod
    def score_one(scene: Scene, reading: scorer.Reading) -> Numbers:
        return _score(scene, reading)

    def explain(self, cases: Sequence[Case], scores: Scores) -> list[str]:
        """Return which traits and which parts of the requested context each image lacks."""
        return [_explain(row) for row in scores.rows]


def _explain(row: Numbers) -> str:
    lost, lacking = (
        [name.replace("_", " ") for name in names if row[name] == 0]
        for names in (CritterScorer.traits, CONTEXT)
    )
    return f"traits lost: {', '.join(lost) or 'none'}; not shown: {', '.join(lacking) or 'nothing'}"


def _score(scene: Scene, reading: scorer.Reading) -> Numbers:
    traits = scorer.check_traits(scene.critter, reading)
    identity = scorer.identity(scene.critter, reading)
    context = scorer.check_context(scene.target, reading)
    following = fmean(context.values())
    copy = fmean(find_copied_parts(scene, reading).values())
    every = {name: float(traits.get(name, nan)) for name in CritterScorer.traits}
    every |= {name: float(context.get(name, nan)) for name in CONTEXT}
    return {
        "identity": identity,
        "named": fmean(value for name, value in traits.items() if name in NAMED),
        "unnamed": fmean(value for name, value in traits.items() if name not in NAMED),
        "following": following,
        "product": identity * following,
        "copy": copy,
        "debiased": identity * following * (1 - copy),
    } | every


def find_copied_parts(scene: Scene, reading: scorer.Reading) -> dict[str, bool]:
    """Return, for each part of the reference's context that was not requested, whether the image shows it."""
    reference, target, choices = scene.reference, scene.target, reading.choices
    is_posed = abs(reading.tilt - reference.tilt) <= scorer.LEAN
    # Place and pose are never requested, and an accessory counts only if the reference has one.
    parts = {"place": choices["place"] == reference.place, "pose": is_posed}
    for name in ("scene", "light"):
        if getattr(reference, name) != getattr(target, name):
            parts[name] = choices[name] == getattr(reference, name)
    accessory = (reference.accessory, reference.accessory_color)
    if reference.accessory != "none" and accessory != (target.accessory, target.accessory_color):
        parts["accessory"] = (choices["accessory"], choices["accessory_color"]) == accessory
    return parts
