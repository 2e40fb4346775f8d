"""A summary of judged pairs; tables and a chart of the judge's grades and of the effect of curation."""

import io
from collections import Counter
from collections.abc import Sequence

from dsd.curation.judge import Pair
from dsd.curation.verdict import SAME, UNREADABLE
from dsd.files.jsonl import Row, RunError
from dsd.files.markdown import table

KEEPS, DROPS = ("#c4561a", "#e8b79c"), ("#3465a4", "#a9c0de")  # color of the total, color of its parts


def markdown(grades: Row) -> str:
    """Return the grades as a page: a table of the totals, then the errors in detail."""
    limits, verdicts = grades["thresholds"], grades["verdicts"]
    reasons = next(iter(verdicts.values()))
    rows = [(reason, *(counts[reason] for counts in verdicts.values())) for reason in reasons]
    parts = [
        f"# How good the judge is: {grades['judge']}",
        f"{grades['pairs']} drawn pairs of critters that no training has seen (seed {grades['seed']}, "
        f"{grades['size']} pixels a side), half of them hard negatives. Kept: {limits['needed']} of "
        f"{limits['votes']} votes call it the same and score no part below {limits['minimum_score']}. "
        "Intervals are Wilson's, 95 %.",
        shares("", grades["in_all"]),
        "Pairs of two critters that differ in one trait, and were kept all the same:",
        shares("trait changed", grades["false_keeps"]),
        "Pairs of one critter that were dropped:",
        shares("one critter", grades["false_drops"]),
        table(("verdict", *verdicts), rows),
    ]
    return "\n\n".join(parts)


def summary(pairs: Sequence[Pair]) -> list[str]:
    """Return lines that say how many pairs were kept, and why the others were not."""
    counts = Counter(pair.reason for pair in pairs)
    kept = counts.pop(SAME, 0)
    count = len({pair.grid for pair in pairs})
    lines = [f"{len(pairs)} pairs of {count} grids, {kept} kept ({kept / len(pairs):.1%})"]
    lines += [f"  {count} {reason}" for reason, count in counts.most_common()]
    if unreadable := [pair for pair in pairs if pair.reason == UNREADABLE]:
        lines.append(f"  an unreadable answer about {unreadable[0].id}: {unreadable[0].answers[0][:200]!r}")
    return lines


def worth_page(worth: Row) -> str:
    """Return the effect of curation as tables."""
    traits = [(trait, *map(percent, shares.values())) for trait, shares in worth["traits"].items()]
    parts = [
        shares("true pairs", worth["true_pairs"]),
        shares("", worth["recall"]),
        shares("true pairs by reason", worth["by_reason"]),
        table(("trait agrees", "of all pairs", "of the kept"), traits),
    ]
    quantiles = {kind: values for kind, values in worth["similarity"].items() if values}
    if quantiles:
        heads = ("similarity at", *next(iter(quantiles.values())))
        rows = [(kind, *(f"{it:.3f}" for it in values.values())) for kind, values in quantiles.items()]
        parts.append(table(heads, rows))
    return "\n\n".join(parts)


def shares(title: str, groups: dict[str, Row]) -> str:
    """Return a table of shares with their intervals."""
    rows = [
        (name.replace("_", " "), n["pairs"], percent(n["share"]), interval(n)) for name, n in groups.items()
    ]
    return table((title, "pairs", "share", "95 % interval"), rows)


def percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def interval(one: Row) -> str:
    return "none" if one["low"] is None else f"{one['low']:.1%} to {one['high']:.1%}"


def chart(grades: Row) -> bytes:
    """Return a PNG with a bar and its interval for each kind of error; shorter is better."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RunError(
            "the chart needs the package matplotlib, which is missing: pip install -r train/requirements.txt"
        ) from error
    right = grades["in_all"]["accuracy"]
    keeps = {"all that changed": grades["in_all"]["false keeps"], **grades["false_keeps"]}
    drops = {"all of one critter": grades["in_all"]["false drops"], **grades["false_drops"]}
    figure = Figure(figsize=(8.6, 7), dpi=100, layout="constrained")
    figure.suptitle(
        f"How often the judge errs: {grades['judge']}\nright on {percent(right['share'])} of "
        f"{right['pairs']} pairs ({interval(right)}); lines are 95 % intervals"
    )
    upper, lower = figure.subplots(2, height_ratios=(len(keeps), len(drops)), sharex=True)
    _bars(upper, "kept, though one trait was changed", keeps, KEEPS)
    _bars(lower, "dropped, though it is one critter", drops, DROPS)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _bars(axes, title: str, groups: dict[str, Row], colors: tuple[str, str]) -> None:
    """Draw horizontal bars below one another; the first one is the total."""
    known = {name.replace("_", " "): one for name, one in groups.items() if one["share"] is not None}
    values = [one["share"] for one in known.values()]
    below = [one["share"] - one["low"] for one in known.values()]
    above = [one["high"] - one["share"] for one in known.values()]
    hues = [colors[0], *[colors[1]] * (len(known) - 1)]
    bars = axes.barh(list(known), values, xerr=[below, above], color=hues)
    axes.bar_label(bars, [f"{percent(one['share'])} of {one['pairs']}" for one in known.values()], padding=6)
    axes.set_title(title)
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
