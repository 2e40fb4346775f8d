"""HTML of the Curate tab: cards of pairs with their verdicts, the keep rate, the agreement with the judge.

Text from a run's files and from models is escaped.
"""

import base64
import html
import io
import re
from collections.abc import Mapping

from PIL import Image

from dsd.curation import verdict as verdicts
from dsd.curation.judge import Agreement, Pair
from dsd.curation.verdict import DROP, KEEP, SAME, TOP_SCORE
from dsd.ui.messages import quiet

LARGEST = 256  # pixels of an image on a card; without this limit, a page could take megabytes
APPLY = (
    "This is what these thresholds would do; the run is unchanged. To apply them, run this command with the "
    "run's folder for RUN:"
)
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


def images(first: Image.Image, second: Image.Image, pair: Pair, places: list[str]) -> str:
    """Return both images side by side, each with the place that the grid's prompt gives it."""
    panels = (_image(first, pair.first, places), _image(second, pair.second, places))
    return f'<div class="dsd-two">{"".join(panels)}</div>'


def _image(image: Image.Image, panel: int, places: list[str]) -> str:
    """Return a figure with a data address, because gradio would copy and keep a file for every visitor."""
    small, stream = image.copy(), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST))
    small.save(stream, format="WEBP", quality=90)
    data = base64.b64encode(stream.getvalue()).decode()
    place = html.escape(places[panel] if panel < len(places) else "")
    return (
        f'<figure><img src="data:image/webp;base64,{data}" alt="Panel {panel + 1}: {place}">'
        f"<figcaption>{panel + 1}. {place}</figcaption></figure>"
    )


def words(pair: Pair, decision: tuple[str, str], minimum: int) -> str:
    """Return the verdict and the reasons for it; `minimum` is the least score of every part."""
    similarity = ""
    if pair.similarity is not None:
        similarity = f'<span class="dsd-alike">similarity {pair.similarity:.2f}</span>'
    origin = f"pair {pair.id} · prompt “{pair.prompt}” · seed {pair.seed} · judge {pair.judge}"
    return (
        f'<div class="dsd-verdict"><div>{badge(*decision)}</div>{similarity}</div>'
        f"{reasons(pair, decision[0], minimum, quiet(origin))}"
    )


def badge(verdict: str, reason: str) -> str:
    name = "kept" if verdict == KEEP else "dropped"
    return f'<span class="dsd-badge dsd-{name}">{name}</span> <span class="dsd-why">{WORDS[reason]}</span>'


def reasons(pair: Pair, verdict: str, minimum: int, below: str = "") -> str:
    """Return the scores, the comparison if the pair is dropped, and all words of the judge, folded.

    Parts that score below `minimum` are highlighted. `below` is HTML that is placed under the words.
    """
    scores = "".join(_score(part, int(value), minimum) for part, value in (pair.scores or {}).items())
    differences = _differences(pair, minimum) if verdict == DROP else ""
    answer = f"<summary>The judge's words</summary>{_answer(pair)}{below}"
    scores = f'<ul class="dsd-scores">{scores}</ul>' if scores else ""
    return f'{scores}{differences}<details class="dsd-more">{answer}</details>'


def _score(part: str, value: int, minimum: int) -> str:
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


def _answer(pair: Pair) -> str:
    """Return subject, both descriptions and the comparison, or the answer that could not be read."""
    if not pair.answers:
        return quiet("The judge was not asked about this pair.")
    if not pair.descriptions:
        return f"<p>The judge's answer:</p><pre>{html.escape(pair.answers[0])}</pre>"
    first, second = pair.descriptions
    texts = {"Subject": pair.subject, "First": first, "Second": second, _comparison(pair): pair.differences}
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(text))}</dd>" for name, text in texts.items())
    names = {True: "same", False: "different", None: "unreadable"}
    votes = quiet(f"Votes: {', '.join(names[vote] for vote in pair.votes)}") if len(pair.votes) > 1 else ""
    return f'<dl class="dsd-reasons">{rows}</dl>{votes}'


def rates(counts: Mapping[str, int], own: int, command: str | None) -> str:
    """Return how many pairs are kept and why others are dropped; `own` is how many the run itself keeps."""
    total, kept = sum(counts.values()), counts[SAME]
    change = f", {kept - own:+,} by your thresholds" if kept != own else ""
    bars = "".join(_bar(reason, count, total) for reason, count in counts.items())
    apply = f"{quiet(APPLY)}<pre>{html.escape(command)}</pre>" if command else ""
    return (
        f'<div class="dsd-rate"><p><b class="dsd-large">{kept / total:.1%}</b> kept '
        f'<span class="dsd-quiet">({kept:,} of {total:,} pairs{change})</span></p>'
        f'<ul class="dsd-reasons-why">{bars}</ul>{apply}</div>'
    )


def _bar(reason: str, count: int, total: int) -> str:
    kind = "dsd-kept" if reason == SAME else "dsd-dropped"
    return (
        f'<li title="{WORDS[reason]}"><span>{WORDS[reason]}</span><b>{count:,}</b>'
        f'<div class="dsd-bar"><span class="{kind}" style="width:{count / total:.1%}"></span></div></li>'
    )


def agreement(counts: Agreement) -> str:
    if not counts.pairs:
        return quiet("Accept or reject some pairs to see how often the judge agrees with you.")
    same, pairs = counts.both_keep + counts.both_drop, "pair" if counts.pairs == 1 else "pairs"
    kappa = "Kappa, the agreement beyond chance, needs pairs of both kinds."
    if counts.kappa is not None:
        kappa = f"Beyond chance (kappa): {counts.kappa:.2f}; 0 is chance, 1 is perfect agreement."
    return (
        f"<p>You and the judge agree on <b>{same} of {counts.pairs:,}</b> {pairs} "
        f'(<b>{counts.share:.0%}</b>).</p><table class="dsd-confusion"><thead><tr><td></td>'
        '<th scope="col">judge keeps</th><th scope="col">judge drops</th></tr></thead><tbody>'
        f'<tr><th scope="row">You accept</th><td class=dsd-agreed>{counts.both_keep:,}</td>'
        f'<td>{counts.only_person:,}</td></tr><tr><th scope="row">You reject</th>'
        f"<td>{counts.only_judge:,}</td><td class=dsd-agreed>{counts.both_drop:,}</td></tr></tbody></table>"
        f"{quiet(kappa)}"
    )
