"""Plots of loss and scores over the steps: a training's rows become a PNG, with Pillow alone.

A row has a `step` and any of the numbers named in `PANELS`; `identity_low` and `identity_high` beside
`identity` become a band. A reference run is drawn fainter, to show whether a run is on track.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dsd.files import jsonl
from dsd.files.contact_sheet import png

PANELS = {"loss": ("loss",), "scores": ("identity", "following", "product", "copy", "clip_i")}
COLORS = ("#3465a4", "#c4561a", "#3f8f3f", "#8a4fa3", "#777777")  # by position within a panel
LEVELS = {"chance": "chance", "ceiling": "truth"}  # suffix of a name -> word in the legend
WIDTH, HEIGHT, KEY = 620, 280, 250  # of a panel, and of the legend on its right, in pixels
LEFT, TOP, BOTTOM, HEAD = 62, 14, 44, 30
FINE = 3  # plots are drawn this many times larger and then reduced, for smooth lines
INK, GRID, WHITE = "#333333", "#e4e4e4", "#ffffff"
POINTS = 600  # longer lines are averaged down to this many points

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> steps [n], values [n]


def write(
    file: Path, out: Path, *, reference: Path | None = None, title: str = "", note: str | None = None
) -> None:
    """Plot the rows of `file` into the PNG `out`, with `note`, such as an alarm, below in red.

    Raise ValueError if there is nothing to plot yet. A missing reference file is ignored.
    """
    own = series(jsonl.read(Path(file)))
    if not any(name in own for names in PANELS.values() for name in names):
        raise ValueError(f"{file} has no row with a step and a loss or a score yet: nothing to draw")
    other = series(jsonl.read(Path(reference))) if reference else {}
    jsonl.write(Path(out), png(draw(own, reference=other, title=title, note=note)))


def series(lines: Iterable[dict]) -> Series:
    """Return steps and values by name; the last row of a step counts, as a resumed run repeats some."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value) and "step" in line:
                found.setdefault(name, {})[line["step"]] = float(value)
    return {
        name: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for name, values in found.items()
    }


def draw(
    own: Series, *, reference: Series | None = None, title: str = "", note: str | None = None
) -> Image.Image:
    """Draw a panel for each entry of `PANELS` that has numbers, one below the other."""
    reference = reference or {}
    panels = [(name, [n for n in names if n in own]) for name, names in PANELS.items()]
    panels = [(name, names) for name, names in panels if names]
    last = _last_step(own, reference)
    # Cut before smoothing, or a short run would be compared with a mean over much later steps.
    reference = {
        name: (steps[steps <= last], values[steps <= last]) for name, (steps, values) in reference.items()
    }
    reference = {name: line for name, line in reference.items() if len(line[0])}
    said = textwrap.wrap(note or "", 125)
    tall = HEAD + len(panels) * (TOP + HEIGHT + BOTTOM)
    page = Image.new("RGB", (LEFT + WIDTH + KEY, tall + 8 + 18 * len(said)), WHITE)
    pen = ImageDraw.Draw(page)
    pen.text((LEFT, 8), title, fill=INK, font=_font(15))
    for place, (name, names) in enumerate(panels):
        corner = (LEFT, HEAD + TOP + place * (TOP + HEIGHT + BOTTOM))
        axes = _axes(name, names, own, reference, last)
        page.paste(_plot(axes, names, own, reference), corner)
        _frame(pen, corner, axes, name)
        _key(pen, (corner[0] + WIDTH + 16, corner[1] + 2), names, own, bool(_shared(names, reference)))
    pen.multiline_text((LEFT, tall), "\n".join(said), fill="#b00020", font=_font(12))
    return page


def _last_step(own: Series, reference: Series) -> int:
    """Return the plot's last step; the reference may extend it to at most twice our run."""
    mine = max(int(steps[-1]) for steps, _ in own.values())
    theirs = max((int(steps[-1]) for steps, _ in reference.values()), default=0)
    return max(1, mine, min(theirs, 2 * mine))


@dataclass(frozen=True)
class _Axes:
    """The values at a panel's edges."""

    last: int
    low: float
    high: float

    def at(self, steps: np.ndarray, values: np.ndarray) -> list[tuple[float, float]]:
        """Return points in pixels of the panel, enlarged `FINE` times."""
        x = FINE * WIDTH * np.asarray(steps, dtype=float) / self.last
        y = FINE * HEIGHT * (self.high - np.asarray(values, dtype=float)) / (self.high - self.low)
        return list(zip(x.tolist(), y.tolist(), strict=True))


def _axes(panel: str, names: list[str], own: Series, reference: Series, last: int) -> _Axes:
    values = np.concatenate([_smooth(line[1]) for line in _shared(names, own) + _shared(names, reference)])
    if panel == "scores":
        return _Axes(last, min(0.0, float(values.min()) - 0.03), 1.0)
    # The high loss of the first steps would flatten the rest, so it may leave the panel at the top.
    low, high = float(values.min()), float(np.quantile(values, 0.97))
    margin = max((high - low) * 0.12, abs(high) * 0.02, 1e-6)
    return _Axes(last, low - margin, high + margin)


def _shared(names: Sequence[str], lines: Series) -> list[tuple[np.ndarray, np.ndarray]]:
    return [lines[name] for name in names if name in lines]


