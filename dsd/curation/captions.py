"""Words for the pairs that were kept: what the target shows, what to change to get there. And richer prompts.

Each text is one line of at most 77 tokens, which is what the FLUX family's CLIP reads. A longer one is asked
for again, once, with the wish for a shorter one; what is still too long is cut at a word and flagged. Where a
model says nothing at all, the sheet's own words stand in, and `writer` says `sheet`.
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

SHEET = "sheet"  # who wrote a caption that nobody wrote
LONGEST = 77  # tokens, the two marks of CLIP's tokenizer included
SHORTER = "Answer shorter: one line of at most 25 words."
CONTEXT = re.compile(
    r"[,.;:!?()]|\b(wearing|holding|carrying|in|on|at|under|by|near|beside|behind|against|during|while"
    r"|standing|sitting|lying|walking|running|flying|swimming|playing|looking|is|as|inside|outside|among)\b",
    re.IGNORECASE,
)
POINTING = frozenset("a an the this that same it one creature critter character subject".split())
Count = Callable[[str], int]


# ---------------------------------------------------------------- how long a text is


def estimate(text: str) -> int:
    """Tokens that CLIP may make of a text, erring on the long side, without its vocabulary.

    CLIP first splits into words, single digits and runs of other marks, then cuts rare words into pieces.
    Here every four letters begun of a word count as a piece, where common English words of any length are
    one.
    """
    pieces = re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text)
    return 2 + sum(math.ceil(len(piece) / 4) for piece in pieces)


def counter(tokenizer: str | Path | None) -> Count:
    """Counts the tokens of a text: by the tokenizer in a folder or of a hub id, or by `estimate` if None.

    LoadError if there is no such tokenizer.
    """
    if tokenizer is None:
        return estimate
    from transformers import AutoTokenizer  # imported here: it takes seconds, and the estimate needs none

    hub.check_source(tokenizer, weights=False)
    with hub.explained(str(tokenizer), [str(tokenizer)]):
        known = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
    return lambda text: len(known(text, verbose=False)["input_ids"])


def tokenizer_of(base: str | Path) -> Path | None:
    """The folder of a pipeline's CLIP tokenizer: the pipeline's own, or that of the hub's copy on this
    machine.

    None if it is not here: nothing is downloaded to count words.
    """
    if (folder := Path(base) / "tokenizer").is_dir():
        return folder
    if not hub.ID.fullmatch(str(base)):
        return None
    cached = try_to_load_from_cache(str(base), "tokenizer/tokenizer_config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def cut(text: str, count: Count, longest: int = LONGEST) -> str:
    """The text, or as many of its first words as fit into so many tokens."""
    words = text.split()
    fits = bisect_right(range(len(words) + 1), longest, key=lambda n: count(" ".join(words[:n]))) - 1
    return " ".join(words[: max(fits, 0)])


# ---------------------------------------------------------------- the captions of a run


def caption_sheets(
    sheets: list[Row], *, run: Path, vlm: VLM, count: Count = estimate, recipe: str | None = None
) -> list[Row]:
    """Rows of `captions.jsonl`: two for each kept pair, one for either panel as the target.

    A sheet is a row of `grids.jsonl` with `kept`, the (first, second) of its kept pairs. A target picture is
    described once, however many pairs it is in. `recipe` None is each sheet's own.
    """
    work = [
        _questions(sheet, open_panels(run, sheet), recipe_named(recipe or sheet["recipe"]))
        for sheet in sheets
    ]
    requests = {key: request for one in work for key, request in one.items()}
    texts = dict(zip(requests, write(vlm, list(requests.values()), count), strict=True))
    return [_row(sheet, pair, texts, vlm.name, count) for sheet in sheets for pair in _orders(sheet["kept"])]


def _orders(kept: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(conditioning, target), both ways."""
    return [order for first, second in kept for order in ((first, second), (second, first))]


def _questions(sheet: Row, panels: list[Image.Image], recipe: Recipe) -> dict[tuple, Request]:
    """What to ask: by (sheet, target) for a description, by (sheet, conditioning, target) for the change."""
    orders, grid = _orders(sheet["kept"]), sheet["id"]
    asked = {(grid, b): Request(recipe.captions["caption"], (panels[b],)) for _, b in orders}
    changes = {
        (grid, a, b): Request(recipe.captions["instruction"], (panels[a], panels[b])) for a, b in orders
    }
    return asked | changes


def _row(sheet: Row, order: tuple[int, int], texts: dict, writer: str, count: Count) -> Row:
    grid, (first, target) = sheet["id"], order
    said = {"caption": texts[grid, target], "instruction": texts[grid, first, target]}
    if not all(text for text, _ in said.values()):
        said, writer = {mode: fitted(text, count) for mode, text in sheet_words(sheet, target).items()}, SHEET
    texts = {mode: text for mode, (text, _) in said.items()}
    return {
        "id": f"{grid}-{first}-{target}",
        **texts,
        "cut": any(cut for _, cut in said.values()),
        "writer": writer,
    }


def sheet_words(sheet: Row, target: int) -> dict[str, str]:
    """What the sheet's prompt asked of that panel; whether the teacher drew it, nobody has looked."""
    subject, place = sheet["subject"], sheet["places"][target]
    article = "" if subject.lower().startswith(("a ", "an ", "the ")) else "a "
    return {"caption": f"{article}{subject} {place}", "instruction": place}


def write(vlm: VLM, requests: list[Request], count: Count = estimate) -> list[tuple[str, bool]]:
    """One line for each request and whether it had to be cut; "" where the model stays silent.

    What is too long, or nothing, is asked again, once.
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
    """At most 77 tokens of it, and whether it had more."""
    return (text, False) if count(text) <= LONGEST else (cut(text, count), True)


# ---------------------------------------------------------------- a richer prompt, for the Generate tab


def enhance(vlm: VLM, image: Image.Image, prompt: str, recipe: Recipe, *, count: Count = estimate) -> str:
    """The user's words behind a description of the picture's subject; at most 77 tokens, one line.

    It takes one question, `recipe.captions["caption"]`, which every judge can answer, the embedded one too;
    the rest is text. Of the answer only the subject is kept, up to the first word that tells where it is or
    what it does, because the picture's beach would argue with the user's forest. Where the prompt opens
    with the subject itself, in words that the description has as well or as `it` or `the critter`, these
    are not said twice. The user's words are never cut: where they leave no room, the description is.
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
    """What comes before the first word or mark that begins a place or an action."""
    found = CONTEXT.search(text)
    return (text[: found.start()] if found else text).strip()
