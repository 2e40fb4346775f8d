"""Markdown tables and a chart of the judge's grades and of the effect of curation."""

from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from dsd.files.jsonl import Row

WIDTH, PAD, LEFT, RIGHT, HEAD, FOOT = 860, 20, 180, 150, 66, 12  # pixels
TITLE, STEP, BAR, AXIS = 34, 26, 16, 34
INK, FAINT, GRID = "#333333", "#888888", "#e4e4e4"
KEEPS, DROPS = ("#c4561a", "#e8b79c"), ("#3465a4", "#a9c0de")  # color of the total, color of its parts


def markdown(grades: Row) -> str:
    """Return the grades as a page: a table of the totals, then the errors in detail."""
    return "\n\n".join(
        [
            f"# How good the judge is: {grades['judge']}",
            _conditions(grades),
            shares("", grades["in_all"]),
            "Pairs of two critters that differ in one trait, and were kept all the same:",
            shares("trait changed", grades["false_keeps"]),
            "Pairs of one critter that were dropped:",
            shares("one critter", grades["false_drops"]),
            table(("verdict", *grades["verdicts"]), _verdicts(grades)),
        ]
    )


def _conditions(grades: Row) -> str:
    limits = grades["thresholds"]
    return (
        f"{grades['pairs']} drawn pairs of critters that no training has seen (seed {grades['seed']}, "
        f"{grades['size']} pixels a side), half of them hard negatives. Kept: {limits['needed']} of "
        f"{limits['votes']} votes call it the same and score no part below {limits['minimum_score']}. "
        "Intervals are Wilson's, 95 %."
    )


def _verdicts(grades: Row) -> list[tuple]:
    kinds = list(grades["verdicts"].values())
    return [(reason, *(kind[reason] for kind in kinds)) for reason in kinds[0]]


def worth_page(worth: Row) -> str:
    """Return the effect of curation as tables."""
    traits = [(trait, *map(percent, one.values())) for trait, one in worth["traits"].items()]
    ranks = list(next((one for one in worth["similarity"].values() if one), {}))
    lie = [
        (kind, *(f"{one[rank]:.3f}" for rank in ranks)) for kind, one in worth["similarity"].items() if one
    ]
    parts = [
        shares("true pairs", worth["true_pairs"]),
        shares("", worth["recall"]),
        shares("true pairs by reason", worth["by_reason"]),
        table(("trait agrees", "of all pairs", "of the kept"), traits),
    ]
    return "\n\n".join([*parts, table(("similarity at", *ranks), lie)] if lie else parts)


def shares(title: str, groups: dict[str, Row]) -> str:
    """Return a table of shares with their intervals."""
    lines = [
        (name.replace("_", " "), one["pairs"], percent(one["share"]), between(one))
        for name, one in groups.items()
    ]
    return table((title, "pairs", "share", "95 % interval"), lines)


def table(heads: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    made = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in made)


def percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def between(one: Row) -> str:
    return "none" if one["low"] is None else f"{one['low']:.1%} to {one['high']:.1%}"


# ---------------------------------------------------------------- chart


def chart(grades: Row) -> Image.Image:
    """Draw a bar with its interval for each kind of error; shorter is better."""
    keeps = {"all that changed": grades["in_all"]["false keeps"], **grades["false_keeps"]}
    drops = {"all of one critter": grades["in_all"]["false drops"], **grades["false_drops"]}
    top = _top([*keeps.values(), *drops.values()])
    page = Image.new("RGB", (WIDTH, HEAD + _height(keeps) + _height(drops) + FOOT), "white")
    pen = ImageDraw.Draw(page)
    pen.text((PAD, 14), f"How often the judge errs: {grades['judge']}", fill=INK, font=_font(18))
    right = grades["in_all"]["accuracy"]
    sums = (
        f"right on {percent(right['share'])} of {right['pairs']} pairs ({between(right)}); bars show errors"
    )
    pen.text((PAD, 40), f"{sums}, lines their 95 % intervals", fill=FAINT, font=_font(13))
    _panel(page, HEAD, "kept, though one trait was changed", keeps, top, KEEPS)
    _panel(page, HEAD + _height(keeps), "dropped, though it is one critter", drops, top, DROPS)
    return page


def _top(groups: list[Row]) -> float:
    """Return the right end of the scale: the next round share above all intervals."""
    highest = max(one["high"] or 0.0 for one in groups)
    return next(end for end in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= end)


def _height(groups: dict[str, Row]) -> int:
    return TITLE + STEP * len(groups) + AXIS


def _panel(
    page: Image.Image, y: int, title: str, groups: dict[str, Row], top: float, colors: tuple[str, str]
) -> None:
    """Draw horizontal bars below one another; the first one is the total."""
    pen, span = ImageDraw.Draw(page), WIDTH - LEFT - RIGHT
    pen.text((LEFT, y + 8), title, fill=INK, font=_font(14))
    first, last = y + TITLE, y + TITLE + STEP * len(groups)
    for tick in range(5):
        x = LEFT + span * tick / 4
        pen.line([(x, first), (x, last)], fill=GRID)
        pen.text((x, last + 6), f"{top * tick / 4:.1%}", fill=FAINT, font=_font(12), anchor="mt")
    for place, (name, one) in enumerate(groups.items()):
        middle = first + STEP * place + STEP / 2
        pen.text((LEFT - 12, middle), name.replace("_", " "), fill=INK, font=_font(13), anchor="rm")
        if one["share"] is not None:
            _bar(
                pen,
                middle,
                [LEFT + span * one[end] / top for end in ("share", "low", "high")],
                colors[place > 0],
            )
        words = f"{percent(one['share'])} of {one['pairs']}"
        pen.text((WIDTH - RIGHT + 14, middle), words, fill=INK, font=_font(13), anchor="lm")
    pen.line([(LEFT, first), (LEFT, last)], fill=INK)


def _bar(pen: ImageDraw.ImageDraw, y: float, ends: list[float], color: str) -> None:
    share, low, high = ends
    pen.rectangle([LEFT, y - BAR / 2, max(share, LEFT + 1), y + BAR / 2], fill=color)
    pen.line([(low, y), (high, y)], fill=INK, width=2)
    for end in (low, high):
        pen.line([(end, y - 4), (end, y + 4)], fill=INK, width=2)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
