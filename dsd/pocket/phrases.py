"""Prompts as people type them, with synonyms, any word order and small mistakes.

`dsd.pocket.words` has one wording for everything; this module has many, and the models learn from them.
"""

import numpy as np

from dsd.pocket import words
from dsd.pocket.words import USUAL
from dsd.pocket.world import NAMED, Context, Critter

PLACES = {
    "beach": ("on the beach", "at the beach", "at the seaside", "on the shore", "by the coast",
              "on the sand"),
    "forest": ("in the forest", "in the woods", "among the trees", "between the trees", "in a wood"),
    "snow": ("in the snow", "on the snow", "in winter", "in a snowy landscape", "in the snowy mountains"),
    "desert": ("in the desert", "on a dune", "in the dunes", "by a cactus", "near a cactus"),
    "city": ("in the city", "in the town", "in town", "on the street", "downtown", "in front of buildings"),
    "sea": ("under the sea", "in the sea", "underwater", "in the ocean", "under water", "in the deep ocean"),
    "space": ("in space", "in outer space", "among the stars", "near a planet", "in the galaxy"),
    "room": ("in a room", "at home", "indoors", "inside the house", "in the bedroom", "by the window"),
}  # fmt: skip
ACCESSORIES = {
    "hat": (("wearing", "with", "in", "has"), ("hat", "cap", "top hat")),
    "scarf": (("wearing", "with", "in", "has"), ("scarf", "shawl", "neck scarf")),
    "balloon": (("holding", "with", "carrying", "has"), ("balloon", "party balloon", "ballon")),
    "flag": (("holding", "with", "carrying", "waving"), ("flag", "banner", "pennant")),
}
SUNSET = ("at sunset", "at dusk", "in the evening", "in the evening sun")
NIGHT = ("at night", "at midnight", "in the dark", "in moonlight", "under the moon")
SUN_FROM = ("light from the {}", "sun from the {}", "lit from the {}", "sun on the {}",
            "sunlight from the {}")  # fmt: skip
MOON_FROM = ("moonlight from the {}", "moon from the {}", "lit from the {}", "moon on the {}")
DAY = ("by day", "in daylight", "at noon", "on a sunny day", "in the sun", "in the morning")
CLOUDS = ("under clouds", "on a cloudy day", "under an overcast sky", "in grey weather", "on a gray day")
LIGHTS = {"daylight": DAY, "overcast": CLOUDS}
SIDES = {
    "left": ("on the left", "to the left", "at the left side", "on the left side"),
    "right": ("on the right", "to the right", "at the right side", "on the right side"),
    "centre": ("in the centre", "in the middle", "in the center"),
}
OTHER_WORDS = {
    "red": ("crimson", "scarlet", "ruby"), "orange": ("tangerine", "carrot"), "yellow": ("golden", "lemon"),
    "green": ("emerald", "lime"), "teal": ("turquoise", "cyan"), "blue": ("navy", "azure"),
    "purple": ("violet", "lilac"), "pink": ("rose", "rosy", "magenta"), "white": ("snowy", "pale"),
    "black": ("dark", "coal"), "round": ("circular", "ball-shaped"), "tall": ("slim", "egg-shaped", "oval"),
    "boxy": ("square", "cubic", "blocky"), "pointy": ("triangular", "pointed"),
    "plain": ("solid", "simple"), "striped": ("stripy", "stripey", "lined"), "spotted": ("dotted", "spotty"),
}  # fmt: skip
NOUNS = ("critter", "monster", "creature", "character", "animal", "little monster", "fellow", "guy", "being")
SUBJECTS = (
    "the critter", "the same critter", "this critter", "it", "a critter", "the creature", "this character",
    "my monster", "the monster", "my critter", "our friend", "she", "he", "they", "her", "him", "the subject",
    "", "the same one", "this one", "my character", "the little guy",
)  # fmt: skip
FILLERS = (
    "standing", "happily", "picture", "photo", "now", "please", "one", "is", "sitting", "smiling", "nice",
    "cute", "very", "playing", "walking", "a photo of", "a picture of", "drawing of", "show", "draw", "put",
    "make", "there", "beautiful", "funny", "looking", "happy", "and", "please draw", "living", "goes",
)  # fmt: skip
EARS, NO_EARS = ("with {} ears", "{} ears", "and {} ears"), ("with no ears", "without ears", "no ears")
SAID_AS_TAUGHT = 0.3  # share of phrases with the words and order of `dsd.pocket.words`
OTHER_WORD, MISSPELLED, NO_ARTICLES, FILLED = 0.4, 0.01, 0.15, 0.25


