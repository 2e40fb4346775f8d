"""Writers that turn a reference caption into a subject and its places.

The grammar covers the drawn world. The template extracts the subject of any caption with a simple rule and
samples the places from a fixed list. A language model does best: it also filters out unusable captions.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, product
from pathlib import Path

import numpy as np

from dsd.files import jsonl
from dsd.grids.places import PLACES
from dsd.grids.recipes import Recipe
from dsd.pocket import world
from dsd.pocket.words import _panel_words
from dsd.pocket.world import shipped
from dsd.vlm.base import VLM, Request

FREE = ("empty caption", "repeated caption")  # never asked about, so `prompts.PATIENCE` ignores them
PLACING = 2  # separates this use of a seed from other uses
CAPTION_WORDS = 200  # a longer caption is an article, and expensive to ask about

_NAMES = (tuple(world.COLORS), world.SHAPES, world.PATTERNS, world.EARS)
_CRITTER = re.compile(r"\b({}) ({}) ({}) critter with ({}) ears\b".format(*map("|".join, _NAMES)))

_MEDIUM = re.compile(
    r"^(an? |the )?([\w-]+ ){0,3}(photo|photograph|image|image|portrait|illustration|drawing|painting"
    r"|sketch|rendering|render|close-?up|view|shot)s? of ",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(an?|the|this|that|one|my|his|her|our|their) ", re.IGNORECASE)
_SEVERAL = re.compile(
    r"([2-9]|\d\d+|two|three|four|five|six|seven|eight|nine|ten|several|many|some|both|groups?|pairs?|couple"
    r"|sets?|collection|bunch|crowd|people|men|women|children)(?![\w'’-])"
    r"|.* and (an?|the|his|her|its|another) ",
    re.IGNORECASE,
)
_END = re.compile(  # the end of the subject, where its place or action begins
    r"[,.;:!?()|/\"\[\]]|\s[-–—]\s|\b(on|in|at|by|near|next|under|over|above|below|behind|beside|against"
    r"|inside|outside|into|onto|through|during|before|after|while|from|for|to|is|are|was|were|has|who|which"
    r"|that)(?![\w'’-])|\s(standing|sitting|lying|walking|running|playing|looking|flying|holding|wearing|eating|sleeping|posing"
    r"|resting|riding|swimming|jumping|climbing|carrying|smiling|watching|waiting|hanging)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|\s+)(subject|\d+):\s+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The result for one caption: a subject and its places, or the reason it was dropped."""

    caption: str
    subject: str = ""
    places: tuple[str, ...] = ()
    dropped: str | None = None


class Unusable(ValueError):
    """A caption or an answer that gives no draft; the message is the reason it is counted under."""


