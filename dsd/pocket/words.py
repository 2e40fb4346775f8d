"""Captions and grid prompts for the drawn world, with one fixed wording for everything.

Only named traits and context have words. Text tokens cost a model as much as image tokens, so the
texts are short.
"""

from collections.abc import Collection

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
LIGHT_WORDS = {  # words in a caption; none for the usual light
    "daylight": "", "overcast": "under clouds", "day": "", "sunset": "at sunset", "night": "at night",
    **{f"sunset {side}": f"at sunset light from the {side}" for side in ("left", "right")},
    **{f"moonlight {side}": f"at night moonlight from the {side}" for side in ("left", "right")},
}  # fmt: skip
USUAL = ("day", "daylight")
_OTHER = "a an the of and with in on at under same this it is critter creature character ears wearing holding"
_GRID = "2 4 images image grid panels subject left right top bottom centre sunset night day"
_LIGHT = "daylight overcast moonlight light from clouds"
VOCABULARY = sorted(
    {
        *_OTHER.split(),
        *_GRID.split(),
        *_LIGHT.split(),
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
    """Return a description such as `red round striped critter with long ears`.

    It mentions only named traits, and of those only `traits`.
    """
    named = [getattr(critter, trait) for trait in ("color", "shape", "pattern") if trait in traits]
    text = " ".join([*named, "critter"])
    return f"{text} with {critter.ears} ears" if "ears" in traits else text


def describe_context(context: Context, *, say_place: bool = False) -> str:
    """Return a description such as `wearing a blue hat on the beach at night`."""
    parts = [PLACE_WORDS[context.scene]]
    if context.accessory != "none":
        verb = "wearing" if context.accessory in ("hat", "scarf") else "holding"
        parts.insert(0, f"{verb} a {context.accessory_color} {context.accessory}")
    if LIGHT_WORDS[context.light]:
        parts.append(LIGHT_WORDS[context.light])
    if say_place and context.place != "centre":
        parts.append(f"on the {context.place}")
    return " ".join(parts)


def caption(critter: Critter, context: Context) -> str:
    """Return the full caption of an image."""
    return f"a {describe_critter(critter)} {describe_context(context)}"


def _panel_words(context: Context) -> str:
    words = [context.scene]
    if context.accessory != "none":
        words.append(f"{context.accessory_color} {context.accessory}")
    if context.light not in USUAL:
        words.append(context.light)
    return " ".join(words)


def grid_prompt(
    critter: Critter,
    contexts: list[Context],
    *,
    traits: tuple[str, ...] = NAMED,
    said: Collection[int] | None = None,
) -> str:
    """Return the prompt of a grid of one critter in different contexts.

    `4 images of the same red round plain critter with long ears top left beach red hat top right ...`.
    `said` holds the indices of the panels that the prompt describes; None means all.
    """
    places = list(zip(QUADRANTS[len(contexts)], contexts, strict=True))
    words = [f"{name} {_panel_words(c)}" for i, (name, c) in enumerate(places) if said is None or i in said]
    return f"{len(contexts)} images of the same {describe_critter(critter, traits=traits)} {' '.join(words)}"


def relight_prompt(critter: Critter, contexts: list[Context], *, traits: tuple[str, ...] = NAMED) -> str:
    """Return the prompt of a grid whose panels differ only in light: the shared words, then each light.

    `4 images of the same red round plain critter with long ears beach red hat top left daylight ...`.
    """
    first = contexts[0]
    shared = (
        first.scene
        if first.accessory == "none"
        else f"{first.scene} {first.accessory_color} {first.accessory}"
    )
    lights = [
        f"{name} {context.light}" for name, context in zip(QUADRANTS[len(contexts)], contexts, strict=True)
    ]
    subject = describe_critter(critter, traits=traits)
    return f"{len(contexts)} images of the same {subject} {shared} {' '.join(lights)}"
