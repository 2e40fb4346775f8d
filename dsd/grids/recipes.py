"""Recipes: the wording of grids, of the judge's questions and of captions for each task.

A recipe is text, not code: another task, such as relighting, is one more entry in `RECIPES`. `identity` is
written for a full-size language model; `critters` asks the same of the embedded one, which knows only the
few words of the drawn world.
"""

from dataclasses import dataclass

from dsd.model.presets import PRESETS

# The judge's answer has these fields in this order, as JSON or as words with a colon.
ANSWER = ("subject", "first", "second", "differences", "scores", "verdict")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The wording of one task; the prompts, the judge and the captions fill in the braces."""

    name: str
    layouts: tuple[tuple[int, int], ...]  # (rows, columns) of the grids that its teachers can draw
    longest: dict[str, int]  # most words in a `subject`, a `place` and a whole `prompt`
    phrasings: tuple[str, ...]  # of a grid: {count} images, {rows} by {columns}, of {subject}; {panels}
    panel: str  # of one panel: {where} in the grid, {place}
    filter: str  # asks whether a reference {caption} has one clear subject, yes or no
    write: str  # asks for a subject and {count} places from a reference {caption}
    compare: str  # asks for a chain of thought about two images, in the fields of ANSWER
    parts: tuple[str, ...]  # parts of the subject, each scored 0-4 in the answer
    captions: dict[str, str]  # mode -> question; `caption` shows the target, `instruction` both images
    looks: str | None = None  # asks for the looks of an image's subject alone
    merge: str | None = None  # asks for one prompt from an image and the user's {prompt}; None: cannot merge


LOOKS = (
    "Describe the main subject of this picture by its looks: what it is, its colors, materials, clothes and "
    "marks. Leave out its place, pose, light and background."
)
IDENTITY = Recipe(
    name="identity",
    layouts=((1, 2), (2, 2), (3, 3)),
    longest={"subject": 20, "place": 16, "prompt": 240},
    phrasings=(  # the first two follow the paper's
        "A {rows} by {columns} grid of {count} images representing the same {subject}. {panels}",
        "An evenly separated {count} panels, {rows} by {columns}, depicting identical {subject}. {panels}",
        "{count} pictures of one and the same {subject}, arranged in a regular {rows} by {columns} grid with "
        "straight borders, each in a place of its own. {panels}",
    ),
    panel="The {where} one: {place}.",
    filter=(
        'Here is the caption of a picture: "{caption}"\n'
        "Does it describe exactly one clear subject (a character, an animal, an object) that could be "
        "recognized if it were shown again in another picture? Answer with one word, yes or no."
    ),
    write=(
        'Here is the caption of a picture: "{caption}"\n'
        "Name its main subject in at most 15 words, without an article, with the details by which it could "
        "be recognized; make up such details where the caption has none. Then give {count} situations to "
        "show it in, each in at most 12 words, without describing the subject again. Let them differ in "
        "place, pose, expression and light. Answer with one JSON object and nothing else, in this form, with "
        'a key for each number up to {count}:\n{{"subject": "...", "1": "...", "2": "..."}}'
    ),
    compare=(
        "You see two pictures. Decide whether they show the very same subject, not merely a similar one. "
        "Name the main subject they have in common. Describe it in each picture in detail. List the "
        "differences of the subject itself; ignore background, pose, expression, light, viewpoint and "
        "accessories. Score how well each part agrees, with a whole number from 0 (not at all) to 4 "
        "(exactly); a part that the subject does not have scores 4. Answer with one JSON object and nothing "
        "else, in this form, with each N replaced by a score and the verdict by one of its two words:\n"
        '{"subject": "...", "first": "...", "second": "...", "differences": "... (or none)", '
        '"scores": {"shape": N, "color": N, "texture": N, "face": N, "details": N}, '
        '"verdict": "same or different"}'
    ),
    parts=("shape", "color", "texture", "face", "details"),
    captions={
        "caption": "Describe this picture for someone who is to draw it: the subject first, then where it is "
        "and what it does. One line, at most 40 words.",
        "instruction": "The second picture shows the subject of the first one somewhere else. Write the "
        "request that leads from the first to the second: say what to change, not what the subject looks "
        "like. One line, at most 30 words.",
    },
    looks=f"{LOOKS} One line, at most 30 words.",
    merge=f"{LOOKS} "
    'Then show the subject as the user of an image generator asks: "{prompt}". Merge both into one prompt '
    "for the generator, keep all that the user asks for, also where the picture differs from it, and add "
    "nothing else. Answer with the prompt alone: one line, at most 40 words.",
)

CRITTERS = Recipe(
    name="critters",
    layouts=((1, 2), (2, 2)),
    longest={"subject": 7, "place": 6, "prompt": 35},  # pocket's teacher reads 36 tokens, including the end
    phrasings=("{count} images of the same {subject} {panels}",),  # the only wording it was trained on
    panel="{where} {place}",
    filter='one critter in "{caption}" ?',
    write='places for "{caption}" ?',
    compare="compare the critters",
    parts=("color", "shape", "pattern", "ears", "eyes"),
    captions={"caption": "describe the picture", "instruction": "what changes"},
)

RECIPES = {recipe.name: recipe for recipe in (IDENTITY, CRITTERS)}


def recipe_of(model: str) -> Recipe:
    """Return the recipe whose questions a model was made for: a preset's own, or that of full-size models."""
    return RECIPES[PRESETS[model].recipe] if model in PRESETS else IDENTITY