def grammar(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: the critter that it names, in `count` different drawn scenes."""
    return _drafts(captions, critter_of, lambda rng: drawn_places(rng, count), seed)


def template(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """Yield a draft per caption: its subject, in `count` places from the fixed list."""
    return _drafts(captions, subject_of, lambda rng: listed_places(rng, count), seed)


def _drafts(captions: Iterable[str], subject: Callable, places: Callable, seed: int) -> Iterator[Draft]:
    for index, caption in enumerate(captions):
        rng = np.random.default_rng((seed, index, PLACING))
        try:
            yield Draft(caption=caption, subject=subject(caption), places=places(rng))
        except Unusable as reason:
            yield Draft(caption=caption, dropped=str(reason))


WITHOUT_MODEL = {"identity": template, "critters": grammar}  # recipe -> the writer when no model is given


def critter_of(caption: str) -> str:
    """Return the critter named in the caption, such as `red round striped critter with long ears`."""
    found = _CRITTER.search(caption)
    if not found:
        raise Unusable("no critter in the caption")
    return found.group()


def is_held_out(subject: str) -> bool:
    """Return whether `subject` names a critter that is held out with one, two and three eyes.

    Captions do not state the number of eyes.
    """
    return bool(found := _CRITTER.search(subject)) and found.groups() in _held_out()


@cache
def _held_out() -> set[tuple[str, ...]]:
    anyone = world.sample_critter(np.random.default_rng(0))

    def always(named: tuple[str, ...]) -> bool:
        traits = dict(zip(world.NAMED, named, strict=True))
        return all(replace(anyone, **traits, eyes=eyes).held_out for eyes in (1, 2, 3))

    return {named for named in product(*_NAMES) if always(named)}


def drawn_places(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Draw places such as `beach red hat night`, the wording that pocket's teacher was trained on.

    Accessories and lights are as frequent as in `sample_context`. All scenes differ: equal neighbors teach
    little and hide the gutter between them.
    """
    scenes, chances = rng.permutation(len(world.SCENES))[:count], rng.random((count, 4))
    return tuple(_panel_words(_context(world.SCENES[i], *u)) for i, u in zip(scenes, chances, strict=True))


def _context(scene: str, has: float, which: float, color: float, light: float) -> world.Context:
    """Map four uniform numbers in [0, 1) to a context; `rng.choice` for each would take most of the time."""
    accessories, colors = world.ACCESSORIES[1:], tuple(world.ACCESSORY_COLORS)
    return world.Context(
        scene=scene,
        accessory="none" if has < 0.36 else accessories[int(which * len(accessories))],
        accessory_color=colors[int(color * len(colors))],
        light=_light(light),
    )


def _light(chance: float) -> str:
    lights = shipped().lights
    return lights[int(np.searchsorted(np.cumsum(world.LIGHT_SHARES[lights])[:-1], chance, side="right"))]


def listed_places(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    return tuple(PLACES[i] for i in rng.permutation(len(PLACES))[:count])


def subject_of(caption: str) -> str:
    """Return the subject: `fluffy white cat` for `A photo of a fluffy white cat sleeping on a sofa`.

    The whole rule: drop the words for the medium and the article, and stop at the first word or punctuation
    mark that begins a place or an action. Raise Unusable if nothing is left or there seem to be several.
    """
    text = _ARTICLE.sub("", _MEDIUM.sub("", caption, count=1), count=1)
    subject = text[: found.start()] if (found := _END.search(text)) else text
    if _SEVERAL.match(subject):
        raise Unusable("several subjects")
    if not re.search(r"[^\W\d]{2}", subject):
        raise Unusable("no subject found")
    return subject.strip()


def ask(captions: Iterable[str], count: int, *, vlm: VLM, recipe: Recipe, path: Path) -> Iterator[Draft]:
    """Yield the language model's draft for each caption, asking about `vlm.batch` captions at a time.

    Every answer is written to `path` before it is used, so nothing is asked twice after a kill, and
    unreadable answers can be inspected. Raise RunError if the answers in `path` belong to other questions.
    """
    same = {"recipe": recipe.name, "panels": count, "writer": vlm.name}
    fresh, known = _screened(captions), jsonl.read(path)
    for row, (caption, reason) in zip(known, fresh, strict=False):
        check_same(path, row, {**same, "caption": caption})
        yield _read_draft(row, reason)
    with jsonl.writing(path) as append:
        start = len(known)
        while block := list(islice(fresh, vlm.batch)):
            made = [{"id": f"{start + i:06}", "caption": block[i][0], **same} for i in range(len(block))]
            _ask_block([row for row, (_, reason) in zip(made, block, strict=True) if not reason], vlm, recipe)
            append(made)
            start += len(made)
            yield from (_read_draft(row, reason) for row, (_, reason) in zip(made, block, strict=True))


def _screened(captions: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each caption with the reason not to ask about it, or None; a repeat would get the same answer."""
    seen = set()
    for caption in captions:
        key, words = caption.casefold(), len(caption.split())
        if key in seen or not 0 < words <= CAPTION_WORDS:
            yield caption, "empty caption" if not words else "repeated caption" if key in seen else "too long"
        else:
            yield caption, None
        seen.add(key)


def _ask_block(made: list[jsonl.Row], vlm: VLM, recipe: Recipe) -> None:
    """Add the answers to the rows: `clear` to each, and `written` where `clear` was yes."""
    _put("clear", made, vlm, recipe.filter)
    _put("written", [row for row in made if _yes(row["clear"])], vlm, recipe.write)


def _put(name: str, made: list[jsonl.Row], vlm: VLM, question: str) -> None:
    asked = (Request(question.format(caption=row["caption"], count=row["panels"])) for row in made)
    for row, answer in zip(made, vlm.ask_many(asked), strict=True):
        row[name] = answer


def _yes(answer: str) -> bool | None:
    """Parse a yes or no; return None for anything else."""
    found = re.fullmatch(r"\W*(yes|no)\W*", answer, re.IGNORECASE)
    return found and found.group(1).lower() == "yes"


def _read_draft(row: jsonl.Row, reason: str | None) -> Draft:
    try:
        if reason:
            raise Unusable(reason)
        if not _yes(row["clear"]):
            raise Unusable("unreadable" if _yes(row["clear"]) is None else "no clear subject")
        subject, places = read_answer(row["written"], row["panels"])
        return Draft(caption=row["caption"], subject=subject, places=places)
    except Unusable as dropped:
        return Draft(caption=row["caption"], dropped=str(dropped))


def read_answer(answer: str, count: int) -> tuple[str, tuple[str, ...]]:
    """Parse `subject: ... 1: ... 2: ...`, on separate lines or on one, into the subject and its places.

    Raise Unusable unless the fields are exactly these, in this order, each on one line and not empty, and all
    places differ.
    """
    before, *fields = _LABEL.split(answer.strip())
    labels, values = fields[::2], [value.strip(" .;,") for value in fields[1::2]]
    wanted = ["subject", *map(str, range(1, count + 1))]
    if before or [label.lower() for label in labels] != wanted or not all(map(_one_line, values)):
        raise Unusable("unreadable")
    if len({place.casefold() for place in values[1:]}) < count:
        raise Unusable("a place twice")
    return values[0], tuple(values[1:])


def _one_line(value: str) -> bool:
    return bool(re.search(r"\w", value)) and "\n" not in value


def check_same(path: Path, row: jsonl.Row, now: dict[str, object]) -> None:
    """Raise RunError if a run's row was made with other settings or captions than `now`."""
    for name, value in now.items():
        if row.get(name) != value:
            raise jsonl.RunError(
                f"{path} was made with {name} {row.get(name)!r}, not {value!r}: use that, or another folder"
            )
