"""Captions and edit instructions for the kept pairs.

Each text is one line of at most 77 tokens, the limit of the FLUX family's CLIP. If the model refuses, or its
text is empty or too long, it is asked once more for a shorter one; a text that is still too long is cut at a
word and flagged. If there is still no text, the grid's own words are used and `writer` is `grid`.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import try_to_load_from_cache

from dsd.curation.judge import find_recipe
from dsd.files import hub
from dsd.files.errors import LoadError
from dsd.files.jsonl import Record
from dsd.grids.grids import Grid, open_panels
from dsd.pocket.words import SAME
from dsd.vlm.answers import read_caption
from dsd.vlm.base import is_refused
from dsd.vlm.open import VLM, Request

GRID = "grid"  # value of `writer` for texts that come from the grid's own prompt
LONGEST = 77  # tokens, including the start and end tokens
SHORTER = "Answer shorter: one line of at most 25 words."
Count = Callable[[str], int]
Panels = dict[str, list[tuple[int, int]]]  # id of a grid -> the first and second panel of some pairs


@dataclass(frozen=True, kw_only=True)
class Caption(Record):
    """A row of `captions.jsonl`: the texts of one order of a pair."""

    caption: str  # describes the target
    instruction: str  # describes the change from the conditioning image to the target
    cut: bool  # whether the caption or the instruction was cut to fit
    writer: str


def estimate(text: str) -> int:
    """Estimate the number of CLIP tokens in a text without the vocabulary, erring on the high side.

    CLIP splits a text into words, single digits and runs of other characters, then rare words into pieces.
    The estimate is a piece for every four letters, although common words of any length are a single piece.
    """
    pieces = re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text)
    return 2 + sum(math.ceil(len(piece) / 4) for piece in pieces)


def counter(tokenizer: str | Path | None) -> Count:
    """Return the count of a tokenizer (folder or hub id), or `estimate` for None; raise LoadError."""
    if tokenizer is None:
        return estimate
    from transformers import AutoTokenizer  # imported here because the import takes seconds

    hub.check_source(tokenizer, weights=False)
    with hub.explain_errors(str(tokenizer), [str(tokenizer)]):
        tokenize = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
    return lambda text: len(tokenize(text, verbose=False)["input_ids"])


def tokenizer_of(base: str | Path) -> Path | None:
    """Return the folder of a pipeline's CLIP tokenizer, in it or in the hub cache; None if neither has it."""
    if (folder := Path(base) / "tokenizer").is_dir():
        return folder
    if not hub.ID.fullmatch(str(base)):
        return None
    cached = try_to_load_from_cache(str(base), "tokenizer/tokenizer_config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def tokenizer_of_model(name: str) -> Path | None:
    """Return the CLIP tokenizer's folder of a named model; None if the model is not available here."""
    from dsd.model.checkpoint import resolve  # imported here because it is slow

    try:
        return tokenizer_of(resolve(name).base)
    except LoadError:  # it works on another machine
        return None


class Line(NamedTuple):
    """One line of text, and whether it was cut to fit."""

    text: str
    is_cut: bool


def fit(text: str, count: Count, longest: int = LONGEST) -> Line:
    """Return the text, cut to as many of its first words as fit into `longest` tokens."""
    if count(text) <= longest:
        return Line(text, False)
    words = text.split()
    length = bisect_right(range(len(words) + 1), longest, key=lambda n: count(" ".join(words[:n]))) - 1
    return Line(" ".join(words[: max(length, 0)]), True)


def one_line(text: str) -> str:
    return " ".join(text.split())


def write(vlm: VLM, requests: Sequence[Request], count: Count = estimate) -> list[Line]:
    """Return one line per request, empty for no text or a refusal; ask once more for bad or long answers."""
    texts = [_read(request, text) for request, text in zip(requests, vlm.ask_many(requests), strict=True)]
    again = [i for i, text in enumerate(texts) if not text or count(text) > LONGEST]
    shorter = [replace(requests[i], question=f"{requests[i].question} {SHORTER}") for i in again]
    for i, text in zip(again, vlm.ask_many(shorter), strict=True):
        texts[i] = _read(requests[i], text) or texts[i]
    return [fit(text, count) for text in texts]


def _read(request: Request, answer: str) -> str:
    """Return the text of an answer, without "the same critter": people type the context alone."""
    text = "" if is_refused(answer) else one_line(read_caption(answer, request.question) or "")
    return text.removeprefix(SAME)


def caption_grids(
    rows: list[Grid], kept: Panels, *, run: Path, vlm: VLM, count: Count = estimate, recipe: str | None = None
) -> list[Caption]:
    """Return the captions of these grids: two per kept pair, with each panel as the target once.

    A target image is described once, even if it is in several pairs. If `recipe` is None, each grid's own
    recipe is used.
    """
    requests: dict[tuple, Request] = {}
    for grid in rows:
        panels, questions = open_panels(run, grid), find_recipe(recipe or grid.recipe).captions
        orders = both_orders(kept[grid.id])
        for _, b in orders:
            requests[grid.id, b] = Request(questions["caption"], (panels[b],))
        for a, b in orders:
            requests[grid.id, a, b] = Request(questions["instruction"], (panels[a], panels[b]))
    lines = dict(zip(requests, write(vlm, list(requests.values()), count), strict=True))
    return [
        _caption(grid, a, b, [lines[grid.id, b], lines[grid.id, a, b]], vlm.name, count)
        for grid in rows
        for a, b in both_orders(kept[grid.id])
    ]


def _caption(grid: Grid, panel: int, target: int, lines: list[Line], writer: str, count: Count) -> Caption:
    if not all(line.text for line in lines):
        lines, writer = [fit(text, count) for text in grid_words(grid, target)], GRID
    name, is_cut = caption_id(grid.id, panel, target), any(line.is_cut for line in lines)
    caption, instruction = (line.text for line in lines)
    return Caption(id=name, caption=caption, instruction=instruction, cut=is_cut, writer=writer)


def both_orders(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (conditioning, target) in both orders of each pair."""
    return [order for first, second in pairs for order in ((first, second), (second, first))]


def caption_id(grid: str, conditioning: int, target: int) -> str:
    return f"{grid}-{conditioning}-{target}"


def grid_words(grid: Grid, target: int) -> tuple[str, str]:
    """Return caption and instruction in the words of the prompt, which the teacher may not have drawn."""
    article = "" if grid.subject.lower().startswith(("a ", "an ", "the ")) else "a "
    return f"{article}{grid.subject} {grid.places[target]}", grid.places[target]
