"""Writers that turn a reference caption into a subject and its places.

The grammar covers the drawn world. The template extracts the subject of any caption with a simple rule and
samples the places from a fixed list. A language model does best: it also filters out unusable captions.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dsd.files import jsonl
from dsd.files.jsonl import Record, Row
from dsd.grids.recipes import Recipe
from dsd.pocket import world
from dsd.pocket.words import describe_panel
from dsd.vlm import schemas
from dsd.vlm.answers import read_places, read_yes_or_no
from dsd.vlm.base import AGAIN, VLM, Request, Schema, is_refused
from dsd.vlm.recorded import Recorded, forget

# Places for any subject; most also name a light, a moment or a viewpoint, in at most twelve words.
PLACES = tuple(Path(__file__).with_name("places.txt").read_text(encoding="utf-8").splitlines())
EMPTY, REPEATED = "empty caption", "repeated caption"  # the language model is not asked about these
SEED_USE = 2  # separates this use of a seed from other uses
CAPTION_WORDS = 200  # a longer caption is an article, and expensive to ask about

_TRAITS = map("|".join, (world.COLORS, world.SHAPES, world.PATTERNS, world.EARS))
_CRITTER = re.compile(r"\b({}) ({}) ({}) critter with ({}) ears\b".format(*_TRAITS))
_MEDIUM = re.compile(
    r"(?i)^(an? |the )?([\w-]+ ){0,3}(photo|photograph|picture|image|portrait|illustration|drawing|painting"
    r"|sketch|rendering|render|close-?up|view|shot)s? of "
)
_ARTICLE = re.compile(r"(?i)^(an?|the|this|that|one|my|his|her|our|their) ")
_SEVERAL = re.compile(
    r"(?i)([2-9]|\d\d+|two|three|four|five|six|seven|eight|nine|ten|several|many|some|both|groups?|pairs?|couple"
    r"|sets?|collection|bunch|crowd|people|men|women|children)(?![\w'’-])"
    r"|.* and (an?|the|his|her|its|another) "
)
_CONTEXT = re.compile(  # begins the subject's place or action
    r"(?i)[,.;:!?()|/\"\[\]]|\s[-–—]\s|\b(on|in|at|by|near|next|under|over|above|below|behind|beside|against"
    r"|among|inside|outside|into|onto|through|during|before|after|while|from|for|to|is|are|was|were|has|who"
    r"|which|that)(?![\w'’-])|\s(standing|sitting|lying|walking|running|playing|looking|flying|holding"
    r"|wearing|eating|sleeping|posing|resting|riding|swimming|jumping|climbing|carrying|smiling|watching"
    r"|waiting|hanging)\b"
)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The result for one caption: a subject and its places, or the reason it was dropped."""

    caption: str
    subject: str = ""
    places: tuple[str, ...] = ()
    dropped: str | None = None


class Unusable(ValueError):
    """A caption or an answer that gives no draft; the message is the reason it is counted under."""


Written = tuple[str, Sequence[str]]  # a subject and its places
Write = Callable[[str, np.random.Generator], Written]  # writes about a caption, or raises Unusable


# ---------------------------------------------------------------- without a model


