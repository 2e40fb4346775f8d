"""What an answer of a language model says: a verdict with scores, yes or no, a caption, or a list of places.

Every reader is a pure function and returns None where a careful person would find no answer: a refusal, a
text that breaks off, a hedge, the question repeated, or two answers that contradict each other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsd.vlm import wordings
from dsd.vlm.base import is_refused
from dsd.vlm.fields import extract_text, read_fields

TOP_SCORE = 4
SYMBOLS = r"[\u2600-\u27bf\U0001f000-\U0001ffff\ufe0f\s]+"  # emoji


@dataclass(frozen=True, kw_only=True)
class Judgment:
    """A judge's answer; `scores` is None unless every part has a whole number from 0 to 4."""

    same: bool | None
    subject: str | None
    first: str
    second: str
    differences: str
    scores: dict[str, int] | None


def read_judgment(raw: str, parts: Sequence[str]) -> Judgment:
    """Return what a judge says about two images; each field that cannot be read is None or empty."""
    labels = wordings.LABELS | {part: wordings.PARTS.get(part, ()) for part in parts}
    fields = read_fields(raw, labels)
    text = {name: _clean(values[-1]) for name, values in fields.items()}
    subject = _strip_quotes(text.get("subject", "").split("\n")[0].strip())
    return Judgment(
        same=_read_same(fields),
        subject=subject if subject and not subject.startswith("...") else None,
        first=text.get("first", ""),
        second=text.get("second", ""),
        differences=text.get("differences", ""),
        scores=_read_scores(fields, parts),
    )


def _read_same(fields: dict[str, list[str]]) -> bool | None:
    """Return the verdict from its own field; None if there is none, or two that differ."""
    if "verdict" in fields:
        values = [value for value in fields["verdict"] if not re.match(wordings.TEMPLATE, value)]
        verdicts = set(map(read_verdict, values))
    else:
        verdicts = {{"true": True, "false": False}.get(value.lower()) for value in fields.get("same", ())}
    return verdicts.pop() if len(verdicts) == 1 else None


def read_verdict(value: str) -> bool | None:
    """Return whether a verdict says "the same", or None if it says neither, both, or hedges."""
    line = _clean(value.strip().split("\n")[0])
    text = re.sub(r"\([^()]*\)", " ", line).casefold()
    bare = [clause for clause in re.split(r"[,;.]", text) if re.fullmatch(wordings.BARE, clause)]
    if re.search(wordings.HEDGE, text) or len({*map(_read_polarity, bare)} - {None}) > 1:
        return None
    clauses = re.split(r"[,;.]| - |—|–|\bbut\b|\bthough\b|\bwith\b", text)
    readings = [reading for reading in map(_read_polarity, clauses) if reading is not None]
    if re.match(rf"(?:{wordings.NO})\b", text) and readings and readings[0]:
        return None  # "No, the same" contradicts itself
    return readings[0] if readings else None


def _read_polarity(clause: str) -> bool | None:
    """Return what the first word for sameness or difference in a clause says."""
    different, same = _match_words(wordings.DIFFERENT), _match_words(wordings.SAME)
    match = re.search(rf"(?P<different>{different})|{same}", clause)
    if match is None:
        return None
    is_negated = re.search(_match_words(wordings.NOT), clause[: match.start()]) is not None
    if match["different"]:
        return None if is_negated else False  # a double negation is not worth a guess
    return not is_negated


def _match_words(pattern: str) -> str:
    """Return a pattern for whole words; Chinese and Japanese are written without spaces."""
    latin = [word for word in pattern.split("|") if word.isascii() or not re.match(r"[\u3040-\u9fff]", word)]
    other = [word for word in pattern.split("|") if word not in latin]
    return "|".join([rf"(?<![^\W\d_])(?:{'|'.join(latin)})(?![^\W\d_])", *other])


def _read_scores(fields: dict[str, list[str]], parts: Sequence[str]) -> dict[str, int] | None:
    """Return the score of each part, from the field `scores` or from fields named after the parts."""
    text = "\n".join(fields.get("scores", ())[-1:])
    scores = {part: _find_score(part, text) for part in parts}
    for part in parts:
        if scores[part] is None and part in fields:
            scores[part] = _read_number(fields[part][-1])
    numbers = re.findall(r"\d+(?:\.\d+)?", text)
    if set(scores.values()) == {None} and len(numbers) == len(parts):
        scores = dict(zip(parts, map(_read_number, numbers), strict=True))
    return scores if None not in scores.values() else None


def _find_score(part: str, text: str) -> int | None:
    for name in (part, *wordings.PARTS.get(part, ())):
        value = r"[\"']?\s*[:=|*(]*\s*(.+?)(?=[,;\n}|)]|$|\s+[a-z]+\s+\d)"
        if match := re.search(rf"(?i)(?<!\w){re.escape(name)}(?!\w){value}", text):
            return _read_number(match[1])
    return None


def _read_number(text: str) -> int | None:
    """Return a whole number from 0 to 4: `4`, `4.0`, `4/4`, `3 out of 4`, `three`, or 4 for `N/A`."""
    text = re.sub(r"^\{.*?\bscore\W*(\d).*$", r"\1", _clean(text).casefold(), flags=re.DOTALL).strip("\"'* ")
    match = re.match(r"(\d+)(?:\.0+)?(?:\s*(?:/|out of|of|von|sur)\s*4)?(?!\d|\.\d|\s*-\s*\d)", text)
    if match is None:
        return next((value for word, value in wordings.NUMBERS.items() if text.startswith(word)), None)
    return int(match[1]) if int(match[1]) <= TOP_SCORE else None


