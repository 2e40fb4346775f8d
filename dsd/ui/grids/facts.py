"""Facts about a drawn grid as HTML: its prompt, its borders, and how well its panels agree."""

import html
from collections.abc import Sequence

from dsd.curation.verdict import KEEP
from dsd.files.jsonl import Row
from dsd.ui.curate import judged
from dsd.ui.messages import notice, problem, sentence

NO_JUDGE = (
    "Nobody can judge these grids here: start the app with --judge and the name of a vision-language model, "
    "such as Qwen/Qwen2.5-VL-3B-Instruct."
)


def facts(
    grid: Row,
    *,
    borders: str | None,
    unknown: list[str],
    pairs: Sequence[Row],
    expected: int,
    unjudged: str | None,
) -> str:
    """Return all facts as HTML.

    `grid` is a row with the teacher's stamp; `borders` says what is wrong with the gutters.
    """
    return (
        f'<div class="dsd-facts">{_borders(borders)}{_agreement(pairs, expected, unjudged)}'
        f"{_wording(grid, unknown)}{_origin(grid)}</div>"
    )


def _agreement(pairs: Sequence[Row], expected: int, unjudged: str | None) -> str:
    heading = "<h3>Is it the same one everywhere?</h3>"
    trouble = notice(sentence(unjudged)) if unjudged else ""
    if not pairs:
        return heading + (trouble or '<p class="dsd-quiet">The judge is looking.</p>')
    kept = sum(pair["verdict"] == KEEP for pair in pairs)
    judge = html.escape(str(pairs[0]["judge"]))
    told = (
        f'<p><b class="dsd-large">{kept} of {len(pairs)}</b> pairs of panels show the same one.</p>'
        f'<p class="dsd-quiet">The judge ({judge}) compares two panels at a time and scores each part of the '
        "subject from 0 to 4.</p>"
    )
    rows = "".join(map(_pair, pairs))
    waiting = "" if len(pairs) == expected or unjudged else '<p class="dsd-quiet">The judge goes on.</p>'
    return f'{heading}{told}<div class="dsd-pairs">{rows}</div>{waiting}{trouble}'


def _pair(pair: Row) -> str:
    return (
        f'<div class="dsd-pair"><div><b>Panels {pair["first"] + 1} and {pair["second"] + 1}</b> '
        f"{judged.badge(pair['verdict'], pair['reason'])}</div>"
        f"{judged.reasons(pair, pair['verdict'], pair['thresholds']['minimum_score'])}</div>"
    )


def _wording(grid: Row, unknown: list[str]) -> str:
    strange = (
        notice(f"The model does not know these words and leaves them out: {', '.join(unknown)}.")
        if unknown
        else ""
    )
    words = html.escape(grid["prompt"])
    return f"<h3>The words the model was given</h3><blockquote>{words}</blockquote>{strange}"


def _borders(reason: str | None) -> str:
    if reason is None:
        return '<p class="dsd-quiet">The borders between the panels are where they should be.</p>'
    why = reason.removeprefix("gutters: ")
    return problem(f"This grid would be thrown away, because it cannot be cut cleanly: {why}.")


def _origin(grid: Row) -> str:
    told = [
        f"seed {grid['seed']}",
        f"drawn by {grid['generator']} in {grid['steps']} steps",
        f"license {grid['license']}",
    ]
    return f'<p class="dsd-quiet">{html.escape(" · ".join(told))}</p>'
