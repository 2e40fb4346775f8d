"""Captions and edit instructions for the kept pairs, and prompt enhancement.

Each text is one line of at most 77 tokens, the limit of the FLUX family's CLIP. If a text is empty or too
long, the model is asked once more for a shorter one; a text that is still too long is cut at a word and
flagged. If the model returns no text, the grid's own words are used and `writer` is `grid`.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from PIL import Image

from dsd.curation.judge import open_panels, recipe_named
from dsd.files import hub
from dsd.files.jsonl import Row
from dsd.grids.recipes import Recipe
from dsd.vlm.open import VLM, Request

GRID = "grid"  # writer of captions that come from the grid's own prompt
LONGEST = 77  # tokens, including the start and end tokens
SHORTER = "Answer shorter: one line of at most 25 words."
CONTEXT = re.compile(
    r"[,.;:!?()]|\b(wearing|holding|carrying|in|on|at|under|by|near|beside|behind|against|during|while"
    r"|standing|sitting|lying|walking|running|flying|swimming|playing|looking|is|as|inside|outside|among)\b",
    re.IGNORECASE,
)
POINTING = frozenset("a an the this that same it one creature critter character subject".split())
Count = Callable[[str], int]


# ---------------------------------------------------------------- text length


def estimate(text: str) -> int:
    """Return an estimate of a text's CLIP tokens, on the high side, without the vocabulary.

    CLIP first splits a text into words, single digits and runs of other characters, then splits rare words
    into pieces. The estimate counts one piece for every four letters of a word, rounded up, although common
    English words of any length are a single piece.
    """
    pieces = re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text)
    return 2 + sum(math.ceil(len(piece) / 4) for piece in pieces)


def counter(tokenizer: str | Path | None) -> Count:
    """Return a token counter: the tokenizer in a folder or of a hub id, or `estimate` for None.

    Raise LoadError if there is no such tokenizer.
    """
    if tokenizer is None:
        return estimate
    from transformers import AutoTokenizer  # imported here because it takes seconds

    hub.check_source(tokenizer, weights=False)
    with hub.explained(str(tokenizer), [str(tokenizer)]):
        known = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
    return lambda text: len(known(text, verbose=False)["input_ids"])


def tokenizer_of(base: str | Path) -> Path | None:
    """Return the folder of a pipeline's CLIP tokenizer, or None if it is not on this machine.

    The folder is in the pipeline itself or in the local hub cache; nothing is downloaded.
    """
    if (folder := Path(base) / "tokenizer").is_dir():
        return folder
    if not hub.ID.fullmatch(str(base)):
        return None
    cached = try_to_load_from_cache(str(base), "tokenizer/tokenizer_config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def cut(text: str, count: Count, longest: int = LONGEST) -> str:
    """Return the text, or as many of its first words as fit into `longest` tokens."""
    words = text.split()
    fits = bisect_right(range(len(words) + 1), longest, key=lambda n: count(" ".join(words[:n]))) - 1
    return " ".join(words[: max(fits, 0)])


# ---------------------------------------------------------------- the captions of a run


def caption_grids(
    grids: list[Row], *, run: Path, vlm: VLM, count: Count = estimate, recipe: str | None = None
) -> list[Row]:
    """Return rows of `captions.jsonl`: two per kept pair, with either panel as the target.

    Each grid is a row of `grids.jsonl` with `kept`, the (first, second) of its kept pairs. A target image is
    described once, even if it is in several pairs. `recipe` None means each grid's own recipe.
    """
    work = [
        _questions(grid, open_panels(run, grid), recipe_named(recipe or grid["recipe"])) for grid in grids
    ]
    requests = {key: request for one in work for key, request in one.items()}
    texts = dict(zip(requests, write(vlm, list(requests.values()), count), strict=True))
    return [_row(grid, pair, texts, vlm.name, count) for grid in grids for pair in _orders(grid["kept"])]


def _orders(kept: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (conditioning, target) in both orders."""
    return [order for first, second in kept for order in ((first, second), (second, first))]


