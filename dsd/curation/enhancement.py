"""Prompt enhancement: one prompt that has the looks of the reference image's subject and the user's words.

A full-size model merges both, as in the paper. The embedded one, whose recipe has no question for this, can
only describe the image, so its words for the subject are put before the user's.
"""

import re
from collections.abc import Callable

from PIL import Image

from dsd.curation.captions import LONGEST, SHORTER, Count, estimate, one_line, write
from dsd.grids.recipes import IDENTITY, Recipe
from dsd.grids.writers import before_context
from dsd.vlm.answers import read_caption
from dsd.vlm.base import UnusableError, VLMError, is_refused
from dsd.vlm.open import VLM, Request
from dsd.vlm.wordings import PREFACE

POINTING = frozenset("a an the this that same it one creature critter character subject".split())
VOWEL = re.compile(r"\ba(?= [aeiou])", re.IGNORECASE)  # the embedded model learned `a orange critter`
QUOTED = 100  # characters of an answer in an error message
STRANGE = (
    "this image is unlike those that the model knows, so it cannot say what is on it: describe the subject "
    "yourself"
)


def enhance(
    vlm: VLM,
    image: Image.Image,
    prompt: str,
    recipe: Recipe = IDENTITY,
    *,
    count: Count = estimate,
    warn: Callable[[Image.Image], str | None] | None = None,
) -> str:
    """Return a prompt of at most 77 tokens, on one line, from an image and the user's words, or from none.

    Raise VLMError if the model gives none, also when it is asked once more for a shorter one. An embedded
    model's description is shortened instead, because it is put before the user's words, which are never cut.
    An embedded model describes no image that `warn` says is unlike its world: it would invent a subject.
    """
    if recipe.merge is None:
        if warn and warn(image):
            raise VLMError(STRANGE)
        return _concatenate(vlm, image, one_line(prompt), recipe, count)
    question = recipe.merge.format(prompt=one_line(prompt)) if prompt.strip() else recipe.looks
    for text in (question, f"{question} {SHORTER}"):
        answer = vlm.ask(text, [image])
        merged = "" if is_refused(answer) else _read(answer, text)
        if merged and count(merged) <= LONGEST:
            return merged
    raise UnusableError(_explain(merged, answer))


def _read(answer: str, question: str) -> str:
    """Return the prompt in an answer, without words such as `this is a photo of`."""
    return re.sub(PREFACE, "", one_line(read_caption(answer, question) or ""))


def _explain(merged: str, answer: str) -> str:
    if merged:
        return (
            f"the prompt with the subject's looks is longer than the model reads: {merged[:QUOTED]!r}. "
            "Use fewer words, or describe the subject yourself"
        )
    return (
        f"the model gave no prompt for this image, but {answer[:QUOTED]!r}: describe the subject yourself, "
        "or choose another model"
    )


def _concatenate(vlm: VLM, image: Image.Image, prompt: str, recipe: Recipe, count: Count) -> str:
    """Return the image's caption, up to its first word for a place or an action, and the user's prompt.

    If the prompt opens with the subject, in words of the description or as `it` or `the critter`, these
    words are not repeated.
    """
    (caption,) = write(vlm, [Request(recipe.captions["caption"], (image,))], count)
    description = VOWEL.sub(r"\g<0>n", before_context(caption.text)).split()
    opening = before_context(prompt)
    if set(opening.lower().split()) <= {word.lower() for word in description} | POINTING:
        prompt = prompt[len(opening) :].lstrip(" ,")
    while description and count(" ".join([*description, prompt])) > LONGEST:
        description.pop()
    return " ".join([*description, prompt]).strip()
