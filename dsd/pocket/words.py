"""What words say of the drawn world: captions, short phrases as a person types them, and grid prompts.

Only named traits and context have words. Text tokens cost a model as much as picture tokens, so all is short.
"""

from collections.abc import Collection

import numpy as np

from dsd.pocket.world import (
    ACCESSORIES,
    ACCESSORY_COLORS,
    COLORS,
    EARS,
    NAMED,
    PATTERNS,
    SCENES,
    SHAPES,
    Context,
    Critter,
)

PLACE_WORDS = {
    "beach": "on the beach", "forest": "in the forest", "snow": "in the snow", "desert": "in the desert",
    "city": "in the city", "sea": "under the sea", "space": "in space", "room": "in a room",
}  # fmt: skip
QUADRANTS = {2: ("left", "right"), 4: ("top left", "top right", "bottom left", "bottom right")}
SUBJECTS = (
    "the critter",
    "the same critter",
    "this critter",
    "it",
    "a critter",
    "the creature",
    "this character",
    "",
)
FILLERS = ("standing", "happily", "picture", "photo", "now", "please", "one", "sunny", "is")
_OTHER = "a an the of and with in on at under same this it is critter creature character ears wearing holding"
_GRID = "2 4 images image grid panels subject left right top bottom centre sunset night day"
VOCABULARY = sorted(
    {
        *_OTHER.split(),
        *_GRID.split(),
        *COLORS,
        *SHAPES,
        *PATTERNS,
        *EARS,
        *SCENES,
        *ACCESSORIES,
        *ACCESSORY_COLORS,
    }
)


def describe_critter(critter: Critter, *, traits: tuple[str, ...] = NAMED) -> str:
    """`red round striped critter with long ears`: only named traits, and of those only the ones asked for."""
    named = [getattr(critter, trait) for trait in ("color", "shape", "pattern") if trait in traits]
    text = " ".join([*named, "critter"])
    return f"{text} with {critter.ears} ears" if "ears" in traits else text


def describe_context(context: Context, *, say_place: bool = False, place_first: bool = False) -> str:
    """`wearing a blue hat on the beach at night`."""
    parts = [PLACE_WORDS[context.scene]]
    if context.accessory != "none":
        verb = "wearing" if context.accessory in ("hat", "scarf") else "holding"
        parts.insert(1 if place_first else 0, f"{verb} a {context.accessory_color} {context.accessory}")
    if context.light != "day":
        parts.append(f"at {context.light}")
    if say_place and context.place != "centre":
        parts.append(f"on the {context.place}")
    return " ".join(parts)


def caption(critter: Critter, context: Context) -> str:
    """What a picture shows, in full."""
    return f"a {describe_critter(critter)} {describe_context(context)}"


def phrase(critter: Critter, context: Context, rng: np.random.Generator, *, describe: float = 0.8) -> str:
    """The caption as people vary it: traits left out, another order, a word nobody taught the model.

    `describe` is the share of phrases that name the critter's traits; the rest say `it` or `the critter`.
    """
    traits = NAMED if rng.random() < 0.7 else tuple(t for t in NAMED if rng.random() < 0.5)
    subject = (
        f"a {describe_critter(critter, traits=traits)}"
        if rng.random() < describe
        else str(rng.choice(SUBJECTS))
    )
    say, first = rng.random() < 0.3, rng.random() < 0.3
    words = f"{subject} {describe_context(context, say_place=say, place_first=first)}".split()
    if rng.random() < 0.15:
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(FILLERS)))
    return " ".join(words)


def _panel_words(context: Context) -> str:
    words = [context.scene]
    if context.accessory != "none":
        words.append(f"{context.accessory_color} {context.accessory}")
    if context.light != "day":
        words.append(context.light)
    return " ".join(words)


def grid_prompt(
    critter: Critter,
    contexts: list[Context],
    *,
    traits: tuple[str, ...] = NAMED,
    said: Collection[int] | None = None,
) -> str:
    """`4 images of the same red round plain critter with long ears top left beach red hat top right ...`.

    `said` are the panels that the words place; None: all.
    """
    places = list(zip(QUADRANTS[len(contexts)], contexts, strict=True))
    words = [f"{name} {_panel_words(c)}" for i, (name, c) in enumerate(places) if said is None or i in said]
    return f"{len(contexts)} images of the same {describe_critter(critter, traits=traits)} {' '.join(words)}"
