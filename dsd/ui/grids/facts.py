"""Facts about a drawn grid as HTML: its prompt, its borders, and how well its panels agree."""

import html
from collections.abc import Sequence

from dsd.curation.judge import Pair
from dsd.grids.grids import Grid
from dsd.ui.curate import traits
from dsd.ui.messages import notice, problem, quiet, sentence
from dsd.ui.models import named

NO_JUDGE = (
    "No judge knows these grids: start the app with --judge and the name of a vision-language model, such as "
    "Qwen/Qwen2.5-VL-3B-Instruct."
)


def facts(
    grid: Grid, *, unknown: str | None, pairs: Sequence[Pair], expected: int, unjudged: str | None
) -> str:
    """Return all facts as HTML.

    `unknown` is a notice of words that the model does not know, `expected` is the number of pairs when the
    judge is done, and `unjudged` says why it is not.
    """
    drawn = " ".join(filter(None, ("drawn", named("by", grid.generator), f"in {grid.steps} steps")))
    origin = f"seed {grid.seed} · {drawn} · license {grid.license}"
    return (
        f'<div class="dsd-facts">{_borders(grid.rejected)}{_agreement(pairs, expected, unjudged)}'
        f"<h2>The prompt that the model got</h2><blockquote>{html.escape(grid.prompt)}</blockquote>"
        f"{notice(unknown) if unknown else ''}{quiet(origin)}</div>"
    )


def _agreement(pairs: Sequence[Pair], expected: int, unjudged: str | None) -> str:
    """Return the comparisons so far; the status says that more will follow, because it ends with the work."""
    trouble = notice(sentence(unjudged)) if unjudged else ""
    if not pairs:
        return trouble
    kept = sum(pair.is_kept for pair in pairs)
    compared = "" if len(pairs) == expected else f", of {expected} in all"
    return (
        f'<h2>Is it the same one everywhere?</h2><p><b class="dsd-large">{kept} of {len(pairs)}</b> pairs of '
        f"panels show the same one{compared}.</p>{traits.grid_table(pairs)}{trouble}{_descriptions(pairs)}"
        f"{_comparisons(pairs)}{_unread(pairs)}{quiet(named('Judge:', pairs[0].judge))}"
    )


def _descriptions(pairs: Sequence[Pair]) -> str:
    """Return what the judge sees in each panel, once."""
    seen: dict[int, str] = {}
    for pair in pairs:
        for panel, text in zip((pair.first, pair.second), pair.descriptions or (), strict=False):
            seen.setdefault(panel, text)
    lines = "".join(
        f"<dt>Panel {panel + 1}</dt> <dd>{traits.plain(seen[panel])}</dd>" for panel in sorted(seen)
    )
    return f'<h2>What the judge sees</h2><dl class="dsd-known">{lines}</dl>' if seen else ""


def _comparisons(pairs: Sequence[Pair]) -> str:
    """Return the judge's own comparisons, folded."""
    lines = "".join(
        f"<dt>Panels {pair.first + 1} and {pair.second + 1}</dt> <dd>{text}</dd>"
        for pair in pairs
        if (text := traits.comparison(pair))
    )
    folded = (
        f'<details class="dsd-more"><summary>The judge\'s comparisons</summary><dl class="dsd-known">{lines}'
    )
    return f"{folded}</dl></details>" if lines else ""


def _unread(pairs: Sequence[Pair]) -> str:
    """Return the answers that could not be read."""
    return "".join(
        problem(
            f"Panels {pair.first + 1} and {pair.second + 1}: {traits.WORDS[pair.reason]}: {pair.answers[0]}"
        )
        for pair in pairs
        if pair.answers and not pair.descriptions
    )


def _borders(reason: str | None) -> str:
    """Return why a grid cannot be cut, if it cannot."""
    if reason is None:
        return ""
    reason = reason.removeprefix("gutters: ")
    return problem(f"This grid would be thrown away, because it cannot be cut cleanly: {reason}.")