def phrase(critter: Critter, context: Context, rng: np.random.Generator, *, describe: float = 0.8) -> str:
    """Return a random prompt for a critter in a context, worded as people type it.

    `describe` is the share of phrases that name the critter's traits; the rest say `it` or `my monster`.
    """
    described = rng.random() < describe
    traits = NAMED if rng.random() < 0.7 else tuple(trait for trait in NAMED if rng.random() < 0.5)
    if rng.random() < SAID_AS_TAUGHT:
        subject = f"a {words.describe_critter(critter, traits=traits)}" if described else _one(SUBJECTS, rng)
        return f"{subject} {words.describe_context(context, say_place=rng.random() < 0.3)}".strip()
    parts = [_accessory(context, rng), _one_or_first(PLACES[context.scene], rng), _light(context.light, rng)]
    parts = list(filter(None, parts))
    if rng.random() < (0.1 if context.place == "centre" else 0.3):
        parts.append(_one(SIDES[context.place], rng))
    rng.shuffle(parts)
    subject = _subject(critter, traits, rng) if described else _one(SUBJECTS, rng)
    parts.insert(0 if rng.random() < 0.85 else len(parts), subject)
    return _type(" ".join(parts).split(), rng)


def _one(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _one_or_first(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return _one(choices, rng) if rng.random() < OTHER_WORD else choices[0]


def _other(word: str, rng: np.random.Generator) -> str:
    return _one(OTHER_WORDS[word], rng) if word in OTHER_WORDS and rng.random() < OTHER_WORD else word


def _subject(critter: Critter, traits: tuple[str, ...], rng: np.random.Generator) -> str:
    """Return a subject such as `a rosy boxy monster with pointy ears`, with the adjectives in any order."""
    adjectives = [_other(getattr(critter, n), rng) for n in ("color", "shape", "pattern") if n in traits]
    if rng.random() < 0.3:
        rng.shuffle(adjectives)
    subject = " ".join(["a", *adjectives, _one_or_first(NOUNS, rng)])
    if "ears" not in traits:
        return subject
    endings = NO_EARS if critter.ears == "no" else EARS
    return f"{subject} {_one(endings, rng).format(critter.ears)}"


def _accessory(context: Context, rng: np.random.Generator) -> str:
    if context.accessory == "none":
        return ""
    verbs, nouns = ACCESSORIES[context.accessory]
    verb, noun = _one_or_first(verbs, rng), _one_or_first(nouns, rng)
    return f"{verb} a {_other(context.accessory_color, rng)} {noun}"


def _light(light: str, rng: np.random.Generator) -> str:
    """Return words for a light, usually none for daylight."""
    if light == USUAL and rng.random() < 0.7:
        return ""
    if light in LIGHTS:
        return _one(LIGHTS[light], rng)
    kind, _, side = light.partition(" ")
    when, whence = (SUNSET, SUN_FROM) if kind == "sunset" else (NIGHT, MOON_FROM)
    first = _one_or_first(when, rng)
    return first if rng.random() < 0.25 else f"{first} {_one(whence, rng).format(side)}"


def _type(parts: list[str], rng: np.random.Generator) -> str:
    """Return the words as one text, with the additions, omissions and typos of real users."""
    if rng.random() < NO_ARTICLES:
        parts = [word for word in parts if word not in ("a", "an", "the")]
    if rng.random() < FILLED:
        parts.insert(int(rng.integers(len(parts) + 1)), _one(FILLERS, rng))
    return " ".join(_misspell(word, rng) if rng.random() < MISSPELLED else word for word in parts)


def _misspell(word: str, rng: np.random.Generator) -> str:
    """Return the word with two letters swapped, one doubled or one omitted."""
    if len(word) < 4:
        return word
    i = int(rng.integers(1, len(word) - 1))
    start, letter, end = word[:i], word[i], word[i + 1 :]
    return _one((start + end[0] + letter + end[1:], start + letter + letter + end, start + end), rng)


def _vocabulary() -> list[str]:
    groups = (
        *PLACES.values(), *(group for pair in ACCESSORIES.values() for group in pair), *LIGHTS.values(),
        *SIDES.values(), *OTHER_WORDS.values(), SUNSET, NIGHT, SUN_FROM, MOON_FROM, NOUNS, SUBJECTS, FILLERS,
    )  # fmt: skip
    text = " ".join(text for group in groups for text in group).replace("{}", "left").replace("-", " ")
    return sorted({*words.VOCABULARY, *text.split(), "without"})


VOCABULARY = _vocabulary()  # every word that the models are trained on, correctly spelled
