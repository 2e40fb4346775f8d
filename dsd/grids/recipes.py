"""Recipes: the wording of grids, of the judge's questions and of captions for each task.

A recipe is text, not code: another task is one more entry in `ALL`. A task has a recipe for full-size models
and, if the embedded models are taught it, a second one in the few words of the drawn world. The thresholds of
`relight` and `edit` are guesses until they are measured on full-size models.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dsd.model.presets import PRESETS

RANKER = "ranker"  # the similarity model of critters
# The judge's answer has these fields in this order, as JSON or as words with a colon.
ANSWER = ("subject", "first", "second", "differences", "scores", "verdict")
FORM = (
    "Answer with one JSON object and nothing else, in this form, with each N replaced by a score and the "
    "verdict by one of its two words:\n"
    '{{"subject": "...", "first": "...", "second": "...", "differences": "... (or none)", '
    '"scores": {{{scores}}}, "verdict": "same or different"}}'
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The wording of one task; the prompts, the judge and the captions fill in the braces."""

    name: str
    task: str = "identity"
    in_world: bool = False  # whether it is in the words of the drawn world
    pairs: str = "one subject in two places"  # what a dataset holds, for its card
    aim: str = "draws the subject of an image somewhere new"  # what a model learns from it
    layouts: tuple[tuple[int, int], ...]  # (rows, columns) of the grids that its teachers can draw
    longest: dict[str, int]  # most words in a `subject`, a `place` and a whole `prompt`
    phrasings: tuple[str, ...]  # of a grid: {count} images, {rows} by {columns}, of {subject}; {panels}
    panel: str  # of one panel: {where} in the grid, {place}
    single: str = "{subject}, {place}"  # of a panel that is drawn again by itself
    filter: str  # asks whether a reference {caption} has one clear subject, yes or no
    write: str  # asks for a subject and {count} places from a reference {caption}
    compare: str  # asks for a chain of thought about two images; `question` adds the form of the answer
    parts: tuple[str, ...]  # of the images, each scored 0-4 in the answer
    changes: tuple[str, ...] = ()  # parts of which exactly one must differ; all others must agree
    embedder: str = "judge"  # similarity model of `train.curate`, unless another is chosen
    # Fields of `Thresholds` with other defaults, for that similarity model.
    thresholds: Mapping[str, float] = field(default_factory=dict)
    captions: dict[str, str]  # mode -> question; `caption` shows the target, `instruction` both images
    looks: str | None = None  # asks for the looks of an image's subject alone
    merge: str | None = None  # asks for one prompt from an image and the user's {prompt}; None: cannot merge

    @property
    def question(self) -> str:
        """Return the question about two images; only the embedded judge needs no form to answer in."""
        scores = ", ".join(f'"{part}": N' for part in self.parts)
        return self.compare if self.in_world else f"{self.compare} {FORM.format(scores=scores)}"


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
        "(exactly); a part that the subject does not have scores 4."
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

RELIGHT = Recipe(
    name="relight",
    task="relight",
    pairs="one scene in two lights",
    aim="draws an image in another light",
    layouts=((1, 2), (2, 2), (3, 3)),
    longest={"subject": 40, "place": 12, "prompt": 240},
    phrasings=(
        "A {rows} by {columns} grid of {count} images of one unchanged scene: {subject}. The subject, its "
        "place, its pose and the framing are identical in all images; only the light differs. {panels}",
        "{count} pictures taken from one spot, arranged in a regular {rows} by {columns} grid with straight "
        "borders, of the very same {subject}. Nothing moves and nothing but the light changes. {panels}",
    ),
    panel="The {where} one: {place}.",
    filter=(
        'Here is the caption of a picture: "{caption}"\n'
        "Does it describe exactly one clear subject that could be shown in a real place, by day and by "
        "night? Answer with one word, yes or no."
    ),
    write=(
        'Here is the caption of a picture: "{caption}"\n'
        "Describe one scene from it in at most 35 words, without an article at the start: the main subject "
        "with the details by which it could be recognized, its pose, and the place around it; do not mention "
        "light, weather or time of day. Then give {count} very different lights for this scene, each in at "
        "most 8 words, with the time of day, the source and its side, such as: at night, moonlight from the "
        "left. Answer with one JSON object and nothing else, in this form, with a key for each number up to "
        '{count}:\n{{"subject": "...", "1": "...", "2": "..."}}'
    ),
    compare=(
        "You see two pictures. Decide whether they show the very same scene, apart from the light: the same "
        "subject, pose, place and framing. Name the main subject. Describe each picture in detail, the light "
        "included. List the differences. Score how well each part agrees, with a whole number from 0 (not at "
        "all) to 4 (exactly): the subject's identity, its pose, the place with everything in it, the "
        "framing, and the light (source, side, color and time of day). Judge the other parts as if the light "
        "were the same. The verdict is same if everything but the light is the same."
    ),
    parts=("identity", "pose", "place", "framing", "light"),
    changes=("light",),
    thresholds={"floor": 0.4},
    captions={
        "caption": "Describe this picture for someone who is to draw it: the subject first, then where it "
        "is, then the light: time of day, source and side. One line, at most 40 words.",
        "instruction": "The second picture shows the first one in another light. Write the request that "
        "leads from the first to the second: name only the light of the second, with time of day, source and "
        "side, such as: at night, moonlight from the left. One line, at most 15 words.",
    },
)
EDIT = Recipe(
    name="edit",
    task="edit",
    pairs="one image before and after a change",
    aim="makes one named change to an image",
    layouts=((1, 2), (2, 2)),
    longest={"subject": 40, "place": 16, "prompt": 240},
    phrasings=(
        "A {rows} by {columns} grid of {count} images of one scene: {subject}. The subject, its pose, the "
        "background, the light and the framing are identical in all images; only what is named differs. "
        "{panels}",
        "{count} versions of one picture, arranged in a regular {rows} by {columns} grid with straight "
        "borders, of the very same {subject}. Each version differs in one thing alone. {panels}",
    ),
    panel="The {where} one: {place}.",
    filter=IDENTITY.filter,
    write=(
        'Here is the caption of a picture: "{caption}"\n'
        "Describe one scene from it in at most 35 words, without an article at the start: the main subject "
        "with the details by which it could be recognized, its pose, and the place around it. Then give "
        "{count} versions of this scene, each in at most 12 words: the first without any accessory, each "
        "other one with a single change (an accessory that is worn or held, its color, or where in the "
        "picture the subject is). Answer with one JSON object and nothing else, in this form, with a key for "
        'each number up to {count}:\n{{"subject": "...", "1": "...", "2": "..."}}'
    ),
    compare=(
        "You see two pictures. Decide whether they show the very same subject in the very same scene, apart "
        "from one change. Name the main subject. Describe each picture in detail. List the differences. "
        "Score how well each part agrees, with a whole number from 0 (not at all) to 4 (exactly): the "
        "subject's identity, its pose, the background, the light, which accessories are worn, held or beside "
        "it, the colors of the accessories that are in both pictures (4 if there are none), and the "
        "subject's position in the picture. The verdict is same if it is the same subject in the same scene."
    ),
    parts=("identity", "pose", "background", "light", "accessories", "colors", "position"),
    changes=("accessories", "colors", "position"),
    thresholds={"floor": 0.7, "ceiling": 0.995},
    captions={
        "caption": "Describe this picture for someone who is to draw it: the subject first, then what it "
        "wears or holds, where it is and where in the picture. One line, at most 40 words.",
        "instruction": "The second picture is the first one with one thing changed. Write the request that "
        "leads from the first to the second, such as: give it a yellow balloon; take off the hat; make the "
        "hat blue; move it to the left. Name the one change alone. One line, at most 15 words.",
    },
)

