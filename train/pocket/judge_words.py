"""What the embedded judge is taught to say of pictures whose truth is known, in the recipe's own form.

Every answer is a function of two critters: the description names what a caption would, and the exact hue,
angle and eye size in coarse steps, so that learning to describe is learning to look.
"""

import numpy as np
import torch

from dsd.pocket.scorer import TOLERANCE, decode_numbers, distance, encode_numbers, visible_numbers
from dsd.pocket.words import VOCABULARY, describe_context, describe_critter
from dsd.pocket.world import Context, Critter
from dsd.recipes import ANSWER, CRITTERS

# part of the subject -> the named traits and the numbers that belong to it
PARTS = {
    "color": (("color",), ("hue",)),
    "shape": (("shape",), ("aspect",)),
    "pattern": (("pattern",), ("accent_hue", "stripe_angle", "spot_turn")),
    "ears": (("ears",), ()),
    "eyes": (("eyes",), ("eye_size",)),
}
COUNTS = {1: "one", 2: "two", 3: "three"}
HUE_STEP, TURN_STEP = 12, 15  # degrees
# A part scores 4 within half of what the scorer tolerates, 3 within it, 2 within 1.5 times it, 1 beyond, 0
# where the kind is another.
SAME_FROM = 3


def degrees(value: float, step: int, period: int) -> str:
    return f"{round(value / step) * step % period}°"


def describe(critter: Critter) -> str:
    """`red 0° round critter two large eyes long ears striped 30°`."""
    size = ("small", "medium", "large")[int(np.digitize(critter.eye_size, (0.95, 1.10)))]
    numbers = exact(critter)
    words = [critter.color, degrees(critter.hue, HUE_STEP, 360), critter.shape, "critter"]
    words += [COUNTS[critter.eyes], size, "eyes", critter.ears, "ears", critter.pattern]
    if critter.pattern == "striped":
        words.append(degrees(numbers["stripe_angle"], TURN_STEP, 180))
    if critter.pattern == "spotted":
        words.append(degrees(numbers["spot_turn"], TURN_STEP, 90))
    return " ".join(words)


def exact(critter: Critter) -> dict[str, float]:
    """The numbers of a critter as the scorer would read them from a perfect picture."""
    return decode_numbers(torch.tensor(encode_numbers(critter)))


def scores(first: Critter, second: Critter) -> dict[str, int]:
    """0-4 for each part, over what can be seen in both."""
    seen = set(visible_numbers(first)) & set(visible_numbers(second))
    one, two = exact(first), exact(second)
    result = {}
    for part, (named, numbers) in PARTS.items():
        if any(getattr(first, name) != getattr(second, name) for name in named):
            result[part] = 0
            continue
        off = [distance(name, one[name], two[name]) / TOLERANCE[name] for name in numbers if name in seen]
        result[part] = 4 - int(np.digitize(max(off, default=0.0), (0.5, 1.0, 1.5)))
    return result


def comparison(first: Critter, second: Critter) -> str:
    """The whole answer to `CRITTERS.compare`."""
    given = scores(first, second)
    different = [part for part, score in given.items() if score < SAME_FROM]
    fields = (
        describe_critter(first),
        describe(first),
        describe(second),
        " ".join(different) or "none",
        " ".join(f"{part} {score}" for part, score in given.items()),
        "different" if different else "same",
    )
    return " ".join(f"{name}: {text}" for name, text in zip(ANSWER, fields, strict=True))


def caption(critter: Critter, context: Context) -> str:
    return f"a {describe_critter(critter)} {describe_context(context)}"


def instruction(context: Context) -> str:
    return f"the same critter {describe_context(context)}"


def vocabulary() -> list[str]:
    """Every word that a question or an answer may hold."""
    asked = " ".join([CRITTERS.compare, *CRITTERS.captions.values()]).split()
    marks = [f"{name}:" for name in ANSWER] + ["none", "same", "different", "eyes", *map(str, range(5))]
    sizes = [*COUNTS.values(), "small", "medium", "large"]
    angles = {f"{a}°" for a in (*range(0, 360, HUE_STEP), *range(0, 180, TURN_STEP))}
    return sorted({*VOCABULARY, *PARTS, *asked, *marks, *sizes, *angles})