def _questions(grid: Row, panels: list[Image.Image], recipe: Recipe) -> dict[tuple, Request]:
    """Return the requests for one grid by key.

    The keys are (grid_id, target) for a description and (grid_id, conditioning, target) for a change.
    """
    orders, grid_id = _orders(grid["kept"]), grid["id"]
    asked = {(grid_id, b): Request(recipe.captions["caption"], (panels[b],)) for _, b in orders}
    changes = {
        (grid_id, a, b): Request(recipe.captions["instruction"], (panels[a], panels[b])) for a, b in orders
    }
    return asked | changes


def _row(grid: Row, order: tuple[int, int], texts: dict, writer: str, count: Count) -> Row:
    grid_id, (first, target) = grid["id"], order
    said = {"caption": texts[grid_id, target], "instruction": texts[grid_id, first, target]}
    if not all(text for text, _ in said.values()):
        said, writer = {mode: fitted(text, count) for mode, text in grid_words(grid, target).items()}, GRID
    texts = {mode: text for mode, (text, _) in said.items()}
    return {
        "id": f"{grid_id}-{first}-{target}",
        **texts,
        "cut": any(cut for _, cut in said.values()),
        "writer": writer,
    }


def grid_words(grid: Row, target: int) -> dict[str, str]:
    """Return the words that the grid's prompt has for a panel.

    They say what was requested, which the teacher may not have drawn.
    """
    subject, place = grid["subject"], grid["places"][target]
    article = "" if subject.lower().startswith(("a ", "an ", "the ")) else "a "
    return {"caption": f"{article}{subject} {place}", "instruction": place}


def write(vlm: VLM, requests: list[Request], count: Count = estimate) -> list[tuple[str, bool]]:
    """Return one line per request and whether it was cut; the line is "" if the model returns no text.

    Requests with an empty or too long answer are asked once more.
    """
    texts = [line(text) for text in vlm.ask_many(requests)]
    again = [i for i, text in enumerate(texts) if not text or count(text) > LONGEST]
    shorter = (replace(requests[i], question=f"{requests[i].question} {SHORTER}") for i in again)
    for i, text in zip(again, map(line, vlm.ask_many(shorter)), strict=True):
        texts[i] = text or texts[i]
    return [fitted(text, count) for text in texts]


def line(text: str) -> str:
    return " ".join(text.split())


def fitted(text: str, count: Count) -> tuple[str, bool]:
    """Return the text, cut to at most 77 tokens, and whether it was cut."""
    return (text, False) if count(text) <= LONGEST else (cut(text, count), True)


# ---------------------------------------------------------------- prompt enhancement for the Generate tab


def enhance(vlm: VLM, image: Image.Image, prompt: str, recipe: Recipe, *, count: Count = estimate) -> str:
    """Return the user's prompt after a description of the image's subject; one line, at most 77 tokens.

    This takes a single question, `recipe.captions["caption"]`, which every judge can answer, including the
    embedded one. Only the subject is kept from the answer, up to the first word for a place or an action,
    because the image's context would contradict the requested one. If the prompt opens with the subject, in
    words of the description or as `it` or `the critter`, these words are not repeated. The user's words are
    never cut: the description is shortened to make room.
    """
    (caption, _), *_ = write(vlm, [Request(recipe.captions["caption"], (image,))], count)
    description, prompt = _opening(caption).split(), line(prompt)
    opening = _opening(prompt)
    said = {word.lower() for word in description} | POINTING
    if set(opening.lower().split()) <= said:
        prompt = prompt[len(opening) :].lstrip(" ,")
    while description and count(" ".join([*description, prompt])) > LONGEST:
        description.pop()
    return " ".join([*description, prompt]).strip()


def _opening(text: str) -> str:
    """Return the text before the first word or punctuation mark that begins a place or an action."""
    found = CONTEXT.search(text)
    return (text[: found.start()] if found else text).strip()
