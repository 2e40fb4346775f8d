"""Draw one panel of the drawn world with Pillow, on a larger canvas that is then averaged down and blurred.

Coordinates are fractions of the panel, x to the right and y down, until `_Pen` converts them to pixels.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from dsd.pocket import light
from dsd.pocket.family import shipped
from dsd.pocket.world import ACCESSORY_COLORS, Context, Critter

CANVAS = 256  # pixels: 4x a panel of 64, 2x one of 128, where the final blur hides the aliasing that remains
SOFTNESS = 0.8  # standard deviation of the final blur in pixels: soft edges suit a small VAE
PLACE_X = {"left": 0.34, "centre": 0.5, "right": 0.66}
BODY_RADIUS = 0.25
WHITE, INK = (1.0, 1.0, 1.0), (0.10, 0.08, 0.12)


class _Pen:
    """A canvas with an optional rotation and shift; points are in local units, drawing is in pixels."""

    def __init__(self, image: Image.Image, origin=(0.0, 0.0), unit=1.0, turn=0.0):
        self.image, self.origin, self.unit = image, origin, unit
        self.draw = ImageDraw.Draw(image)
        self.cos, self.sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def at(self, x: float, y: float) -> tuple[float, float]:
        x, y = self.unit * x, self.unit * y
        size = self.image.width
        return (
            (self.origin[0] + self.cos * x - self.sin * y) * size,
            (self.origin[1] + self.sin * x + self.cos * y) * size,
        )

    def polygon(self, points, fill) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=_ink(fill, self.image.mode))

    def ellipse(self, x, y, rx, ry, fill) -> None:
        self.polygon(_ellipse(x, y, rx, ry), fill)

    def line(self, points, width, fill) -> None:
        pixels = max(1, round(width * self.unit * self.image.width))
        self.draw.line([self.at(x, y) for x, y in points], _ink(fill, self.image.mode), pixels, joint="curve")

    def bare(self) -> "_Pen":
        return _Pen(self.image)


def _ink(rgb, mode: str):
    return 255 if mode == "L" else (*(round(255 * c) for c in rgb), *((255,) if mode == "RGBA" else ()))


def _ellipse(x, y, rx, ry, count=28):
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _darker(rgb, factor=0.62):
    return tuple(factor * c for c in rgb)


# ---------------------------------------------------------------- scenes

Sky = Callable[[_Pen], None]  # draws the sun or the moon; called after the sky and before the foreground


def _beach(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.45), (0, 0.45)], (0.53, 0.80, 0.97))
    sky(pen)
    pen.polygon([(0, 0.45), (1, 0.45), (1, 0.66), (0, 0.66)], (0.16, 0.52, 0.78))
    pen.polygon([(0, 0.66), (1, 0.66), (1, 1), (0, 1)], (0.94, 0.84, 0.60))


def _forest(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.65), (0, 0.65)], (0.66, 0.84, 0.68))
    sky(pen)
    pen.polygon([(0, 0.65), (1, 0.65), (1, 1), (0, 1)], (0.30, 0.50, 0.24))
    for x in (0.10 + 0.06 * u, 0.42 - 0.06 * u, 0.70 + 0.04 * u, 0.95):
        pen.polygon(
            [(x - 0.025, 0.5), (x + 0.025, 0.5), (x + 0.025, 0.7), (x - 0.025, 0.7)], (0.36, 0.24, 0.14)
        )
        pen.polygon([(x - 0.14, 0.56), (x, 0.06), (x + 0.14, 0.56)], (0.12, 0.36, 0.20))


def _snow(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.62), (0, 0.62)], (0.70, 0.79, 0.88))
    sky(pen)
    left, right = 0.22 + 0.1 * u, 0.74 + 0.1 * u
    pen.polygon([(left - 0.3, 0.62), (left, 0.24), (left + 0.3, 0.62)], (0.55, 0.64, 0.75))
    pen.polygon([(right - 0.26, 0.62), (right, 0.34), (right + 0.26, 0.62)], (0.60, 0.69, 0.79))
    pen.polygon([(0, 0.62), (1, 0.62), (1, 1), (0, 1)], (0.97, 0.98, 1.0))


def _desert(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.6), (0, 0.6)], (0.99, 0.78, 0.52))
    sky(pen)
    pen.polygon([(0, 0.6), (1, 0.6), (1, 1), (0, 1)], (0.88, 0.63, 0.34))
    x, green = 0.1 + 0.8 * (u > 0.5), (0.25, 0.50, 0.28)
    pen.polygon([(x - 0.035, 0.24), (x + 0.035, 0.24), (x + 0.035, 0.68), (x - 0.035, 0.68)], green)
    pen.polygon([(x - 0.11, 0.42), (x + 0.11, 0.42), (x + 0.11, 0.49), (x - 0.11, 0.49)], green)
    pen.polygon([(x - 0.11, 0.32), (x - 0.055, 0.32), (x - 0.055, 0.49), (x - 0.11, 0.49)], green)
    pen.polygon([(x + 0.055, 0.28), (x + 0.11, 0.28), (x + 0.11, 0.49), (x + 0.055, 0.49)], green)


def _city(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.72), (0, 0.72)], (0.83, 0.80, 0.90))
    sky(pen)
    pen.polygon([(0, 0.72), (1, 0.72), (1, 1), (0, 1)], (0.38, 0.37, 0.42))
    for i, height in enumerate((0.24, 0.42, 0.16, 0.34)):
        x = 0.25 * i
        top = height + 0.12 * (u - 0.5) * (-1) ** i
        pen.polygon([(x, top), (x + 0.22, top), (x + 0.22, 0.72), (x, 0.72)], (0.50, 0.47, 0.62))
        for row in (0.07, 0.21):
            pen.polygon([(x + 0.06, top + row), (x + 0.16, top + row), (x + 0.16, top + row + 0.07),
                         (x + 0.06, top + row + 0.07)], (0.98, 0.88, 0.55))  # fmt: skip


def _sea(pen: _Pen, u: float, sky: Sky) -> None:
    for i in range(8):
        shade = i / 7
        pen.polygon([(0, i / 8), (1, i / 8), (1, i / 8 + 0.13), (0, i / 8 + 0.13)],
                    (0.08, 0.60 - 0.32 * shade, 0.85 - 0.35 * shade))  # fmt: skip
    for x, y, r in ((0.12, 0.2, 0.05), (0.86, 0.32, 0.06), (0.1 + 0.1 * u, 0.62, 0.04), (0.82, 0.72, 0.04)):
        pen.ellipse(x, y, r, r, (0.55, 0.82, 0.95))


def _space(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], (0.06, 0.05, 0.16))
    x = 0.15 + 0.7 * (u > 0.5)
    pen.ellipse(x, 0.16, 0.12, 0.12, (0.80, 0.56, 0.36))
    for sx, sy in ((0.5, 0.08), (0.9 - x + 0.08, 0.3), (0.08, 0.55), (0.92, 0.6), (0.15, 0.9), (0.84, 0.92)):
        pen.ellipse(sx, sy, 0.018, 0.018, (0.95, 0.95, 1.0))


def _room(pen: _Pen, u: float, sky: Sky) -> None:
    pen.polygon([(0, 0), (1, 0), (1, 0.7), (0, 0.7)], (0.90, 0.81, 0.73))
    pen.polygon([(0, 0.7), (1, 0.7), (1, 1), (0, 1)], (0.58, 0.40, 0.28))
    x = 0.06 + 0.6 * (u > 0.5)
    pen.polygon([(x, 0.08), (x + 0.28, 0.08), (x + 0.28, 0.38), (x, 0.38)], (0.98, 0.97, 0.95))
    pen.polygon([(x + 0.03, 0.11), (x + 0.25, 0.11), (x + 0.25, 0.35), (x + 0.03, 0.35)], (0.56, 0.78, 0.95))


BACKDROPS = {
    "beach": _beach, "forest": _forest, "snow": _snow, "desert": _desert,
    "city": _city, "sea": _sea, "space": _space, "room": _room,
}  # fmt: skip
GROUND = ("beach", "forest", "snow", "desert", "city", "room")  # the scenes that a shadow falls on


# ---------------------------------------------------------------- critters, in units of the body's radius


def _body(critter: Critter) -> list[tuple[float, float]]:
    a = critter.aspect
    if critter.shape == "round":
        return _ellipse(0, 0, a, 1 / a, 40)
    if critter.shape == "tall":
        return _ellipse(0, -0.12, 0.72 * a, 1.22 / a, 40)
    if critter.shape == "boxy":
        return _superellipse(0.95 * a, 0.9 / a, 6)
    return [(x * a, y / a) for x, y in _rounded([(-1.15, 0.9), (0.0, -1.35), (1.15, 0.9)], 0.25)]


def _superellipse(rx, ry, power, count=40):
    angles = [2 * math.pi * i / count for i in range(count)]
    signed = [(math.cos(a), math.sin(a)) for a in angles]
    return [
        (rx * math.copysign(abs(c) ** (2 / power), c), ry * math.copysign(abs(s) ** (2 / power), s))
        for c, s in signed
    ]


def _rounded(corners, amount):
    """Replace each corner with a short quadratic curve between points on its two edges."""
    points, n = [], len(corners)
    for i, (x, y) in enumerate(corners):
        (px, py), (nx, ny) = corners[i - 1], corners[(i + 1) % n]
        start, end = (
            (x + amount * (px - x), y + amount * (py - y)),
            (x + amount * (nx - x), y + amount * (ny - y)),
        )
        for s in (0, 0.25, 0.5, 0.75, 1):
            w = ((1 - s) ** 2, 2 * s * (1 - s), s * s)
            points.append(
                (w[0] * start[0] + w[1] * x + w[2] * end[0], w[0] * start[1] + w[1] * y + w[2] * end[1])
            )
    return points


def _top(critter: Critter) -> float:
    return min(y for _, y in _body(critter))


def _ears(pen: _Pen, critter: Critter) -> None:
    side = {"round": 0.55, "tall": 0.38, "boxy": 0.6, "pointy": 0.38}[critter.shape] * critter.aspect
    base = {"round": -0.7, "tall": -1.05, "boxy": -0.8, "pointy": -0.5}[critter.shape] / critter.aspect
    rgb, k = _darker(critter.body_rgb, 0.78), critter.ear_length
    for sign in (-1, 1):
        x = sign * side
        if critter.ears == "round":
            pen.ellipse(x + 0.12 * sign, base - 0.12 * k, 0.27 * k, 0.27 * k, rgb)
        if critter.ears == "pointy":
            pen.polygon(
                [(x - 0.26, base + 0.1), (x + 0.2 * sign, base - 0.62 * k), (x + 0.26, base + 0.1)], rgb
            )
        if critter.ears == "long":
            pen.ellipse(x, base - 0.5 * k, 0.15, 0.62 * k, rgb)


def _pattern(size: int, pen: _Pen, critter: Critter, body: list) -> None:
    if critter.pattern == "plain":
        return
    clip = Image.new("L", (size, size))
    _Pen.polygon(_like(pen, clip), body, WHITE)
    marks = Image.new("L", (size, size))
    marker = _like(pen, marks)
    if critter.pattern == "striped":
        _stripes(marker, critter)
    else:
        for x, y, r in critter.spots:
            marker.ellipse(0.95 * x, 0.95 * y, r, r, WHITE)
    pen.image.paste(_ink(critter.accent_rgb, pen.image.mode), (0, 0), ImageChops.multiply(clip, marks))


def _stripes(pen: _Pen, critter: Critter) -> None:
    angle, period = math.radians(critter.stripe_angle), 0.62 * critter.stripe_width
    c, s = math.cos(angle), math.sin(angle)
    for i in range(-4, 5):
        low, high = i * period - period / 4, i * period + period / 4
        corners = ((low, -2.0), (high, -2.0), (high, 2.0), (low, 2.0))
        pen.polygon([(c * x - s * y, s * x + c * y) for x, y in corners], WHITE)


def _like(pen: _Pen, image: Image.Image) -> _Pen:
    twin = _Pen(image, pen.origin, pen.unit)
    twin.cos, twin.sin = pen.cos, pen.sin
    return twin


def _face(pen: _Pen, critter: Critter) -> None:
    y = {"round": -0.2, "tall": -0.35, "boxy": -0.2, "pointy": 0.0}[critter.shape]
    r = 0.245 * critter.eye_size
    gap = {1: 0.0, 2: 0.56, 3: 0.5}[critter.eyes] * (0.85 if critter.shape in ("tall", "pointy") else 1.0)
    for i in range(critter.eyes):
        x = (i - (critter.eyes - 1) / 2) * gap
        pen.ellipse(x, y, r, r, WHITE)
        pen.ellipse(x, y + 0.02, 0.5 * r, 0.5 * r, INK)
    smile = [
        (0.32 * math.cos(a), y + 0.40 + 0.16 * math.sin(a)) for a in np.linspace(0.15, math.pi - 0.15, 9)
    ]
    pen.line(smile, 0.085, INK)


def _feet(pen: _Pen, critter: Critter) -> None:
    for sign in (-1, 1):
        pen.ellipse(0.42 * sign, 0.98, 0.28, 0.17, _darker(critter.body_rgb))


# ---------------------------------------------------------------- accessories


def _behind(pen: _Pen, kind: str, rgb) -> None:
    """Draw a held accessory beside the body, so that it never hides the face."""
    if kind == "balloon":
        pen.line([(0.9, 0.35), (1.2, -0.75)], 0.06, INK)
        pen.ellipse(1.2, -1.12, 0.40, 0.48, rgb)
    if kind == "flag":
        pen.line([(-1.02, 0.85), (-1.02, -1.35)], 0.1, (0.45, 0.30, 0.18))
        pen.polygon([(-1.02, -1.4), (-1.72, -1.4), (-1.72, -0.78), (-1.02, -0.78)], rgb)


def _worn(pen: _Pen, critter: Critter, kind: str, rgb) -> None:
    if kind == "hat":
        top = _top(critter) + (0.42 if critter.shape == "pointy" else 0.14)
        pen.polygon([(-0.62, top - 0.16), (0.62, top - 0.16), (0.62, top + 0.04), (-0.62, top + 0.04)], rgb)
        pen.polygon([(-0.36, top - 0.66), (0.36, top - 0.66), (0.36, top - 0.1), (-0.36, top - 0.1)], rgb)
    if kind == "scarf":
        y, half = (
            0.52,
            {"round": 0.9, "tall": 0.66, "boxy": 0.98, "pointy": 0.98}[critter.shape] * critter.aspect,
        )
        pen.polygon([(-half, y), (half, y), (half, y + 0.26), (-half, y + 0.26)], rgb)
        pen.polygon([(0.28, y + 0.2), (0.58, y + 0.2), (0.58, y + 0.62), (0.28, y + 0.62)], rgb)


# ---------------------------------------------------------------- images


def draw(critter: Critter, context: Context, size: int | None = None) -> Image.Image:
    """Return one RGB panel of `size` x `size` pixels; the default size is that of the shipped family."""
    size = size or shipped().panel
    image, lamp = blank(size), light.BY_NAME[context.light]
    BACKDROPS[context.scene](_Pen(image), context.backdrop, lambda pen: _sun(pen, context, lamp))
    x, y = PLACE_X[context.place] + context.jitter[0], 0.585 + context.jitter[1]
    unit = BODY_RADIUS * context.scale
    layer = Image.new("RGBA", image.size)
    _draw_critter(_Pen(layer, (x, y), unit, context.tilt), critter, context)
    if context.scene in GROUND:
        light.cast_shadow(image, layer, lamp, foot=y + 1.1 * unit)
    image.paste(light.shade(layer, lamp, center=(x, y), radius=unit), mask=layer.getchannel("A"))
    return light.tint(shrink(image, size), lamp)


def _sun(pen: _Pen, context: Context, lamp: light.Light) -> None:
    """Draw the sun or the moon on the side of the light; a light from above is visible only on the beach."""
    if lamp.side:
        pen.ellipse(0.5 + 0.38 * lamp.side, 0.13, 0.09, 0.09, lamp.disk)
    elif context.scene == "beach" and lamp.disk:
        pen.ellipse(0.12 + 0.76 * (context.backdrop > 0.5), 0.13, 0.09, 0.09, lamp.disk)


def blank(size: int) -> Image.Image:
    """Return an empty canvas for a panel of `size` pixels."""
    return Image.new("RGB", (size * max(2, CANVAS // size),) * 2)


def shrink(image: Image.Image, size: int, softness: float = SOFTNESS) -> Image.Image:
    return image.reduce(image.width // size).filter(ImageFilter.GaussianBlur(softness))


def _draw_critter(pen: _Pen, critter: Critter, context: Context) -> None:
    rgb, body = ACCESSORY_COLORS[context.accessory_color], _body(critter)
    _behind(pen, context.accessory, rgb)
    _feet(pen, critter)
    _ears(pen, critter)
    pen.polygon(body, critter.body_rgb)
    _pattern(pen.image.width, pen, critter, body)
    _worn(pen, critter, context.accessory, rgb)
    _face(pen, critter)


def draw_grid(panels: list[Image.Image], columns: int) -> Image.Image:
    """Join the panels row by row, without gutters."""
    size, rows = panels[0].width, len(panels) // columns
    grid = Image.new("RGB", (size * columns, size * rows))
    for i, panel in enumerate(panels):
        grid.paste(panel, (size * (i % columns), size * (i // columns)))
    return grid
