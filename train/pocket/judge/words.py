"""The answers that the embedded judge is trained to give about images of known content.

An answer describes both critters, puts the two values of every part side by side and states whether they
agree; scores and verdict follow. A small model can learn this; to name the differing parts at once, it would
have to compare distant words.
"""

import numpy as np
import torch

from dsd.grids.recipes import ANSWER, CRITTERS, CRITTERS_EDIT, CRITTERS_RELIGHT
from dsd.pocket.scorer import (
    ANGLES,
    RANGES,
    TOLERANCE,
    decode_numbers,
    distance,
    encode_numbers,
    visible_numbers,
)
from dsd.pocket.words import VOCABULARY, describe_critter
from dsd.pocket.world import Context, Critter
from train.pocket.scenes import Scene

# part of the subject -> the named traits and the numbers that belong to it; all of them have words
PARTS = {
    "color": (("color",), ("hue",)),
    "shape": (("shape",), ()),
    "pattern": (("pattern",), ("accent_hue", "stripe_angle", "spot_turn")),
    "ears": (("ears",), ()),
    "eyes": (("eyes",), ("eye_size",)),
}
COUNTS = {1: "one", 2: "two", 3: "three"}
SIZES = range(60, 150, 10)  # of eyes, in percent
STEPS = {"hue": 12, "accent_hue": 30, "stripe_angle": 15, "spot_turn": 15}  # degrees between two words
# A part scores 4 within half of the scorer's tolerance, 3 within it, 2 within 1.5 times it, 1 beyond that,
# and 0 if a named trait differs.
SAME_FROM = 3
AGREE, DIFFER = "agree", "differ"
# Standard deviation of the errors in described numbers, in units of the scorer's tolerance: the judge's
# vision is not exact, and its comparison must allow for that.
MISREAD = 0.3

Numbers = dict[str, float]
TASKS = (CRITTERS_RELIGHT, CRITTERS_EDIT)


def exact(critter: Critter) -> Numbers:
    """Return the visible numbers, as the scorer would read them from a perfect image."""
    numbers = decode_numbers(torch.tensor(encode_numbers(critter)))
    return {name: numbers[name] for name in visible_numbers(critter)}


def misread(numbers: Numbers, rng: np.random.Generator) -> Numbers:
    """Return the numbers with the errors of a judge's vision."""
    units = {name: np.ptp(RANGES[name]) if name in RANGES else 1.0 for name in numbers}
    return {n: value + MISREAD * TOLERANCE[n] * units[n] * rng.normal() for n, value in numbers.items()}


def words_of_parts(critter: Critter, numbers: Numbers) -> dict[str, str]:
    """Return the words of each part: `red 0°`, `round`, `striped 60° 30°`, `long`, `two 110%`."""
    size = min(SIZES, key=lambda percent: abs(percent - 100 * numbers["eye_size"]))
    pattern = [degrees(name, numbers[name]) for name in PARTS["pattern"][1] if name in numbers]
    return {
        "color": f"{critter.color} {degrees('hue', numbers['hue'])}",
        "shape": critter.shape,
        "pattern": " ".join([critter.pattern, *pattern]),
        "ears": critter.ears,
        "eyes": f"{COUNTS[critter.eyes]} {size}%",
    }


def degrees(name: str, value: float) -> str:
    step, period = STEPS[name], 360 // ANGLES[name]
    return f"{round(value / step) * step % period}°"


def describe(words: dict[str, str]) -> str:
    """Join the words of the parts: `red 0° round critter striped 60° 30° long ears two 110% eyes`."""
    color, shape, pattern, ears, eyes = (words[part] for part in PARTS)
    return f"{color} {shape} critter {pattern} {ears} ears {eyes} eyes"


def scores(first: Critter, second: Critter) -> dict[str, int]:
    """Return a score of 0-4 for each part, over what is visible in both critters."""
    one, two = exact(first), exact(second)
    result = {}
    for part, (named, numbers) in PARTS.items():
        if any(getattr(first, name) != getattr(second, name) for name in named):
            result[part] = 0
            continue
        off = [distance(n, one[n], two[n]) / TOLERANCE[n] for n in numbers if n in one and n in two]
        result[part] = 4 - int(np.digitize(max(off, default=0.0), (0.5, 1.0, 1.5)))
    return result


def comparison(first: Critter, second: Critter, rng: np.random.Generator) -> str:
    """Return the answer to `CRITTERS.compare`; described numbers are slightly off, conclusions are true."""
    return _answer(first, second, ({}, {}), rng)


def whole_comparison(first: Scene, second: Scene, rng: np.random.Generator) -> str:
    """Return the answer to the tasks' `compare`: contexts are compared too; the verdict is the critters'."""
    return _answer(first[0], second[0], (words_of_context(first[1]), words_of_context(second[1])), rng)


def words_of_context(context: Context) -> dict[str, str]:
    worn = "none" if context.accessory == "none" else f"{context.accessory_color} {context.accessory}"
    return {"scene": context.scene, "accessory": worn, "place": context.place, "light": context.light}


def _answer(
    first: Critter, second: Critter, contexts: tuple[dict[str, str], dict[str, str]], rng: np.random.Generator
) -> str:
    before, after = contexts
    points = scores(first, second) | {part: 4 * (before[part] == after[part]) for part in before}
    one, two = (words_of_parts(critter, misread(exact(critter), rng)) for critter in (first, second))
    agreed = {part: AGREE if score >= SAME_FROM else DIFFER for part, score in points.items()}
    verdict = "different" if DIFFER in [agreed[part] for part in PARTS] else "same"
    descriptions = (" ".join([describe(one), *before.values()]), " ".join([describe(two), *after.values()]))
    one, two = one | before, two | after
    fields = (
        describe_critter(first),
        *descriptions,
        " , ".join(f"{part} {one[part]} – {two[part]} {agreed[part]}" for part in points),
        " ".join(f"{part} {score}" for part, score in points.items()),
        verdict,
    )
    return " ".join(f"{name}: {text}" for name, text in zip(ANSWER, fields, strict=True))


def task_vocabulary() -> list[str]:
    """Return the words of the tasks' questions and answers that `vocabulary` lacks, to follow it."""
    questions = [text for one in TASKS for text in (one.compare, *one.captions.values(), *one.parts)]
    return sorted({*" ".join(questions).split(), "none", "without"} - {*vocabulary()})


def vocabulary() -> list[str]:
    """Return every word that a question or an answer about the critters alone may contain."""
    questions = " ".join([CRITTERS.compare, *CRITTERS.captions.values()]).split()
    marks = [f"{name}:" for name in ANSWER] + ["same", "different", "eyes", "–", ",", AGREE, DIFFER]
    sizes = [*COUNTS.values(), *(f"{percent}%" for percent in SIZES), *map(str, range(5))]
    angles = {f"{a}°" for name, step in STEPS.items() for a in range(0, 360 // ANGLES[name], step)}
    return sorted({*VOCABULARY, *PARTS, *questions, *marks, *sizes, *angles})
