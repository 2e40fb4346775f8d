"""HTML of the Curate tab: cards of pairs, the keep rate, and how well visitor and judge agree.

Text from a run's files is escaped.
"""

import base64
import html
import io
from collections.abc import Mapping

from PIL import Image

from dsd.curation.verdict import SAME
from dsd.files.jsonl import Row
from dsd.ui.curate import judged

LARGEST = 256  # pixels of an image on a card; without this limit, a page could take megabytes
LIGHT = {"format": "WEBP", "quality": 90}


def images(first: Image.Image, second: Image.Image, pair: Row, places: list[str]) -> str:
    """Return both images side by side, each with the place that the grid's prompt gives it."""
    shown = zip((first, second), (pair["first"], pair["second"]), strict=True)
    return f'<div class="dsd-two">{"".join(_image(image, panel, places) for image, panel in shown)}</div>'


def _image(image: Image.Image, panel: int, places: list[str]) -> str:
    place = html.escape(places[panel] if panel < len(places) else "")
    return (
        f'<figure><img src="{_data(image)}" alt="Panel {panel + 1}: {place}">'
        f"<figcaption>{panel + 1}. {place}</figcaption></figure>"
    )


def _data(image: Image.Image) -> str:
    """Return the image as a data address, because gradio would copy and keep a file for every visitor."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    small.save(stream, **LIGHT)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def words(pair: Row, decision: tuple[str, str], minimum: int) -> str:
    """Return the verdict and the reasons for it; `minimum` is the least score of every part."""
    similarity, (verdict, reason) = pair["similarity"], decision
    alike = "" if similarity is None else f'<span class="dsd-alike">similarity {similarity:.2f}</span>'
    origin = f"pair {pair['id']} · prompt “{pair['prompt']}” · seed {pair['seed']} · judge {pair['judge']}"
    below = f'<p class="dsd-quiet">{html.escape(origin)}</p>'
    return (
        f'<div class="dsd-verdict"><div>{judged.badge(verdict, reason)}</div>{alike}</div>'
        f"{judged.reasons(pair, verdict, minimum, below)}"
    )


def rates(counts: Mapping[str, int], was: int, command: str | None) -> str:
    """Return how many pairs are kept and why others are dropped; `was` is how many the run itself keeps."""
    total = sum(counts.values())
    kept = counts[SAME]
    moved = f", {kept - was:+,} by your thresholds" if kept != was else ""
    bars = "".join(_bar(reason, count, total) for reason, count in counts.items())
    apply = (
        f'<p class="dsd-quiet">You see what these thresholds would do; the run is unchanged. This applies '
        f"them, with the run's folder for RUN:</p><pre>{html.escape(command)}</pre>"
        if command
        else ""
    )
    return (
        f'<div class="dsd-rate"><p><b class="dsd-large">{kept / total:.1%}</b> kept '
        f'<span class="dsd-quiet">({kept:,} of {total:,} pairs{moved})</span></p>'
        f'<ul class="dsd-reasons-why">{bars}</ul>{apply}</div>'
    )


def _bar(reason: str, count: int, total: int) -> str:
    kind = "dsd-kept" if reason == SAME else "dsd-dropped"
    return (
        f'<li title="{judged.WORDS[reason]}"><span>{judged.WORDS[reason]}</span><b>{count:,}</b>'
        f'<div class="dsd-bar"><span class="{kind}" style="width:{count / total:.1%}"></span></div></li>'
    )


def agreement(found: Row) -> str:
    """Return counts, share and kappa as HTML, from the result of `dsd.curation.judge.agreement`."""
    if not found["pairs"]:
        return (
            '<p class="dsd-quiet">Accept or reject some pairs. Then you see here how often the judge would '
            "have done the same.</p>"
        )
    same = found["both_keep"] + found["both_drop"]
    pairs = "pair" if found["pairs"] == 1 else "pairs"
    return (
        f"<p>You and the judge agree on <b>{same} of {found['pairs']:,}</b> {pairs} "
        f"(<b>{found['share']:.0%}</b>).</p>{_table(found)}{_kappa(found['kappa'])}"
    )


def _table(found: Row) -> str:
    rows = (
        ("You accept", found["both_keep"], found["only_person"]),
        ("You reject", found["only_machine"], found["both_drop"]),
    )
    agreed = ((True, False), (False, True))
    body = "".join(
        f'<tr><th scope="row">{name}</th>'
        + "".join(
            f"<td{' class=dsd-agreed' if yes else ''}>{count:,}</td>"
            for count, yes in zip(cells, yeses, strict=True)
        )
        + "</tr>"
        for (name, *cells), yeses in zip(rows, agreed, strict=True)
    )
    head = '<tr><td></td><th scope="col">judge keeps</th><th scope="col">judge drops</th></tr>'
    return f'<table class="dsd-confusion"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _kappa(kappa: float | None) -> str:
    if kappa is None:
        return '<p class="dsd-quiet">Kappa, the agreement beyond chance, needs pairs of both kinds.</p>'
    return (
        f'<p class="dsd-quiet">Beyond chance (kappa): {kappa:.2f}, where 0 is what chance alone gives and '
        "1 is perfect agreement.</p>"
    )
