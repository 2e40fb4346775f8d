"""Turn reference captions into grid prompts: one subject, and a different place for each panel.

`RUN/prompts.jsonl` is a function of the captions, the options and the writer's answers. A resumed run goes
through them again from the start, checks the rows that exist, and adds the missing ones.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from dsd.files import jsonl
from dsd.files.jsonl import Record
from dsd.grids import references, writers
from dsd.grids.recipes import RECIPES, Recipe
from dsd.grids.task_writers import WITHOUT_MODEL
from dsd.grids.writers import Draft, Unusable
from dsd.vlm.base import VLM
from dsd.vlm.recorded import forget

MOST = 1_000_000  # grids in one run: an id has six digits, and so does the grid's part of its seed
MAX_SEED = 4293  # keeps every grid's seed below 2**32, the limit of the page
PHRASING = 3  # separates this use of a seed from other uses
BLOCK = 200  # rows written at a time
SETTINGS = ("recipe", "rows", "columns", "writer", "seed", "caption")  # of a row, from options and writer
PATIENCE = 1000  # consecutive unusable captions before giving up
_ROWS = {1: ("",), 2: ("top", "bottom"), 3: ("top", "middle", "bottom")}
_COLUMNS = {1: ("",), 2: ("left", "right"), 3: ("left", "center", "right")}
_SMALL = frozenset("a an the of and or with in on at by to its it is as".split())  # words without content


class PromptError(ValueError):
    """A subject, places or options that cannot make a prompt; the message says what to do."""


class TooLong(PromptError):
    """More words than the recipe's teacher can follow."""


@dataclass(frozen=True, kw_only=True)
class Prompt(Record):
    """A row of `prompts.jsonl`: what to draw in one grid."""

    OPTIONAL: ClassVar = frozenset({"phrasing", "caption", "writer"})

    prompt: str
    subject: str
    places: list[str]  # one for each panel, in reading order
    rows: int
    columns: int
    recipe: str
    phrasing: int = 0  # index into the recipe's phrasings
    caption: str = ""  # that the subject is from
    writer: str = ""
    seed: int


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Options for a run's prompts; all but `count` stay the same for the whole run."""

    count: int  # total number of prompts
    recipe: str = "critters"
    rows: int = 2
    columns: int = 2
    seed: int = 0

    def __post_init__(self):
        if self.recipe not in RECIPES:
            raise PromptError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        _check_layout(RECIPES[self.recipe], self.rows, self.columns)
        if not 1 <= self.count <= MOST:
            raise PromptError(f"count must be from 1 to {MOST}, got {self.count}: use another seed for more")
        if not 0 <= self.seed <= MAX_SEED:
            raise PromptError(f"seed must be from 0 to {MAX_SEED}, got {self.seed}")


def compose_prompt(
    recipe: Recipe, subject: str, places: Sequence[str], rows: int, columns: int, phrasing: int = 0
) -> str:
    """Return the prompt of one grid, with one place per panel in reading order.

    `phrasing` is an index into the recipe's. Raise PromptError for an empty text, a wrong number of places,
    or a layout or phrasing that the recipe does not have, and TooLong for an overlong text.
    """
    _check_layout(recipe, rows, columns)
    count = rows * columns
    if len(places) != count:
        raise PromptError(f"a {rows}x{columns} grid has {count} places, got {len(places)}")
    if not 0 <= phrasing < len(recipe.phrasings):
        raise PromptError(f"{recipe.name} has phrasings 0 to {len(recipe.phrasings) - 1}, got {phrasing}")
    subject = check_words(recipe, "subject", subject)
    names = [f"{row} {column}".strip() for row in _ROWS[rows] for column in _COLUMNS[columns]]
    places = [check_words(recipe, "place", place) for place in places]
    panels = [recipe.panel.format(where=name, place=place) for name, place in zip(names, places, strict=True)]
    layout = {"count": count, "rows": rows, "columns": columns}
    prompt = recipe.phrasings[phrasing].format(subject=subject, panels=" ".join(panels), **layout)
    return check_words(recipe, "prompt", prompt)


def _check_layout(recipe: Recipe, rows: int, columns: int) -> None:
    if (rows, columns) not in recipe.layouts:
        layouts = ", ".join(f"{r}x{c}" for r, c in recipe.layouts)
        raise PromptError(f"grids of {recipe.name} are {layouts}, got {rows}x{columns}")


def check_words(recipe: Recipe, part: str, text: str) -> str:
    """Return the text on one line; raise PromptError if it is empty and TooLong if it is too long."""
    words, most = text.split(), recipe.longest[part]
    if not words:
        raise PromptError(f"a {part} is empty: write at least one word")
    if len(words) > most:
        raise TooLong(f"a {part} of {recipe.name} has at most {most} words, got {len(words)}: {text[:60]!r}")
    return " ".join(words)


