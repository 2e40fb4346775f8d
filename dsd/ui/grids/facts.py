"""Facts about a drawn grid as HTML: its prompt, its borders, and how well its panels agree."""

import html
from collections.abc import Sequence

from dsd.curation.judge import Pair
from dsd.grids.grids import Grid
from dsd.ui.curate import cards
from dsd.ui.messages import notice, problem, quiet, sentence

NO_JUDGE = (
    "No judge knows these grids: start the app with --judge and the name of a vision-language model, such as "
    "Qwen/Qwen2.5-VL-3B-Instruct."
)


def facts(
    grid: Grid, *, unknown: list[str], pairs: Sequence[Pair], expected: int, unjudged: str | None
) -> str:
    """Return all facts as HTML.

    `unknown` are words that the model does not know, `expected` is the number of pairs when the judge is
    done, and `unjudged` says why it is not.
    """
    strange = f"The model does not know these words and leaves them out: {', '.join(unknown)}."
    origin = f"seed {grid.seed} · drawn by {grid.generator} in {grid.steps} steps · license {grid.license}"
    return (
        f'<div class="dsd-facts">{_borders(grid.rejected)}{_agreement(pairs, expected, unjudged)}'
        f"<h3>The prompt that the model got</h3><blockquote>{html.escape(grid.prompt)}</blockquote>"
        f"{notice(strange) if unknown else ''}{quiet(origin)}</div>"
    )


def _agreement(pairs: Sequence[Pair], expected: int, unjudged: str | None) -> str:
    heading = "<h3>Is it the same one everywhere?</h3>"
    trouble = notice(sentence(unjudged)) if unjudged else ""
    if not pairs:
        return heading + (trouble or quiet("The judge compares the panels."))
    kept, who = sum(pair.is_kept for pair in pairs), f"The judge ({pairs[0].judge})"
    method = quiet(f"{who} compares two panels at a time and scores each part of the subject from 0 to 4.")
    waiting = "" if len(pairs) == expected or unjudged else quiet("The judge continues.")
    return (
        f'{heading}<p><b class="dsd-large">{kept} of {len(pairs)}</b> pairs of panels show the same one.</p>'
        f'{method}<div class="dsd-pairs">{"".join(map(_pair, pairs))}</div>{waiting}{trouble}'
    )


def _pair(pair: Pair) -> str:
    return (
        f'<div class="dsd-pair"><div><b>Panels {pair.first + 1} and {pair.second + 1}</b> '
        f"{cards.badge(pair.verdict, pair.reason)}</div>"
        f"{cards.reasons(pair, pair.verdict, pair.thresholds.minimum_score)}</div>"
    )


def _borders(reason: str | None) -> str:
    if reason is None:
        return quiet("The borders between the panels are where they should be.")
    reason = reason.removeprefix("gutters: ")
    return problem(f"This grid would be thrown away, because it cannot be cut cleanly: {reason}.")