def grammar(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: the critter that it names, in `count` different drawn scenes."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        return name_critter(caption), draw_places(rng, count)

    return write_drafts(captions, write, seed)


def template(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: its subject, in `count` places from the fixed list."""

    def write(caption: str, rng: np.random.Generator) -> Written:
        return extract_subject(caption), pick_places(rng, count)

    return write_drafts(captions, write, seed)


def write_drafts(captions: Iterable[str], write: Write, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: what `write` writes about it, with a random generator of its own."""
    for index, caption in enumerate(captions):
        try:
            subject, places = write(caption, np.random.default_rng((seed, index, SEED_USE)))
            yield Draft(caption=caption, subject=subject, places=tuple(places))
        except Unusable as reason:
            yield Draft(caption=caption, dropped=str(reason))


def name_critter(caption: str) -> str:
    """Return the critter named in the caption, such as `red round striped critter with long ears`."""
    if match := _CRITTER.search(caption):
        return match.group()
    raise Unusable("no critter in the caption")


@lru_cache(10_000)
def is_held_out(subject: str) -> bool:
    """Return whether `subject`, which has no word for eyes, names a critter held out with any of them."""
    match = _CRITTER.search(subject)
    if match is None:
        return False
    traits = dict(zip(world.NAMED, match.groups(), strict=True))
    critter = replace(world.sample_critter(np.random.default_rng(0)), **traits)
    return all(replace(critter, eyes=eyes).held_out for eyes in (1, 2, 3))


def draw_places(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Draw places such as `beach red hat overcast`, in the wording that pocket's teacher was trained on.

    Accessories and lights are as frequent as in `sample_context`. All scenes differ: equal neighbors teach
    little and hide the gutter between them.
    """
    scenes = [world.SCENES[index] for index in rng.permutation(len(world.SCENES))[:count]]
    chances = rng.random((count, 4))
    contexts = [_make_context(scene, *chance) for scene, chance in zip(scenes, chances, strict=True)]
    return tuple(map(describe_panel, contexts))


def _make_context(scene: str, has: float, which: float, color: float, light: float) -> world.Context:
    """Map four uniform numbers in [0, 1) to a context; `rng.choice` for each would take most of the time."""
    accessories, colors, lights = world.ACCESSORIES[1:], tuple(world.ACCESSORY_COLORS), world.LIGHTS
    limits = np.cumsum(world.LIGHT_SHARES)[:-1]
    return world.Context(
        scene=scene,
        accessory="none" if has < 0.36 else accessories[int(which * len(accessories))],
        accessory_color=colors[int(color * len(colors))],
        light=lights[int(np.searchsorted(limits, light, side="right"))],
    )


def pick_places(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return tuple(PLACES[i] for i in rng.permutation(len(PLACES))[:count])


def extract_subject(caption: str) -> str:
    """Return the subject: `fluffy white cat` for `A photo of a fluffy white cat sleeping on a sofa`.

    The rule: drop the words for the medium and the article, and stop where a place or an action begins. Raise
    Unusable if nothing is left or there seem to be several.
    """
    subject = before_context(extract_scene(caption))
    if _SEVERAL.match(subject):
        raise Unusable("several subjects")
    if not re.search(r"[^\W\d]{2}", subject):
        raise Unusable("no subject found")
    return subject


def extract_scene(caption: str) -> str:
    """Return the caption without its words for the medium and its article."""
    return _ARTICLE.sub("", _MEDIUM.sub("", caption, count=1), count=1)


def before_context(text: str) -> str:
    """Return the text before the first word or punctuation mark that begins a place or an action."""
    return _CONTEXT.split(text, maxsplit=1)[0].strip()


# ---------------------------------------------------------------- with a language model


@dataclass(frozen=True, kw_only=True)
class Answers(Record):
    """A row of `writer.jsonl`: what a language model wrote about a caption."""

    OPTIONAL: ClassVar = frozenset({"clear", "written"})  # a caption can be dropped before the questions

    caption: str
    recipe: str
    panels: int
    writer: str
    clear: str = ""
    written: str = ""


def ask(captions: Iterable[str], count: int, *, vlm: VLM, recipe: Recipe, path: Path) -> Iterator[Draft]:
    """Yield the language model's draft for each caption, asking about `vlm.batch` captions at a time.

    Every answer is written to `path` before it is used, so nothing is asked twice after a kill, and
    unreadable answers can be inspected. Raise RunError if the answers in `path` belong to other questions.
    """
    settings = {"recipe": recipe.name, "panels": count, "writer": vlm.name}
    screened = _screen(captions)
    known = [answers.to_json() for answers in jsonl.read_records(path, Answers)]
    for row, (caption, dropped) in zip(known, screened, strict=False):
        jsonl.check_same(path, row, {**settings, "caption": caption})
        yield _read_draft(row, dropped)
    with jsonl.writing(path) as append:
        numbered = enumerate(screened, len(known))
        while block := list(islice(numbered, vlm.batch)):
            rows = [{"id": f"{index:06}", "caption": caption, **settings} for index, (caption, _) in block]
            reasons = [dropped for _, (_, dropped) in block]
            usable = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
            _ask_block(usable, count, Recorded(vlm, path.parent), recipe)
            append(rows)
            forget(path.parent)
            yield from map(_read_draft, rows, reasons)


def _screen(captions: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each caption with the reason not to ask about it, or None; a repeat would get the same answer."""
    seen = set()
    for caption in captions:
        key, words = caption.casefold(), len(caption.split())
        if not words:
            yield caption, EMPTY
        elif key in seen:
            yield caption, REPEATED
        else:
            yield caption, "too long" if words > CAPTION_WORDS else None
        seen.add(key)


def _ask_block(rows: list[Row], count: int, vlm: VLM, recipe: Recipe) -> None:
    """Add the answers to the rows: `clear` to each, and `written` where `clear` was yes."""
    _ask_each("clear", rows, vlm, recipe.filter, schemas.YES_OR_NO, read_yes_or_no)
    clear = [row for row in rows if read_yes_or_no(row["clear"])]
    _ask_each("written", clear, vlm, recipe.write, schemas.places(count), partial(read_places, count=count))


def _ask_each(
    name: str, rows: list[Row], vlm: VLM, question: str, schema: Schema, read: Callable[[str], object]
) -> None:
    """Add the answers to the rows; ask once more where one cannot be read, and keep it as `first_...`."""

    def ask_for(some: list[Row], seed: int | None) -> None:
        texts = (question.format(caption=row["caption"], count=row["panels"]) for row in some)
        requests = (Request(text, seed=seed, schema=schema) for text in texts)
        for row, answer in zip(some, vlm.ask_many(requests), strict=True):
            row[name] = answer

    ask_for(rows, None)
    again = [row for row in rows if read(row[name]) is None and not is_refused(row[name])]
    for row in again:
        row[f"first_{name}"] = row[name]
    if again:
        ask_for(again, AGAIN)


def _read_draft(row: Row, dropped: str | None) -> Draft:
    try:
        if dropped:
            raise Unusable(dropped)
        if not _read(row["clear"], read_yes_or_no):
            raise Unusable("no clear subject")
        subject, places = _read(row.get("written", ""), partial(read_places, count=row["panels"]))
        if len({place.casefold() for place in places}) < len(places):
            raise Unusable("a place twice")
        return Draft(caption=row["caption"], subject=subject, places=tuple(places))
    except Unusable as reason:
        return Draft(caption=row["caption"], dropped=str(reason))


def _read(answer: str, read: Callable[[str], Any]) -> Any:
    """Return what `read` reads in an answer; raise Unusable if that is nothing."""
    if (value := read(answer)) is None:
        raise Unusable("refused" if is_refused(answer) else "unreadable")
    return value
