"""HTML of the judge's verdict on a pair of images. Text from files and models is escaped."""

import html
import re

from dsd.curation import verdict as verdicts
from dsd.curation.judge import Pair
from dsd.curation.verdict import DROP, KEEP, TOP_SCORE

WORDS = {  # reason -> its meaning in plain words
    verdicts.SAME: "both show the same one",
    verdicts.TOO_DIFFERENT: "they do not even look alike",
    verdicts.TOO_ALIKE: "nearly the same image twice",
    verdicts.DIFFERENT: "the judge sees two subjects",
    verdicts.LOW: "one part does not agree well enough",
    verdicts.UNREADABLE: "the judge's answer cannot be read",
    verdicts.REFUSED: "the server refuses to look at these images",
    verdicts.UNASKED: "the judge was never asked about it",
}


def badge(verdict: str, reason: str) -> str:
    """Return `kept` or `dropped` and the reason as HTML."""
    name = "kept" if verdict == KEEP else "dropped"
    return f'<span class="dsd-badge dsd-{name}">{name}</span> <span class="dsd-why">{WORDS[reason]}</span>'


def reasons(pair: Pair, verdict: str, minimum: int, below: str = "") -> str:
    """Return the scores, the comparison if the pair is dropped, and all words of the judge, folded.

    Parts that score below `minimum` are highlighted. `below` is HTML that is placed under the words.
    """
    scores = "".join(_score(part, int(value), minimum) for part, value in (pair.scores or {}).items())
    differences = _differences(pair, minimum) if verdict == DROP else ""
    words = f'<details class="dsd-more"><summary>The judge\'s words</summary>{_words(pair)}{below}</details>'
    return (f'<ul class="dsd-scores">{scores}</ul>' if scores else "") + differences + words


def _score(part: str, value: int, minimum: int) -> str:
    """Return a small bar for a part of the subject, 0 to 4."""
    marks = "".join(f"<i{' class=on' if mark < value else ''}></i>" for mark in range(TOP_SCORE))
    return (
        f'<li{" class=dsd-low" if value < minimum else ""}>{html.escape(part)} <span class="dsd-score" '
        f'role="img" aria-label="{value} of {TOP_SCORE}" title="{value} of {TOP_SCORE}">{marks}</span></li>'
    )


def _differences(pair: Pair, minimum: int) -> str:
    """Return the judge's own comparison, with every mention of a low-scoring part highlighted."""
    if not pair.differences or not pair.scores:
        return ""
    low = [re.escape(part) for part, value in pair.scores.items() if int(value) < minimum]
    pieces = re.split(rf"\b({'|'.join(low)})\b", pair.differences, flags=re.I) if low else [pair.differences]
    marked = ""
    for index, piece in enumerate(map(html.escape, pieces)):
        marked += f'<b class="dsd-low">{piece}</b>' if index % 2 else piece
    return f'<p class="dsd-differences"><b>{_comparison(pair)}:</b> {marked}</p>'


def _comparison(pair: Pair) -> str:
    """Return the heading of the comparison, which keeps the order in which the judge saw the images."""
    return "Comparison, the second image first" if pair.turned else "Comparison"


def _words(pair: Pair) -> str:
    """Return subject, both descriptions and the comparison, or the answer that could not be read."""
    if not pair.answers:
        return '<p class="dsd-quiet">The judge was not asked about this pair.</p>'
    if not pair.descriptions:
        return f"<p>The judge's answer:</p><pre>{html.escape(pair.answers[0])}</pre>"
    first, second = pair.descriptions
    texts = {
        "Subject": pair.subject, "First": first, "Second": second, _comparison(pair): pair.differences,
    }  # fmt: skip
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in texts.items())
    words = {True: "same", False: "different", None: "unreadable"}
    votes = ", ".join(words[vote] for vote in pair.votes)
    votes = f'<p class="dsd-quiet">Votes: {votes}</p>' if len(pair.votes) > 1 else ""
    return f'<dl class="dsd-reasons">{rows}</dl>{votes}'
