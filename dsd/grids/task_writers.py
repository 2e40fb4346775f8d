"""Writers of one scene in several lights, or with one thing changed, without a language model.

A scene is the subject of a grid, and its lights or its versions are the places. The grammars cover the drawn
world, in the wording that pocket's teacher is taught. The templates take the whole caption as the scene.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from dsd.grids import writers
from dsd.grids.writers import Draft, Unusable, Written
from dsd.pocket import words
from dsd.pocket.world import LIGHTS, Context, sample_context, sample_edits

SCENE_LIGHTS = (
    "at noon, clear sunlight from above", "at sunset, warm light from the left",
    "at sunset, warm light from the right", "at night, moonlight from the left",
    "at night, moonlight from the right", "under an overcast sky, soft even light",
    "in fog, pale diffuse light", "at night, under neon lights", "at dawn, pink light from behind",
    "by candlelight from the right", "under a single spotlight from above", "in blue twilight after sunset",
)  # fmt: skip
THINGS = ("wearing a {} hat", "wearing a {} scarf", "holding a {} balloon", "holding a {} flag",
          "wearing {} glasses", "with a {} backpack", "with a {} ribbon", "beside a {} ball")  # fmt: skip
COLORS = ("red", "blue", "yellow", "green", "white", "black")
BARE, SIDES = "without any accessory", ("at the left edge", "at the right edge")
_LIGHT = re.compile(
    r"(?i)\b(night|midnight|dusk|dawn|sun\w*|moon\w*|day\w*|noon|morning|evening|twilight|light\w*|lit|neon"
    r"|lamp\w*|candle\w*|dark|fog\w*|cloudy|overcast|shadows?)\b"
)


def relight_grammar(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: the critter that it names in one drawn scene, in `count` lights."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        scene = words.describe_panel(sample_context(rng), say_light=False)
        return f"{writers.name_critter(caption)} {scene}", rng.permutation(LIGHTS)[:count].tolist()

    return writers.write_drafts(captions, write, seed)


def edit_grammar(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: the critter that it names in one drawn scene, in `count` versions."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        contexts = sample_edit_panels(rng, count)
        scene = words.describe_panel(contexts[0], say_accessory=False)
        return f"{writers.name_critter(caption)} {scene}", words.describe_edit_panels(contexts)

    return writers.write_drafts(captions, write, seed)


def sample_edit_panels(rng: np.random.Generator, count: int) -> list[Context]:
    """Draw a context and its edits in random order; two of six pairs differ in two things."""
    context = sample_context(rng)
    contexts = [context, *sample_edits(context, rng)]
    return [contexts[index] for index in rng.permutation(len(contexts))[:count]]


def relight_template(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: its scene, which may not name a light, in lights from a fixed list."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        if _LIGHT.search(caption):
            raise Unusable("names a light")
        return read_scene(caption), rng.permutation(SCENE_LIGHTS)[:count].tolist()

    return writers.write_drafts(captions, write, seed)


def edit_template(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: its scene bare, with an accessory in two colors, and moved."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        thing, (color, other) = str(rng.choice(THINGS)), rng.permutation(COLORS)[:2]
        versions = [BARE, thing.format(color), thing.format(other), f"{BARE}, {rng.choice(SIDES)}"]
        return read_scene(caption), versions[:count]

    return writers.write_drafts(captions, write, seed)


def read_scene(caption: str) -> str:
    """Return the subject of a caption with the rest of it; raise Unusable if it has no single subject."""
    writers.extract_subject(caption)
    return writers.extract_scene(caption).rstrip(". ")


WITHOUT_MODEL = {  # recipe -> the writer when no model is given
    "identity": writers.template, "relight": relight_template, "edit": edit_template,
    "critters": writers.grammar, "critters-relight": relight_grammar, "critters-edit": edit_grammar,
}  # fmt: skip