def likely_cause(raw: str) -> str:
    """Return what to do about judgments that cannot be read, of which this is one."""
    if is_refused(raw):
        return "the model or the content filter of its server refuses the images, so choose another model"
    text = extract_text(raw)
    fields = read_fields(raw, wordings.LABELS)
    if re.search(wordings.REFUSAL, text) and "verdict" not in fields:
        return "the model refuses, so choose another one"
    if not text or (fields and "verdict" not in fields):
        return "the answer breaks off, so raise --max-tokens or turn the model's thinking off"
    return "the model does not keep to the requested form, so choose a larger one"


def read_yes_or_no(raw: str) -> bool | None:
    """Return the answer to a question for yes or no; None for hedges, refusals and both."""
    text = extract_text(raw)
    fields = read_fields(raw, {"answer": wordings.ANSWERS})
    if values := fields.get("answer"):
        text = values[-1]
    text = re.sub(r"(?is)^.*\banswer is\b", "", text)
    text = re.sub(r"^[\W_]+", "", text).casefold()
    text = re.sub(r"^(\w+)(?:\W+\1\b)+", r"\1", text)  # "yes yes yes"
    if re.search(wordings.REFUSAL, text):
        return None
    if re.match(r"(true|false)\b", text):
        return text.startswith("true")
    ends = (r"(?=[\W_]|$)(?!\s*(?:\w|/))", r"(?=\s*\n|\s+(?:it|the|this|there|because|since)\b)")
    match = re.match(wordings.YES_OR_NO + ends[0], text) or re.match(wordings.YES_OR_NO + ends[1], text)
    return None if match is None else match["yes"] is not None


def read_caption(raw: str, question: str = "") -> str | None:
    """Return a caption in one line, without preamble, label, markup, quotes and remarks, or None."""
    text = extract_text(raw)
    if "{" in text:
        values = read_fields(raw, {"caption": wordings.CAPTIONS}).get("caption")
        text = values[0] if values and values[0].lower() not in ("null", "none") else ""
    plain = re.sub(r'"[^"]*"', "", text.replace("’", "'"))  # a sign in the picture may say anything
    if re.search(wordings.REFUSAL, plain) or re.match(wordings.NO_CAPTION, text.strip()):
        return None
    if question and text[:40].casefold() == question[:40].casefold():
        return None
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)]|option \w:?)\s)", text, flags=re.IGNORECASE)
    return next(filter(None, map(_extract_caption, blocks)), None)


def _extract_caption(block: str) -> str:
    """Return the caption in a paragraph, or "" if it holds only a preamble, a label or a remark."""
    lines = [re.sub(r"^\s*(?:[-*•>#]+|\d+[.)])\s+", "", line).strip() for line in block.split("\n")]
    without = re.compile(rf"(?i)```|#\w|\W*(?:{wordings.CAPTION})\W*$|$")
    text = " ".join(line for line in lines if not without.match(line))
    text = re.sub(r"[*_`]{1,3}(\S(?:.*?\S)?)[*_`]{1,3}", r"\1", text)
    text = re.sub(rf"(?i)^\W*(?:the )?(?:{wordings.CAPTION})\s*[:=：]\s*", "", text)
    text = re.sub(r"(?i)^(?:sure|certainly|of course|here)\b[^:\n]*:\s*", "", text)
    text = re.sub(r"(?i)\s*[(\[]\s*\d+ words?\s*[)\]]\s*$", "", text)
    text = re.sub(r"(?:\s+#\w+)+$", "", text)
    text = re.sub(rf"^{SYMBOLS}|{SYMBOLS}$", "", text)
    return "" if re.match(wordings.REMARK, text) or text.endswith(":") else _strip_quotes(text.strip())


def _strip_quotes(text: str) -> str:
    """Return the text without quotation marks around the whole of it."""
    close = wordings.QUOTES.get(text[:1])
    if close is None or len(text) < 2 or text[-1] != close:
        return text
    has_inner = re.search(rf"(?<!\w)[{text[0]}{close}]|[{text[0]}{close}](?!\w)", text[1:-1])
    return text if has_inner else text[1:-1].strip()


def read_places(raw: str, count: int) -> tuple[str, list[str]] | None:
    """Return a subject and `count` places from a writer's answer, or None if one of them is missing."""
    numbered = {f"{i}": (f"situation {i}", f"place {i}") for i in range(1, count + 1)}
    labels = {"subject": ("main subject",), "places": ("situations", "contexts"), **numbered}
    fields = read_fields(raw, labels)
    last = {name: _clean_item(values[-1]) for name, values in fields.items()}
    subject = re.sub(r"(?i)^(?:an?|the)\s+", "", last.get("subject", ""))
    places = [last.get(number, "") for number in numbered]
    if not all(places) and fields.get("places"):
        value = fields["places"][-1]
        places = re.findall(r'"((?:[^"\\]|\\.)*)"', value) or re.findall(r"(?m)^\s*\d+[.)]\s*(.+)$", value)
        places = [_clean_item(place) for place in places[:count]]
    if not subject or len(places) != count or not all(places):
        return None
    return subject, places


def _clean_item(text: str) -> str:
    return _strip_quotes(_clean(text.split("\n")[0])).rstrip(" .;,")


def _clean(text: str) -> str:
    """Return a value without Markdown and fences."""
    text = re.sub(r"```\w*", "", text)
    return re.sub(r"\*+|`|(?<!\w)_|_(?!\w)", "", text).strip()