CRITTERS = Recipe(
    name="critters",
    in_world=True,
    layouts=((1, 2), (2, 2)),
    longest={"subject": 7, "place": 6, "prompt": 40},  # its teacher reads 44 tokens
    phrasings=("{count} images of the same {subject} {panels}",),  # the only wording it was trained on
    panel="{where} {place}",
    single="a {subject} {place}",  # as in grids; single images were also taught in sentences
    filter='one critter in "{caption}" ?',
    write='places for "{caption}" ?',
    compare="compare the critters",
    parts=("color", "shape", "pattern", "ears", "eyes"),
    embedder=RANKER,
    # If the ranker is sure, critters that differ in one of the parts are at most 0.85 alike, near-copies more
    # than 0.975.
    thresholds={"floor": 0.86},
    captions={"caption": "describe the picture", "instruction": "what changes"},
)

# The embedded judge compares the images of both tasks in one way; each task draws its own conclusion.
WHOLE = (*CRITTERS.parts, "scene", "accessory", "place", "light")
CRITTERS_RELIGHT = replace(
    CRITTERS,
    name="critters-relight",
    task="relight",
    pairs=RELIGHT.pairs,
    aim=RELIGHT.aim,
    layouts=((2, 2),),  # the only one that pocket's teacher learns
    longest={"subject": 10, "place": 2, "prompt": 31},
    compare="compare the images",
    parts=WHOLE,
    changes=("light",),
    captions=CRITTERS.captions | {"instruction": "which light"},
)
CRITTERS_EDIT = replace(
    CRITTERS_RELIGHT,
    name="critters-edit",
    task="edit",
    pairs=EDIT.pairs,
    aim=EDIT.aim,
    longest={"subject": 10, "place": 5, "prompt": 43},
    changes=("accessory", "place"),
    captions=CRITTERS.captions | {"instruction": "which change"},
)

ALL = (IDENTITY, RELIGHT, EDIT, CRITTERS, CRITTERS_RELIGHT, CRITTERS_EDIT)
RECIPES = {recipe.name: recipe for recipe in ALL}
TASKS = tuple(dict.fromkeys(recipe.task for recipe in ALL))
WORLD_TASKS = tuple(dict.fromkeys(recipe.task for recipe in ALL if recipe.in_world))


def recipe_for(task: str, recipe: Recipe) -> Recipe:
    """Return the recipe of a task for the models that another recipe is worded for.

    Raise ValueError for a task that these models are not taught.
    """
    fitting = {one.task: one for one in ALL if one.in_world == recipe.in_world}
    if task not in fitting:
        remedy = "; for a task of full-size models, pass --recipe identity" if recipe.in_world else ""
        raise ValueError(f"{recipe.name} goes with the tasks {', '.join(fitting)}, got {task!r}{remedy}")
    return fitting[task]


def recipe_of(model: str) -> Recipe:
    """Return the recipe whose questions a model was made for: a preset's own, or that of full-size models."""
    return RECIPES[PRESETS[model].recipe] if model in PRESETS else IDENTITY
