"""What the judge made of a pair of pictures, as HTML. Whatever comes from files or models is escaped."""

import html
import re
from collections.abc import Mapping

from dsd.curation.verdict import (
    DIFFERENT,
    DROP,
    KEEP,
    LOW,
    SAME,
    TOO_ALIKE,
    TOO_DIFFERENT,
    TOP_SCORE,
    UNASKED,
    UNREADABLE,
)
from dsd.files.jsonl import Row

WORDS = {  # reason -> what it means, for somebody who never heard of it
    SAME: "both show the same one",
    TOO_DIFFERENT: "they do not even look alike",
    TOO_ALIKE: "nearly the same picture twice",
    DIFFERENT: "the judge sees two subjects",
    LOW: "one part does not agree well enough",
    UNREADABLE: "the judge's answer cannot be read",
    UNASKED: "the judge was never asked about it",
}


def badge(verdict: str, reason: str) -> str:
    """`kept` or `dropped`, and why."""
    kept = verdict == KEEP
    name, kind = ("kept", "dsd-kept") if kept else ("dropped", "dsd-dropped")
    return f'<span class="dsd-badge {kind}">{name}</span> <span class="dsd-why">{WORDS[reason]}</span>'


def reasons(pair: Row, verdict: str, minimum: int, below: str = "") -> str:
    """Scores, for a dropped pair how the judge compares the two, then all its words, folded away.

    Parts that score below `minimum` stand out. `below` is HTML that goes with the words.
    """
    differences = _differences(pair, minimum) if verdict == DROP else ""
    words = f'<details class="dsd-more"><summary>The judge\'s words</summary>{_words(pair)}{below}</details>'
    return _scores(pair["scores"], minimum) + differences + words


def _scores(given: Mapping[str, int] | None, minimum: int) -> str:
    """A small bar for each part of the subject, 0 to 4; nothing where nothing was scored."""
    if not given:
        return ""
    parts = "".join(_score(part, int(value), minimum) for part, value in given.items())
    return f'<ul class="dsd-scores">{parts}</ul>'


def _score(part: str, value: int, minimum: int) -> str:
    marks = "".join(f"<i{' class=on' if mark < value else ''}></i>" for mark in range(TOP_SCORE))
    return (
        f'<li{" class=dsd-low" if value < minimum else ""}>{html.escape(part)} <span class="dsd-score" '
        f'role="img" aria-label="{value} of {TOP_SCORE}" title="{value} of {TOP_SCORE}">{marks}</span></li>'
    )


def _differences(pair: Row, minimum: int) -> str:
    """In the judge's own words, in which the parts that score low are marked wherever they are named."""
    text, given = pair["differences"], pair["scores"]
    if not text or not given:
        return ""
    low = [re.escape(part) for part, value in given.items() if int(value) < minimum]
    pieces = re.split(rf"\b({'|'.join(low)})\b", str(text), flags=re.IGNORECASE) if low else [str(text)]
    marked = (
        f'<b class="dsd-low">{html.escape(piece)}</b>' if index % 2 else html.escape(piece)
        for index, piece in enumerate(pieces)
    )
    return f'<p class="dsd-differences"><b>{_comparison(pair)}:</b> {"".join(marked)}</p>'


def _comparison(pair: Row) -> str:
    """What to call it; its words keep the order in which the judge saw the pictures."""
    return "Comparison, the second picture first" if pair.get("turned") else "Comparison"


def _words(pair: Row) -> str:
    """Subject, both descriptions, how they compare; or the answer that cannot be read."""
    if not pair["answers"]:
        return '<p class="dsd-quiet">The judge was not asked about this pair.</p>'
    if not pair["descriptions"]:
        return f"<p>What the judge said:</p><pre>{html.escape(str(pair['answers'][0]))}</pre>"
    first, second = pair["descriptions"]
    said = {
        "Subject": pair["subject"],
        "First": first,
        "Second": second,
        _comparison(pair): pair["differences"],
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in said.items())
    return f'<dl class="dsd-reasons">{rows}</dl>{_votes(pair["votes"])}'


def _votes(votes: list[bool | None]) -> str:
    if len(votes) < 2:
        return ""
    words = {True: "same", False: "different", None: "unreadable"}
    return f'<p class="dsd-quiet">Votes: {", ".join(words[vote] for vote in votes)}</p>'
