"""HTML of the Curate tab: cards of pairs with their verdicts, the keep rate, the agreement with the judge.

Text from a run's files and from models is escaped.
"""

import base64
import html
import io
from collections.abc import Mapping

from PIL import Image

from dsd.curation.judge import Agreement, Pair
from dsd.curation.verdict import DROP, KEEP, SAME
from dsd.ui.curate import traits
from dsd.ui.curate.traits import WORDS
from dsd.ui.messages import quiet
from dsd.ui.models import named

LARGEST = 256  # pixels of an image on a card; without this limit, a page could take megabytes
APPLY = (
    "This is what these thresholds would do; the run is unchanged. To apply them, run this command with the "
    "run's folder for RUN:"
)
UNNAMED = "These words name no difference: the judge found it in a hue, an angle or a size."
CHANCE = (
    "Two people who only guess would agree now and then, too: on a scale from 0 for guessing to 1 for always "
    "the same answer, the two of you reach {reached:.2f}."
)
NO_CHANCE = (
    "Mark kept and left-out pairs, some as same and some as different, to see how much better than guessing "
    "that is."
)


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
        f'<figure><img src="data:image/webp;base64,{data}" alt="Panel {panel + 1}, asked for: {place}">'
        f'<figcaption title="asked for: {place}">asked: {place}</figcaption></figure>'
    )


def begin(number: int, pair: Pair, images: str) -> str:
    """Return the first part of a card, which stays while its page is shown: its frame and its images."""
    return (
        f'<div class="dsd-card" id="pair-{number}" role="group" aria-label="Pair {number + 1} on this page" '
        f'tabindex="-1" data-pair="{html.escape(pair.id)}">{images}'
    )


def end(pair: Pair, words: str, label: str | None) -> str:
    """Return the rest of a card: words and the two buttons, of which the visitor's label is pressed."""
    buttons = "".join(
        f'<button type="button" data-label="{verdict}" aria-pressed="{str(label == verdict).lower()}">{name}'
        "</button>"
        for verdict, name in ((KEEP, "Same"), (DROP, "Different"))
    )
    return f'<div class="dsd-words">{words}</div><div class="dsd-labels">{buttons}</div></div>'


def words(pair: Pair, decision: tuple[str, str], minimum: int) -> str:
    """Return the verdict, the traits that differ, and the judge's grounds, folded.

    `minimum` is the least score of every trait.
    """
    different = [trait for trait, is_same in traits.agreement(pair, minimum).items() if not is_same]
    line = f'<p class="dsd-differences"><b>Different:</b> {html.escape(", ".join(different))}</p>'
    shown = line if different and decision[0] == DROP else ""
    return f'<p class="dsd-verdict">{traits.badge(*decision)}</p>{shown}{grounds(pair, minimum)}'


def grounds(pair: Pair, minimum: int) -> str:
    """Return all that the judge says about a pair, and where the pair is from, folded."""
    similarity = "" if pair.similarity is None else f"similarity {pair.similarity:.2f}"
    facts = f"pair {pair.id}", similarity, f"seed {pair.seed}", named("judge", pair.judge)
    origin = " · ".join(filter(None, (*facts, f"prompt “{pair.prompt}”")))
    return (
        f'<details class="dsd-more"><summary>Why?</summary>{answer(pair, minimum)}{quiet(origin)}</details>'
    )


def answer(pair: Pair, minimum: int) -> str:
    """Return the traits as a table and the judge's words, or the answer that could not be read."""
    if not pair.answers:
        return quiet("The judge was not asked about this pair.")
    if not pair.descriptions:
        return f"<p>The judge's answer:</p><pre>{html.escape(str(pair.answers[0]))}</pre>"
    first, second = map(traits.plain, pair.descriptions)
    texts = {"First image": first, "Second image": second, _comparison(pair): traits.comparison(pair)}
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in texts.items() if text)
    is_unnamed = first == second and not all(traits.agreement(pair, minimum).values())
    names = {True: "same", False: "different", None: "unreadable"}
    votes = quiet(f"Votes: {', '.join(names[vote] for vote in pair.votes)}") if len(pair.votes) > 1 else ""
    note = quiet(UNNAMED) if is_unnamed else ""
    return f'{traits.pair_table(pair, minimum)}<dl class="dsd-reasons">{rows}</dl>{note}{votes}'


def _comparison(pair: Pair) -> str:
    """Return the heading of the comparison, which keeps the order in which the judge saw the images."""
    return "Comparison, the second image first" if pair.turned else "Comparison"


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
        f"<li><span>{WORDS[reason]}</span><b>{count:,}</b>"
        f'<div class="dsd-bar"><span class="{kind}" style="width:{count / total:.1%}"></span></div></li>'
    )


def agreement(counts: Agreement) -> str:
    """Return how often the visitor and the judge agree, in all four kinds of pairs, and beyond chance."""
    if not counts.pairs:
        return quiet("Mark some pairs as same or different to see how often the judge agrees with you.")
    same, pairs = counts.both_keep + counts.both_drop, "pair" if counts.pairs == 1 else "pairs"
    chance = NO_CHANCE if counts.kappa is None else CHANCE.format(reached=counts.kappa)
    return (
        f"<p>You and the judge agree on <b>{same} of {counts.pairs:,}</b> {pairs} "
        f'(<b>{counts.share:.0%}</b>).</p><table class="dsd-confusion"><thead><tr>'
        '<td></td><th scope="col">judge keeps</th><th scope="col">judge leaves out</th></tr></thead><tbody>'
        f'<tr><th scope="row">You: same</th><td class="dsd-agreed">{counts.both_keep:,}</td>'
        f'<td>{counts.only_person:,}</td></tr><tr><th scope="row">You: different</th>'
        f'<td>{counts.only_judge:,}</td><td class="dsd-agreed">{counts.both_drop:,}</td></tr></tbody></table>'
        f"{quiet(chance)}"
    )
