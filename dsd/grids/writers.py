"""Who turns a reference caption into a subject and places for it: a grammar, a template, or a language model.

The grammar speaks of the drawn world; the template takes the subject out of any caption by a simple rule and
draws the places from a written list. A language model does it best: it also tells which captions are of use.
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
from dsd.pocket.family import shipped
from dsd.pocket.words import _panel_words
from dsd.vlm.base import VLM, Request

FREE = ("empty caption", "repeated caption")  # reasons that cost no question
PLACING = 2  # tells this use of a seed from others
CAPTION_WORDS = 200  # a caption that is longer is an article, and dear to ask about

_NAMES = (tuple(world.COLORS), world.SHAPES, world.PATTERNS, world.EARS)
_CRITTER = re.compile(r"\b({}) ({}) ({}) critter with ({}) ears\b".format(*map("|".join, _NAMES)))

_MEDIUM = re.compile(
    r"^(an? |the )?([\w-]+ ){0,3}(photo|photograph|picture|image|portrait|illustration|drawing|painting"
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
_END = re.compile(  # where a subject ends, and where it is or what it does begins
    r"[,.;:!?()|/\"\[\]]|\s[-–—]\s|\b(on|in|at|by|near|next|under|over|above|below|behind|beside|against"
    r"|inside|outside|into|onto|through|during|before|after|while|from|for|to|is|are|was|were|has|who|which"
    r"|that)(?![\w'’-])|\s(standing|sitting|lying|walking|running|playing|looking|flying|holding|wearing|eating|sleeping|posing"
    r"|resting|riding|swimming|jumping|climbing|carrying|smiling|watching|waiting|hanging)\b",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|\s+)(subject|\d+):\s+", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What became of one caption: a subject and its places, or why there are none."""

    caption: str
    subject: str = ""
    places: tuple[str, ...] = ()
    dropped: str | None = None


class Unusable(ValueError):
    """A caption or an answer that gives no draft; the message is the reason to count it under."""


def grammar(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """The critter that each caption names, in `count` drawn scenes, no two of them the same scene."""
    return _drafts(captions, critter_of, lambda rng: drawn_places(rng, count), seed)


def template(captions: Iterable[str], count: int, *, seed: int) -> Iterator[Draft]:
    """What each caption is about, in `count` places of the written list."""
    return _drafts(captions, subject_of, lambda rng: listed_places(rng, count), seed)


def _drafts(captions: Iterable[str], subject: Callable, places: Callable, seed: int) -> Iterator[Draft]:
    for index, caption in enumerate(captions):
        rng = np.random.default_rng((seed, index, PLACING))
        try:
            yield Draft(caption=caption, subject=subject(caption), places=places(rng))
        except Unusable as reason:
            yield Draft(caption=caption, dropped=str(reason))


WITHOUT_MODEL = {"identity": template, "critters": grammar}  # recipe -> who writes when no model is given


def critter_of(caption: str) -> str:
    """`red round striped critter with long ears`, wherever it stands in the caption."""
    found = _CRITTER.search(caption)
    if not found:
        raise Unusable("no critter in the caption")
    return found.group()


def is_held_out(subject: str) -> bool:
    """Whether it names a critter that is held out with one eye, two and three: no caption tells how many."""
    return bool(found := _CRITTER.search(subject)) and found.groups() in _held_out()


@cache
def _held_out() -> set[tuple[str, ...]]:
    anyone = world.sample_critter(np.random.default_rng(0))

    def always(named: tuple[str, ...]) -> bool:
        traits = dict(zip(world.NAMED, named, strict=True))
        return all(replace(anyone, **traits, eyes=eyes).held_out for eyes in (1, 2, 3))

    return {named for named in product(*_NAMES) if always(named)}


def drawn_places(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """`beach red hat night`, as pocket's teacher was taught; as often hat or night as in `sample_context`.

    All scenes differ: equal neighbours teach little and hide the gutter between them.
    """
    scenes, chances = rng.permutation(len(world.SCENES))[:count], rng.random((count, 4))
    return tuple(_panel_words(_context(world.SCENES[i], *u)) for i, u in zip(scenes, chances, strict=True))


def _context(scene: str, has: float, which: float, color: float, light: float) -> world.Context:
    """Four chances in [0, 1) made words; one by one `rng.choice` would take most of the time."""
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
    """`fluffy white cat` of `A photo of a fluffy white cat sleeping on a sofa.`

    The rule, and no more than this: leave out what names the medium and the article, and stop at the first
    word or mark that begins a place or an action. Unusable: nothing is left, or there seem to be several.
    """
    text = _ARTICLE.sub("", _MEDIUM.sub("", caption, count=1), count=1)
    subject = text[: found.start()] if (found := _END.search(text)) else text
    if _SEVERAL.match(subject):
        raise Unusable("several subjects")
    if not re.search(r"[^\W\d]{2}", subject):
        raise Unusable("no subject found")
    return subject.strip()


def ask(captions: Iterable[str], count: int, *, vlm: VLM, recipe: Recipe, path: Path) -> Iterator[Draft]:
    """What a language model makes of each caption, `vlm.batch` captions at a time.

    Every answer is in `path` before it is used: nothing is asked twice, whatever is killed, and what could
    not be read can be looked at. RunError: the answers there are to other questions.
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
    """Each caption, and why it is not worth a question: the same one would be given the same answer."""
    seen = set()
    for caption in captions:
        key, words = caption.casefold(), len(caption.split())
        if key in seen or not 0 < words <= CAPTION_WORDS:
            yield caption, "empty caption" if not words else "repeated caption" if key in seen else "too long"
        else:
            yield caption, None
        seen.add(key)


def _ask_block(made: list[jsonl.Row], vlm: VLM, recipe: Recipe) -> None:
    """Put the answers into the rows: `clear` into each, `written` where that was yes."""
    _put("clear", made, vlm, recipe.filter)
    _put("written", [row for row in made if _yes(row["clear"])], vlm, recipe.write)


def _put(name: str, made: list[jsonl.Row], vlm: VLM, question: str) -> None:
    asked = (Request(question.format(caption=row["caption"], count=row["panels"])) for row in made)
    for row, answer in zip(made, vlm.ask_many(asked), strict=True):
        row[name] = answer


def _yes(answer: str) -> bool | None:
    """None: neither yes nor no, so not an answer."""
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
    """Subject and places of `subject: ... 1: ... 2: ...`, on lines of their own or on one.

    Unusable unless the fields are exactly these, in this order, each of them on one line and not empty, and
    no two places the same.
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
    """RunError where a run's row was made with other settings or captions than `now`."""
    for name, value in now.items():
        if row.get(name) != value:
            raise jsonl.RunError(
                f"{path} was made with {name} {row.get(name)!r}, not {value!r}: use that, or another folder"
            )
