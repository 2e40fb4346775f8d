"""What a judge says about two images, in words: each trait the same or different, and why a pair is left out.

Text from a run's files and from models is escaped.
"""

import html
import re
from collections.abc import Sequence

from dsd.curation import verdict as verdicts
from dsd.curation.judge import Pair
from dsd.curation.verdict import KEEP, TOP_SCORE

WORDS = {  # reason -> its meaning in plain words
    verdicts.SAME: "the judge sees one subject",
    verdicts.TOO_DIFFERENT: "the images do not look alike",
    verdicts.TOO_ALIKE: "nearly the same image twice",
    verdicts.DIFFERENT: "the judge sees two subjects",
    verdicts.LOW: "one trait does not agree well enough",
    verdicts.UNCHANGED: "the judge sees no change",
    verdicts.UNREADABLE: "the judge's answer cannot be read",
    verdicts.REFUSED: "the server refuses to look at these images",
    verdicts.UNASKED: "the judge was never asked about it",
}
MEASURES = re.compile(r"\s*-?\d+(?:\.\d+)?\s*[°%]")  # angles and sizes, which the embedded judge writes
NOTATION = re.compile(r"[-–] .+? (agree|differ)\b")  # its comparison, which repeats the scores
CELLS = {True: ("dsd-same", "✓", "same"), False: ("dsd-low", "✗", "different"), None: ("", "–", "not read")}


def plain(text: str | None) -> str:
    """Return a judge's text as HTML without angles and sizes."""
    return html.escape(" ".join(MEASURES.sub("", text or "").split()))


def comparison(pair: Pair) -> str:
    """Return the judge's own comparison as HTML; "" if there is none, or notation that repeats the scores."""
    text = pair.differences or ""
    return "" if NOTATION.search(text) or text.strip(" .").lower() == "none" else plain(text)


def agreement(pair: Pair, minimum: int) -> dict[str, bool]:
    """Return whether each trait is the same: whether it scores at least `minimum`."""
    return {trait: int(score) >= minimum for trait, score in (pair.scores or {}).items()}


def badge(verdict: str, reason: str) -> str:
    """Return a verdict and its reason."""
    kind, name = ("kept", "kept") if verdict == KEEP else ("dropped", "left out")
    return f'<span class="dsd-badge dsd-{kind}">{name}</span> <span class="dsd-why">{WORDS[reason]}</span>'


def pair_table(pair: Pair, minimum: int) -> str:
    """Return the traits of one pair as a table, with the judge's score of each."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(trait)}</th>{_cell(is_same)}'
        f"<td>{int((pair.scores or {})[trait])} of {TOP_SCORE}</td></tr>"
        for trait, is_same in agreement(pair, minimum).items()
    )
    head = '<th scope="col">trait</th><th scope="col">is</th><th scope="col">score</th>'
    return f'<table class="dsd-traits"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def grid_table(pairs: Sequence[Pair]) -> str:
    """Return the traits of all pairs of a grid as a table, with a column for each pair."""
    found = [agreement(pair, pair.thresholds.minimum_score) for pair in pairs]
    traits = dict.fromkeys(trait for one in found for trait in one)
    columns = "".join(f'<th scope="col">{pair.first + 1} &amp; {pair.second + 1}</th>' for pair in pairs)
    rows = "".join(_row(trait, [one.get(trait) for one in found]) for trait in traits)
    same = _row("subject", [_verdict(pair) for pair in pairs])
    return (
        f'<table class="dsd-traits dsd-grid-traits"><thead><tr><th scope="col">panels</th>{columns}</tr>'
        f"</thead><tbody>{rows}</tbody><tfoot>{same}</tfoot></table>"
    )


def _verdict(pair: Pair) -> bool | None:
    return None if pair.reason in (verdicts.UNREADABLE, verdicts.REFUSED, verdicts.UNASKED) else pair.is_kept


def _row(name: str, values: Sequence[bool | None]) -> str:
    return f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(_cell, values))}</tr>'


def _cell(is_same: bool | None) -> str:
    kind, mark, word = CELLS[is_same]
    return (
        f'<td class="{kind}"><span aria-hidden="true">{mark}</span> <span class="dsd-word">{word}</span></td>'
    )