def _plot(axes: _Axes, names: list[str], own: Series, reference: Series) -> Image.Image:
    """Draw the inside of a panel as a separate image, so that nothing extends beyond its edges."""
    image = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), WHITE)
    pen = ImageDraw.Draw(image, "RGBA")
    for tick in ticks(axes.low, axes.high, 5):
        pen.line(axes.at([0, axes.last], [tick, tick]), fill=GRID, width=FINE)
    for name in names:
        if name in reference:
            _dashes(pen, axes.at(*_binned(*_smoothed(reference[name]))), _tint(COLORS[_place(name)], 0.45))
    for name in names:
        _line(pen, axes, name, own)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _line(pen: ImageDraw.ImageDraw, axes: _Axes, name: str, own: Series) -> None:
    color, (steps, values) = COLORS[_place(name)], own[name]
    if f"{name}_low" in own and f"{name}_high" in own:
        low, high = own[f"{name}_low"], own[f"{name}_high"]
        band = [*axes.at(*low), *reversed(axes.at(*high))]
        if len(low[0]) > 1:
            pen.polygon(band, fill=f"{color}26")
    elif len(values) > 20:  # a noisy line is drawn faintly behind its mean
        pen.line(axes.at(*_binned(steps, values)), fill=_tint(color, 0.7), width=FINE)
    points = axes.at(*_binned(*_smoothed(own[name])))
    pen.line(points, fill=color, width=2 * FINE, joint="curve")
    if len(points) <= 40:
        for x, y in points:
            pen.ellipse([x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE], fill=color)


def _place(name: str) -> int:
    """Return the position of a name in its panel, which selects its color."""
    return next(names.index(name) for names in PANELS.values() if name in names) % len(COLORS)


def _dashes(pen: ImageDraw.ImageDraw, points: list[tuple[float, float]], color: str) -> None:
    """Draw dashes of equal length along the line, whatever the distance between its points."""
    path = np.array(points)
    if len(path) < 2:
        return
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    for start in np.arange(0, along[-1], 11 * FINE):
        ends = np.linspace(start, min(start + 7 * FINE, along[-1]), 4)
        dash = zip(np.interp(ends, along, path[:, 0]), np.interp(ends, along, path[:, 1]), strict=True)
        pen.line([(float(x), float(y)) for x, y in dash], fill=color, width=2 * FINE)


def _frame(pen: ImageDraw.ImageDraw, corner: tuple[int, int], axes: _Axes, name: str) -> None:
    """Draw axes, tick labels and names around a panel."""
    x, y = corner
    pen.line([(x, y), (x, y + HEIGHT), (x + WIDTH, y + HEIGHT)], fill=INK)
    for tick in ticks(axes.low, axes.high, 5):
        level = y + HEIGHT * (axes.high - tick) / (axes.high - axes.low)
        pen.text((x - 8, level), f"{tick:.4g}", fill=INK, font=_font(12), anchor="rm")
    for tick in ticks(0, axes.last, 6):
        if tick == int(tick):
            place = x + WIDTH * tick / axes.last
            pen.line([(place, y + HEIGHT), (place, y + HEIGHT + 4)], fill=INK)
            pen.text((place, y + HEIGHT + 7), f"{int(tick):,}", fill=INK, font=_font(12), anchor="mt")
    pen.text((x + WIDTH / 2, y + HEIGHT + 24), "step", fill=INK, font=_font(12), anchor="mt")
    pen.text((x + 6, y - 4), name, fill=INK, font=_font(13), anchor="lb")


def _key(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], names: list[str], own: Series, with_reference: bool
) -> None:
    """Draw the legend: the color, latest value, chance level and ceiling of each line."""
    x, y = corner
    for name in names:
        pen.line([(x, y + 8), (x + 18, y + 8)], fill=COLORS[_place(name)], width=3)
        pen.text((x + 26, y), f"{name} {_smooth(own[name][1])[-1]:.3f}", fill=INK, font=_font(13))
        ends = [(word, own[f"{name}_{end}"][1]) for end, word in LEVELS.items() if f"{name}_{end}" in own]
        levels = [f"{word} {values[-1]:.2f}" for word, values in ends]
        pen.text((x + 26, y + 17), ", ".join(levels), fill="#888888", font=_font(11))
        y += 38 if levels else 24
    if with_reference:
        for start in (x, x + 11):
            pen.line([(start, y + 8), (start + 7, y + 8)], fill="#b5b5b5", width=2)
        pen.text((x + 26, y), "reference run", fill=INK, font=_font(13))


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return roughly `about` round numbers from `low` to `high`, in steps of 1, 2, 2.5 or 5 x 10**n."""
    span = (high - low) / about
    power = 10.0 ** math.floor(math.log10(span))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= span * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of 1/40 of the line, [n] -> [n]; leave short lines unchanged."""
    window = np.ones(max(1, len(values) // 40) | 1)  # odd, so that the window is centered
    if len(values) < 40:
        return values
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _smoothed(line: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return line[0], _smooth(line[1])


def _binned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `POINTS` points, each the mean of neighboring ones."""
    if len(steps) <= POINTS:
        return steps, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    return np.array([steps[p].mean() for p in parts]), np.array([values[p].mean() for p in parts])


def _tint(color: str, amount: float) -> str:
    """Return the color moved toward white by the fraction `amount`."""
    values = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(value + (255 - value) * amount):02x}" for value in values)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
