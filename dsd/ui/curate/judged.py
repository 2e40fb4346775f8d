"""HTML of the judge's verdict on a pair of images. Text from files and models is escaped."""

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

WORDS = {  # reason -> its meaning in plain words
    SAME: "both show the same one",
    TOO_DIFFERENT: "they do not even look alike",
    TOO_ALIKE: "nearly the same image twice",
    DIFFERENT: "the judge sees two subjects",
    LOW: "one part does not agree well enough",
    UNREADABLE: "the judge's answer cannot be read",
    UNASKED: "the judge was never asked about it",
}


def badge(verdict: str, reason: str) -> str:
    """Return `kept` or `dropped` and the reason as HTML."""
    kept = verdict == KEEP
    name, kind = ("kept", "dsd-kept") if kept else ("dropped", "dsd-dropped")
    return f'<span class="dsd-badge {kind}">{name}</span> <span class="dsd-why">{WORDS[reason]}</span>'


def reasons(pair: Row, verdict: str, minimum: int, below: str = "") -> str:
    """Return the scores, the comparison if the pair is dropped, and all words of the judge, folded.

    Parts that score below `minimum` are highlighted. `below` is HTML that is placed under the words.
    """
    differences = _differences(pair, minimum) if verdict == DROP else ""
    words = f'<details class="dsd-more"><summary>The judge\'s words</summary>{_words(pair)}{below}</details>'
    return _scores(pair["scores"], minimum) + differences + words


def _scores(given: Mapping[str, int] | None, minimum: int) -> str:
    """Return a small bar for each part of the subject, 0 to 4, or an empty string without scores."""
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
    """Return the judge's own comparison, with every mention of a low-scoring part highlighted."""
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
    """Return the heading of the comparison, which keeps the order in which the judge saw the images."""
    return "Comparison, the second image first" if pair.get("turned") else "Comparison"


def _words(pair: Row) -> str:
    """Return subject, both descriptions and the comparison, or the answer that could not be read."""
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
