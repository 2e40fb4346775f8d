"""Finding the panels of a drawn grid: where its gutters are, or where neighboring panels meet without one.

Teachers draw gutters of any width and color, or none, and not always exactly where they belong. Each line
between two rows or columns is looked for near its place and must be visible beside every panel that it
separates: one wide image above two others is not a grid. A frame around the grid is removed with the gutters.

Panels that are within two pixels of equal parts are cut at equal parts.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # left, upper, right, lower, in pixels

# Lengths are in panel sides.
NEAR = 0.1  # farthest that a gutter may be from its place
WIDEST = 0.25  # widest gutter or frame; a plain band that is wider is background, or else a fault
NARROWEST = 0.04  # least background at a boundary of which nothing can be seen
SOFT = 0.008  # what belongs to no panel beside a gutter
PLAIN = 0.05  # largest deviation of 95 % of a gutter's line from its color, as a share of the grid's contrast
STEP = 14  # difference between neighboring pixels that shows a boundary, in levels of 255; less in dark grids
SEEN = 0.5  # least share of a boundary that is visible beside each panel: neighbors may share a background
FRAMED = 0.4  # least visible share of the edge of a frame that is too wide
CLEAR = 0.3  # least lead of a boundary over three quarters of the other lines: textures differ everywhere
STRONGER = 0.2  # largest lead of a line inside the panels over the weakest boundary
DIVIDED = 0.65  # visibility of lines inside all panels, of the weakest boundary's, that shows smaller panels
CONTENT = 0.005  # least share of a panel that differs from its background
EQUAL = 2  # pixels by which panels may be off equal parts and still be cut there


@dataclass(frozen=True)
class Line:
    """A boundary: pixels from `start` to `end` belong to no panel; `strength` is the visible share of it."""

    start: int
    end: int
    strength: float = 1.0


def find_panels(grid: Image.Image, rows: int, columns: int) -> list[Box] | str:
    """Return the boxes of the panels in reading order, all of one size, or the reason why there are none."""
    pixels = np.asarray(grid.convert("RGB"), dtype=np.float32)  # [height, width, 3]
    contrast = float(np.quantile(pixels, 0.99) - np.quantile(pixels, 0.01))
    upright, level = _find_axes(pixels, rows, columns, contrast)
    for axis, name in ((upright, "columns"), (level, "rows")):
        if None in axis.lines:
            missing = axis.lines.index(None) + 1
            return f"gutters: no boundary between {name} {missing} and {missing + 1}"
        if axis.is_too_wide():
            return f"gutters: wider than a quarter of a panel, between or around {name}"
        if axis.is_stronger_inside():
            return f"gutters: a stronger boundary inside the {name} than between them"
    if upright.is_divided() and level.is_divided():
        return f"gutters: more than {rows}x{columns} panels"
    boxes, equal = _crop_boxes(upright.spans(), level.spans()), equal_boxes(grid, rows, columns)
    if equal and np.abs(np.subtract(boxes, equal)).max() <= EQUAL:
        boxes = equal
    if any(not _has_content(pixels, box, contrast) for box in boxes):
        return "gutters: a panel is empty"
    return boxes


def _find_axes(pixels: np.ndarray, rows: int, columns: int, contrast: float) -> tuple["Axis", "Axis"]:
    """Return the axes of the columns and the rows, each without the frame on its sides."""
    turned = pixels.transpose(1, 0, 2)
    upright = Axis(turned, columns, rows, contrast)
    if upright.is_too_wide():
        return upright, upright
    level = Axis(pixels[:, upright.first : upright.last], rows, columns, contrast)
    if (level.first, level.last) != (0, len(pixels)) and not level.is_too_wide():
        upright = Axis(turned[:, level.first : level.last], columns, rows, contrast)
    return upright, level


def equal_boxes(grid: Image.Image, rows: int, columns: int) -> list[Box]:
    """Return the boxes of equal panels in reading order, or [] if the grid does not divide into them."""
    width, height = grid.width // columns, grid.height // rows
    if (width * columns, height * rows) != grid.size:
        return []
    corners = [(width * column, height * row) for row in range(rows) for column in range(columns)]
    return [(x, y, x + width, y + height) for x, y in corners]


class Axis:
    """The lines across one axis of a grid: `count` panels along it, `segments` panels beside one another.

    `pixels` is [count * side, length, 3].
    """

    def __init__(self, pixels: np.ndarray, count: int, segments: int, contrast: float) -> None:
        self.pixels = pixels
        self.tolerance = float(np.clip(PLAIN * contrast, 3, 10))
        color = np.median(pixels, axis=1)  # [n, 3]
        away = _max_channel(pixels - color[:, None])  # [n, length]
        self.color, self.is_plain = color, np.quantile(away, 0.95, axis=1) <= self.tolerance
        self.side = len(pixels) / count
        self.widest = WIDEST * self.side
        self.soft = max(1, round(SOFT * self.side))
        self.steps = _measure_steps(pixels, segments, contrast)  # [n - 1, segments]
        self.first, self.last = self._find_frame()
        self.side = (self.last - self.first) / count
        places = [self.first + index * self.side for index in range(1, count)]
        self.lines = []  # None where no boundary is found
        if not self.is_too_wide():
            self.lines = [self._find_gutter(place) or self._find_edge(place) for place in places]

    def spans(self) -> list[tuple[int, int]]:
        """Return start and end of each panel."""
        starts = [self.first, *(line.end for line in self.lines)]
        ends = [*(line.start for line in self.lines), self.last]
        return list(zip(starts, ends, strict=True))

    def _count_plain(self, start: int, step: int) -> int:
        """Return how many lines from `start` on are plain and of one color."""
        count = 0
        while 0 <= start + step * count < len(self.color) and self.is_plain[start + step * count]:
            if np.abs(self.color[start + step * count] - self.color[start]).max() > self.tolerance:
                break
            count += 1
        return count

    def _find_frame(self) -> tuple[int, int]:
        """Return where the panels begin and end: behind a plain border, unless it is a background.

        Where a border fades into a background, it is as wide as that on the other side.
        """
        length = len(self.color)
        runs = [self._count_plain(0, 1), self._count_plain(length - 1, -1)]
        edges = [self._measure_edge(line).min() for line in (runs[0], length - 1 - runs[1])]
        least = [SEEN / 2 if run < self.widest else FRAMED for run in runs]
        ends = [run if 0 < run < length and edges[i] >= least[i] else 0 for i, run in enumerate(runs)]
        if any(ends):
            ends = [end or min(runs) for end in ends]
        first, last = (end + self.soft if end else 0 for end in ends)
        return first, length - last

    def _find_gutter(self, place: float) -> Line | None:
        """Return the plain band near `place`; where all is background of one color, a line of no width."""
        reach = NEAR * self.side
        near = range(max(0, int(place - reach)), min(len(self.color), int(place + reach) + 1))
        runs = {i: (self._count_plain(i, -1), self._count_plain(i, 1)) for i in near if self.is_plain[i]}
        bands = {}  # start, end -> distance from the place
        for i, (before, after) in runs.items():
            span = (i - before + 1, i + after)
            if 2 < before + after <= self.widest or min(map(self._see_edge, span)) >= SEEN:
                bands[span] = min(abs(i - place), bands.get(span, reach))
        if bands:  # the nearest of those between two sharp edges, or else of all
            best = min(bands, key=lambda span: (not all(map(self._is_sharp, span)), bands[span]))
            if band := self._sharpen_band(*best, place):
                return band
        middle = round(place)
        if sum(runs.get(middle, (0, 0))) < NARROWEST * self.side:
            return None
        return Line(middle, middle)  # backgrounds of one color meet

    def _sharpen_band(self, start: int, end: int, place: float) -> Line | None:
        """Return the gutter between sharp edges; a side that fades into a background mirrors the other."""
        sharp = [self._is_sharp(start), self._is_sharp(end)]
        if not any(sharp):
            return None
        start = start if sharp[0] else min(end - 1, max(start, round(2 * place - end)))
        end = end if sharp[1] else max(start + 1, min(end, round(2 * place - start)))
        return Line(start - self.soft, end + self.soft)

    def _measure_edge(self, line: int) -> np.ndarray:
        """Return how much of an edge at a line is visible beside each panel, [segments]."""
        return self.steps[max(0, line - 3) : line + 2].max(axis=0, initial=0)

    def _see_edge(self, line: int) -> float:
        return float(self._measure_edge(line).mean())

    def _is_sharp(self, line: int) -> bool:
        return bool((self._measure_edge(line) >= SEEN).all())

    def _find_edge(self, place: float) -> Line | None:
        """Return where two panels meet without a gutter, or None."""
        reach = NEAR * self.side / 2
        wide = np.maximum.reduce([np.roll(self.steps, shift, axis=0) for shift in (-1, 0, 1)])  # uneven lines
        near = range(max(0, int(place - 1 - reach)), min(len(wide), int(place + reach) + 1))
        best = max(near, key=lambda line: (wide[line].mean(), self.steps[line].mean()))
        others = np.delete(self.steps, near, axis=0)
        clear = np.quantile(others, 0.75, axis=0) + CLEAR  # [segments]
        seen = wide[best] >= np.maximum(SEEN, clear)
        if not seen.any() or not (seen | self._is_one_background(best + 1)).all():
            return None
        return Line(best + 1 - self.soft, best + 1 + self.soft, float(wide[best][seen].mean()))

    def _is_one_background(self, line: int) -> np.ndarray:
        """Return for each segment whether the neighboring panels have one color beside the line."""
        parts = np.array_split(self.pixels[line - 2 : line + 2], self.steps.shape[1], axis=1)
        away = [_max_channel(part - np.median(part, axis=(0, 1))) for part in parts]
        return np.array([(one <= 2 * self.tolerance).mean() >= 0.95 for one in away])

    def is_too_wide(self) -> bool:
        """Return whether a gutter or the frame takes more than a quarter of a panel."""
        frame = max(self.first, len(self.color) - self.last) - self.soft
        widths = [line.end - line.start - 2 * self.soft for line in filter(None, self.lines)]
        return max([frame, *widths]) > self.widest

    def is_stronger_inside(self) -> bool:
        """Return whether a line inside the panels is more visible than the weakest boundary."""
        return max(self._measure_inside(*span) for span in self.spans()) > self._find_weakest() + STRONGER

    def is_divided(self) -> bool:
        """Return whether every panel has a line inside that is as visible as a boundary."""
        return all(self._measure_inside(*span) >= DIVIDED * self._find_weakest() for span in self.spans())

    def _find_weakest(self) -> float:
        return min((line.strength for line in self.lines), default=1.0)

    def _measure_inside(self, start: int, end: int) -> float:
        """Return how visible the clearest line inside a panel is, away from its borders."""
        away = int(0.15 * (end - start))
        return float(self.steps[start + away : end - away].mean(axis=1).max(initial=0))


def _max_channel(differences: np.ndarray) -> np.ndarray:
    """Return the largest absolute value of the three channels; `max` over so short an axis is slow."""
    red, green, blue = np.moveaxis(np.abs(differences), -1, 0)
    return np.maximum(np.maximum(red, green), blue)


def _measure_steps(pixels: np.ndarray, segments: int, contrast: float) -> np.ndarray:
    """Return the share of visible steps between each two lines beside each panel, [n - 1, segments]."""
    differences = _max_channel(np.diff(pixels, axis=0))  # [n - 1, length]
    parts = np.array_split(differences >= min(STEP, max(3.0, 0.07 * contrast)), segments, axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def _crop_boxes(across: list[tuple[int, int]], down: list[tuple[int, int]]) -> list[Box]:
    """Return the boxes between the lines, cropped evenly to the size of the smallest."""
    width, height = (min(end - start for start, end in spans) for spans in (across, down))
    lefts = [(start + end - width) // 2 for start, end in across]
    uppers = [(start + end - height) // 2 for start, end in down]
    return [(x, y, x + width, y + height) for y in uppers for x in lefts]


def _has_content(pixels: np.ndarray, box: Box, contrast: float) -> bool:
    left, upper, right, lower = box
    panel = pixels[upper:lower, left:right].reshape(-1, 3)
    away = _max_channel(panel - np.median(panel, axis=0))
    return bool((away > min(10, max(3, PLAIN * contrast))).mean() >= CONTENT)