def write_prompts(
    run: Path,
    options: PromptOptions,
    *,
    captions: Iterable[str] | None = None,
    vlm: VLM | None = None,
    on_row: Callable[[int, Counter], None] = lambda done, dropped: None,
) -> Counter:
    """Extend `RUN/prompts.jsonl` to `options.count` rows, or to as many as the captions give.

    `captions` default to those of the pocket world. Without `vlm` the recipe's grammar or template is the
    writer. `on_row` gets the number of finished rows and the dropped captions by reason; the latter are also
    returned. Raise RunError if the run was begun with other settings or cannot be written.
    """
    path, dropped, new = run / "prompts.jsonl", Counter(), []
    captions = references.pocket(options.seed) if captions is None else captions
    writer, drafts = _open_writer(run, options, captions, vlm)
    with jsonl.writing(path) as append, closing(drafts):
        existing = jsonl.read(path)
        prompts = _make_prompts(options, drafts, writer, dropped)
        try:
            for index, prompt in enumerate(islice(prompts, options.count)):
                row = prompt.to_json()
                if index < len(existing):  # check the settings first, so that the error names them
                    where = f"{path} row {prompt.id}"
                    jsonl.check_same(where, existing[index], {name: row[name] for name in SETTINGS})
                    jsonl.check_same(where, existing[index], row)
                else:
                    new.append(row)
                if len(new) == BLOCK:
                    append(new)
                    new = []
                on_row(index + 1, dropped)
        finally:
            append(new)  # also the finished rows before an error
        forget(run)  # a command that was killed may have left answers whose rows it had written
    return dropped


def _open_writer(
    run: Path, options: PromptOptions, captions: Iterable[str], vlm: VLM | None
) -> tuple[str, Iterator[Draft]]:
    """Return the name of the writer and its drafts."""
    count, recipe = options.rows * options.columns, RECIPES[options.recipe]
    if vlm:
        return vlm.name, writers.ask(captions, count, vlm=vlm, recipe=recipe, path=run / "writer.jsonl")
    writer = WITHOUT_MODEL[options.recipe]
    return writer.__name__, writer(captions, count, seed=options.seed)


def _make_prompts(
    options: PromptOptions, drafts: Iterable[Draft], writer: str, dropped: Counter
) -> Iterator[Prompt]:
    """Yield a prompt for each usable draft, and count the others in `dropped` by reason.

    Raise PromptError after `PATIENCE` unusable captions in a row, since the next ones will hardly do better.
    """
    seen: set[int] = set()
    index, failures = 0, Counter()
    for draft in drafts:
        try:
            prompt = _make_prompt(index, draft, options, writer)
            keys = fingerprints(draft.subject, draft.places)
            if not seen.isdisjoint(keys):
                raise Unusable("near-duplicate")
        except Unusable as error:
            reason = str(error)
            dropped[reason] += 1
            failures[reason] += reason not in (writers.EMPTY, writers.REPEATED)
            if failures.total() == PATIENCE:
                raise PromptError(
                    f"{PATIENCE} captions in a row gave no prompt ({describe(failures)}): choose other "
                    "captions, or another writer"
                ) from None
        else:
            seen |= keys
            index, failures = index + 1, Counter()
            yield prompt


def describe(dropped: Counter) -> str:
    """Return the counts as text, the most frequent first: `12 near-duplicate, 3 too long`."""
    return ", ".join(f"{number} {reason}" for reason, number in dropped.most_common() if number)


def _make_prompt(index: int, draft: Draft, options: PromptOptions, writer: str) -> Prompt:
    """Return the prompt; raise Unusable if the draft was dropped, is held out or too long."""
    if draft.dropped or writers.is_held_out(draft.subject):
        raise Unusable(draft.dropped or "held out")
    recipe = RECIPES[options.recipe]
    phrasing = int(np.random.default_rng((options.seed, index, PHRASING)).integers(len(recipe.phrasings)))
    try:
        text = compose_prompt(recipe, draft.subject, draft.places, options.rows, options.columns, phrasing)
    except TooLong:
        raise Unusable("too long") from None
    return Prompt(
        id=f"{index:06}", prompt=text, subject=draft.subject, places=list(draft.places), rows=options.rows,
        columns=options.columns, recipe=recipe.name, phrasing=phrasing, caption=draft.caption, writer=writer,
        seed=options.seed * MOST + index,  # no run with another seed shares it
    )  # fmt: skip


def fingerprints(subject: str, places: Sequence[str]) -> set[int]:
    """Return the fingerprints of a grid; two grids that share one are near-duplicates.

    Near-duplicates differ in at most one word or, with more than two places, in at most one place; the order
    does not matter. A fingerprint is a sum of word hashes: over all words, or over all but one word or place.
    About thirty lookups thus compare a grid exactly with all earlier ones.
    """
    texts = map(_split_words, (subject, *places))
    parts = [[_hash(word) for word in words if word not in _SMALL] for words in texts]
    omitted = [0, *(number for part in parts for number in part)]
    if len(places) > 2:
        omitted += [sum(part) for part in parts[1:]]
    whole = sum(map(sum, parts))
    return {(whole - number) % 2**64 for number in omitted}


@lru_cache(100_000)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def diversity(prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return how varied the subjects and places are, without the recipe's wording around them.

    `distinct_n` is the share of unique n-grams; it falls as a run grows, so compare runs of the same size.
    """
    subjects = [tuple(_split_words(prompt.subject)) for prompt in prompts]
    places = [tuple(_split_words(place)) for prompt in prompts for place in prompt.places]
    shares: dict[str, float] = {"subjects": len(set(subjects)), "places": len(set(places))}
    for n in (1, 2, 3):
        grams = [words[i : i + n] for words in subjects + places for i in range(len(words) - n + 1)]
        shares[f"ngrams_{n}"] = len(set(grams))
        shares[f"distinct_{n}"] = len(set(grams)) / max(1, len(grams))
    return shares
