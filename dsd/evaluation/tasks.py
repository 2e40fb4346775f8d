"""Relighting and edits of held-out critters: whether the named change is there, and whether the rest is kept.

The set is a function of its seed, as in `dsd.evaluation.critters`. The target differs from the reference in
one thing, which the prompt names: its light, its accessory or its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from statistics import fmean

import numpy as np
from PIL import Image

from dsd.evaluation.critters import STREAM, CritterScorer, Reader, Scene
from dsd.evaluation.scores import Case, Draw, Measure, Numbers, Scores
from dsd.grids.recipes import EDIT, RELIGHT
from dsd.pocket import light, scorer
from dsd.pocket.draw import draw
from dsd.pocket.words import describe_context, describe_critter, describe_edit, describe_light
from dsd.pocket.world import LIGHTS, Context, sample_context, sample_critter, sample_edits

PROMPTS = 3  # of each critter, at most, unless told otherwise
PARTS = ("scene", "light", "place", "accessory")  # of a context, besides the pose


def _relight(context: Context, rng: np.random.Generator) -> list[Context]:
    others = [name for name in LIGHTS if name != context.light]
    return [replace(context, light=str(name)) for name in rng.permutation(others)]


TARGETS: dict[str, Callable[[Context, np.random.Generator], list[Context]]] = {
    RELIGHT.task: _relight, EDIT.task: sample_edits,
}  # fmt: skip


def task_cases(
    task: str, seed: int = 0, subjects: int = 200, prompts: int | None = None, *, size: int | None = None
) -> list[Case]:
    """Return `subjects` x `prompts` cases of held-out critters; raise ValueError for too few or too many.

    By default the prompts are three.
    """
    cases = []
    for index in range(subjects):
        rng = np.random.default_rng((STREAM, seed, index, list(TARGETS).index(task)))
        critter, context = sample_critter(rng, held_out=True), sample_context(rng)
        targets, image = TARGETS[task](context, rng), draw(critter, context, size)
        if prompts is not None and not 1 <= prompts <= len(targets):
            raise ValueError(f"prompts of the task {task} must be in 1..{len(targets)}, got {prompts}")
        for turn, target in enumerate(targets[: prompts or PROMPTS]):
            scene = Scene(critter=critter, reference=context, target=target)
            cases.append(_make_case(scene, f"{index:04d}", 1000 * index + turn, image))
    return cases


def _make_case(scene: Scene, subject: str, seed: int, reference: Image.Image) -> Case:
    before, after = scene.reference, scene.target
    is_relit = after.light != before.light
    return Case(
        subject=subject,
        reference=reference,
        prompt=describe_light(after.light) if is_relit else describe_edit(before, after),
        caption=f"a {describe_critter(scene.critter)} {describe_context(after, say_place=True)}",
        seed=seed,
        truth=draw(scene.critter, after, reference.width),
        facts=scene,
    )


class TaskScorer(Reader):
    """Scorer of tasks: the named change, the rest of the context, and the identity of the critter.

    Beside the critter's traits, a row has a number for each part of the context, NaN for what changes.
    """

    measures = (
        Measure("changed", "change is there", "share of images that show the named change"),
        Measure("kept", "rest is kept", "share of the context's other parts that the image keeps"),
        Measure(
            "identity", "identity (CP)", "share of the visible traits that the image keeps", is_identity=True
        ),
        Measure("right", "all right", "share of images with the change and all other parts of the context"),
    )
    traits = (*PARTS, "pose", *CritterScorer.traits)

    @staticmethod
    def score_one(scene: Scene, reading: scorer.Reading) -> Numbers:
        return _score(scene, reading)

    def explain(self, cases: Sequence[Case], scores: Scores) -> list[str]:
        """Return whether each image shows the named change, and which parts and traits it lost."""
        return [_explain(row) for row in scores.rows]


def _explain(row: Numbers) -> str:
    lost = [name.replace("_", " ") for name in TaskScorer.traits if row[name] == 0]
    shown = "is there" if row["changed"] else "is missing"
    return f"the change {shown}; lost: {', '.join(lost) or 'nothing'}"


def _score(scene: Scene, reading: scorer.Reading) -> Numbers:
    named, kept = split_parts(scene, reading)
    parts = kept | scorer.check_traits(scene.critter, reading)
    numbers = {
        "changed": all(named.values()),
        "kept": fmean(kept.values()),
        "identity": scorer.identity(scene.critter, reading),
        "right": all([*named.values(), *kept.values()]),
    } | {name: parts.get(name, nan) for name in TaskScorer.traits}
    return {name: float(value) for name, value in numbers.items()}


def split_parts(scene: Scene, reading: scorer.Reading) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return whether the image shows each part of the target: those that were named, then the rest."""
    before, target, choices = scene.reference, scene.target, reading.choices
    shown = {part: choices[part] == getattr(target, part) for part in PARTS}
    if target.accessory != "none":
        shown["accessory"] &= choices["accessory_color"] == target.accessory_color
    shown["pose"] = abs(reading.tilt - target.tilt) <= scorer.LEAN
    named = {part for part in PARTS if getattr(target, part) != getattr(before, part)}
    if target.accessory_color != before.accessory_color:
        named.add("accessory")
    asked = {part: ok for part, ok in shown.items() if part in named}
    return asked, {part: ok for part, ok in shown.items() if part not in named}


def by_multiplying(cases: Sequence[Case]) -> Draw:
    """Return a baseline for relighting: each reference times the ratio of both lights' colors."""
    lights = {case.seed: (case.facts.reference.light, case.facts.target.light) for case in cases}

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return [_multiply(image, *lights[seed]) for image, seed in zip(references, seeds, strict=True)]

    return draw


def _multiply(image: Image.Image, before: str, after: str) -> Image.Image:
    gain = np.divide(light.BY_NAME[after].rgb, light.BY_NAME[before].rgb)  # [3]
    pixels = np.asarray(image.convert("RGB")) * gain  # [h, w, 3]
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
