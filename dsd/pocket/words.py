"""Captions and grid prompts for the drawn world, with one fixed wording for everything.

Only named traits and context have words; texts are short, because their tokens cost as much as an image's.
"""

from collections.abc import Collection

from dsd.pocket import world
from dsd.pocket.world import NAMED, Context, Critter

PLACE_WORDS = {
    "beach": "on the beach", "forest": "in the forest", "snow": "in the snow", "desert": "in the desert",
    "city": "in the city", "sea": "under the sea", "space": "in space", "room": "in a room",
}  # fmt: skip
SPOTS = {"left": "on the left", "centre": "in the centre", "right": "on the right"}
QUADRANTS = {2: ("left", "right"), 4: ("top left", "top right", "bottom left", "bottom right")}
LIGHT_WORDS = {  # words in a caption; none for the usual light
    "daylight": "", "overcast": "under clouds",
    **{f"sunset {side}": f"at sunset light from the {side}" for side in ("left", "right")},
    **{f"moonlight {side}": f"at night moonlight from the {side}" for side in ("left", "right")},
}  # fmt: skip
SAME = "the same critter "  # begins what the judge says of a change
USUAL = "daylight"
_OTHER = "a an the of and with in on at under same this it is critter creature character ears wearing holding"
_GRID = "2 4 images image grid panels subject left right top bottom centre sunset night day"
_LIGHT = "daylight overcast moonlight light from clouds"
_TABLES = (world.COLORS, world.SHAPES, world.PATTERNS, world.EARS, world.SCENES, world.ACCESSORIES,
           world.ACCESSORY_COLORS)  # fmt: skip
VOCABULARY = sorted({*f"{_OTHER} {_GRID} {_LIGHT}".split(), *(word for table in _TABLES for word in table)})


def describe_critter(critter: Critter, *, traits: tuple[str, ...] = NAMED) -> str:
    """Return a description by these named traits, such as `red round striped critter with long ears`."""
    named = [getattr(critter, trait) for trait in ("color", "shape", "pattern") if trait in traits]
    text = " ".join([*named, "critter"])
    return f"{text} with {critter.ears} ears" if "ears" in traits else text


def describe_context(context: Context, *, say_place: bool = False) -> str:
    """Return a description such as `wearing a blue hat on the beach under clouds`."""
    parts = [PLACE_WORDS[context.scene]]
    if context.accessory != "none":
        parts.insert(0, describe_accessory(context))
    if LIGHT_WORDS[context.light]:
        parts.append(LIGHT_WORDS[context.light])
    if say_place and context.place != "centre":
        parts.append(SPOTS[context.place])
    return " ".join(parts)


def describe_accessory(context: Context) -> str:
    verb = "wearing" if context.accessory in ("hat", "scarf") else "holding"
    return f"{verb} a {context.accessory_color} {context.accessory}"


def describe_light(light: str) -> str:
    """Return words for a light, the usual one too: `in daylight`, `at sunset light from the left`."""
    return LIGHT_WORDS[light] or "in daylight"


def describe_edit(before: Context, after: Context) -> str:
    """Return words that ask for the one thing in which two contexts differ: `holding a yellow balloon`."""
    if after.place != before.place:
        return SPOTS[after.place]
    return f"without the {before.accessory}" if after.accessory == "none" else describe_accessory(after)


def caption(critter: Critter, context: Context) -> str:
    """Return the full caption of an image."""
    return f"a {describe_critter(critter)} {describe_context(context)}"


def describe_panel(context: Context, *, say_light: bool = True, say_accessory: bool = True) -> str:
    """Return a panel's words in a grid's prompt, such as `beach red hat overcast`."""
    parts = [context.scene]
    if say_accessory and context.accessory != "none":
        parts += [context.accessory_color, context.accessory]
    if say_light and context.light != USUAL:
        parts.append(context.light)
    return " ".join(parts)


def grid_prompt(
    critter: Critter,
    contexts: list[Context],
    *,
    traits: tuple[str, ...] = NAMED,
    panels: Collection[int] | None = None,
) -> str:
    """Return the prompt of a grid of one critter in different contexts.

    `4 images of the same red round plain critter with long ears top left beach red hat top right ...`.
    `panels` holds the indices of the panels that the prompt describes; None means all.
    """
    names = QUADRANTS[len(contexts)]
    indices = range(len(contexts)) if panels is None else sorted(panels)
    words = " ".join(f"{names[i]} {describe_panel(contexts[i])}" for i in indices)
    return f"{len(contexts)} images of the same {describe_critter(critter, traits=traits)} {words}"


def relight_prompt(critter: Critter, contexts: list[Context], *, traits: tuple[str, ...] = NAMED) -> str:
    """Return the prompt of a grid whose panels differ only in light: the shared words, then each light.

    `4 images of the same red round plain critter with long ears beach red hat top left daylight ...`.
    """
    scene = describe_panel(contexts[0], say_light=False)
    return _one_scene_prompt(critter, scene, [context.light for context in contexts], traits)


def edit_prompt(critter: Critter, contexts: list[Context], *, traits: tuple[str, ...] = NAMED) -> str:
    """Return the prompt of a grid whose panels differ in the accessory or the place: the rest, then each.

    `4 images of the same red round plain critter with long ears beach top left no hat in the centre ...`.
    """
    scene = describe_panel(contexts[0], say_accessory=False)
    return _one_scene_prompt(critter, scene, describe_edit_panels(contexts), traits)


def describe_edit_panels(contexts: list[Context]) -> list[str]:
    """Return the words of each panel in a grid of edits: `red hat on the left`, `no hat in the centre`."""
    kind = next(context.accessory for context in contexts if context.accessory != "none")
    shown = [f"{c.accessory_color if c.accessory != 'none' else 'no'} {kind}" for c in contexts]
    return [f"{words} {SPOTS[context.place]}" for words, context in zip(shown, contexts, strict=True)]


def _one_scene_prompt(critter: Critter, scene: str, panels: list[str], traits: tuple[str, ...]) -> str:
    subject, names = describe_critter(critter, traits=traits), QUADRANTS[len(panels)]
    words = " ".join(f"{name} {panel}" for name, panel in zip(names, panels, strict=True))
    return f"{len(panels)} images of the same {subject} {scene} {words}"
