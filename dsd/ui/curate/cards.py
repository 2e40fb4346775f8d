"""HTML of the Curate tab: cards of pairs, the keep rate, and how well visitor and judge agree.

Text from a run's files is escaped.
"""

import base64
import html
import io
from collections.abc import Mapping

from PIL import Image

from dsd.curation.judge import Agreement, Pair
from dsd.curation.verdict import SAME
from dsd.ui.curate import judged

LARGEST = 256  # pixels of an image on a card; without this limit, a page could take megabytes


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
    verdict, reason = decision
    similarity = ""
    if pair.similarity is not None:
        similarity = f'<span class="dsd-alike">similarity {pair.similarity:.2f}</span>'
    origin = f"pair {pair.id} · prompt “{pair.prompt}” · seed {pair.seed} · judge {pair.judge}"
    below = f'<p class="dsd-quiet">{html.escape(origin)}</p>'
    return (
        f'<div class="dsd-verdict"><div>{judged.badge(verdict, reason)}</div>{similarity}</div>'
        f"{judged.reasons(pair, verdict, minimum, below)}"
    )


def rates(counts: Mapping[str, int], own: int, command: str | None) -> str:
    """Return how many pairs are kept and why others are dropped; `own` is how many the run itself keeps."""
    total, kept = sum(counts.values()), counts[SAME]
    change = f", {kept - own:+,} by your thresholds" if kept != own else ""
    bars = "".join(_bar(reason, count, total) for reason, count in counts.items())
    apply = (
        f'<p class="dsd-quiet">This is what these thresholds would do; the run is unchanged. To apply them, '
        f"run this command with the run's folder for RUN:</p><pre>{html.escape(command)}</pre>"
        if command
        else ""
    )
    return (
        f'<div class="dsd-rate"><p><b class="dsd-large">{kept / total:.1%}</b> kept '
        f'<span class="dsd-quiet">({kept:,} of {total:,} pairs{change})</span></p>'
        f'<ul class="dsd-reasons-why">{bars}</ul>{apply}</div>'
    )


def _bar(reason: str, count: int, total: int) -> str:
    kind = "dsd-kept" if reason == SAME else "dsd-dropped"
    return (
        f'<li title="{judged.WORDS[reason]}"><span>{judged.WORDS[reason]}</span><b>{count:,}</b>'
        f'<div class="dsd-bar"><span class="{kind}" style="width:{count / total:.1%}"></span></div></li>'
    )


def agreement(counts: Agreement) -> str:
    """Return counts, share and kappa as HTML."""
    if not counts.pairs:
        return (
            '<p class="dsd-quiet">Accept or reject some pairs to see how often the judge agrees with you.</p>'
        )
    same, pairs = counts.both_keep + counts.both_drop, "pair" if counts.pairs == 1 else "pairs"
    kappa = (
        "Kappa, the agreement beyond chance, needs pairs of both kinds."
        if counts.kappa is None
        else f"Beyond chance (kappa): {counts.kappa:.2f}; 0 is chance, 1 is perfect agreement."
    )
    return (
        f"<p>You and the judge agree on <b>{same} of {counts.pairs:,}</b> {pairs} "
        f'(<b>{counts.share:.0%}</b>).</p><table class="dsd-confusion"><thead><tr><td></td>'
        '<th scope="col">judge keeps</th><th scope="col">judge drops</th></tr></thead><tbody>'
        f'<tr><th scope="row">You accept</th><td class=dsd-agreed>{counts.both_keep:,}</td>'
        f'<td>{counts.only_person:,}</td></tr><tr><th scope="row">You reject</th>'
        f"<td>{counts.only_judge:,}</td><td class=dsd-agreed>{counts.both_drop:,}</td></tr></tbody></table>"
        f'<p class="dsd-quiet">{kappa}</p>'
    )
