"""Draw a panel of the drawn world with Pillow, on a larger canvas that is then averaged down and blurred."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from dsd.pocket import light
from dsd.pocket.backdrops import BACKDROPS, GROUND
from dsd.pocket.pen import Color, Pen, Point, ellipse, to_bytes
from dsd.pocket.world import ACCESSORY_COLORS, PANEL, Context, Critter

CANVAS = 256  # pixels: 4x a panel of 64, 2x one of 128, where the final blur hides the aliasing that remains
SOFTNESS = 0.8  # standard deviation of the final blur in pixels: soft edges suit a small VAE
PLACE_X = {"left": 0.34, "centre": 0.5, "right": 0.66}
BODY_RADIUS = 0.25
WHITE, INK = (1.0, 1.0, 1.0), (0.10, 0.08, 0.12)
EYE_GAPS = {1: 0.0, 2: 0.56, 3: 0.5}  # by the number of eyes


class Build(NamedTuple):
    """Where the parts of a body shape are, in units of the body's radius."""

    ear_x: float
    ear_y: float
    face_y: float
    face_width: float
    scarf: float  # half its width


BUILDS = {
    "round": Build(0.55, -0.7, -0.2, 1.0, 0.9),
    "tall": Build(0.38, -1.05, -0.35, 0.85, 0.66),
    "boxy": Build(0.6, -0.8, -0.2, 1.0, 0.98),
    "pointy": Build(0.38, -0.5, 0.0, 0.85, 0.98),
}


def draw(critter: Critter, context: Context, size: int | None = None) -> Image.Image:
    """Return one RGB panel of `size` x `size` pixels, `PANEL` by default."""
    size = PANEL if size is None else size
    image, lamp = blank(size), light.BY_NAME[context.light]
    BACKDROPS[context.scene](Pen(image), context.backdrop, lambda: _draw_sun(Pen(image), context, lamp))
    x, y = PLACE_X[context.place] + context.jitter[0], 0.585 + context.jitter[1]
    unit = BODY_RADIUS * context.scale
    layer = Image.new("RGBA", image.size)
    _draw_critter(Pen(layer, (x, y), unit, context.tilt), critter, context)
    if context.scene in GROUND:
        light.cast_shadow(image, layer, lamp, foot=y + 1.1 * unit)
    image.paste(light.shade(layer, lamp, center=(x, y), radius=unit), mask=layer.getchannel("A"))
    return light.tint(shrink(image, size), lamp)


def blank(size: int) -> Image.Image:
    """Return an empty canvas for a panel of `size` pixels."""
    return Image.new("RGB", (size * max(2, CANVAS // size),) * 2)


def shrink(image: Image.Image, size: int, softness: float = SOFTNESS) -> Image.Image:
    return image.reduce(image.width // size).filter(ImageFilter.GaussianBlur(softness))


def draw_grid(panels: list[Image.Image], columns: int) -> Image.Image:
    """Join the panels row by row, without gutters."""
    size = panels[0].width
    grid = Image.new("RGB", (size * columns, size * (len(panels) // columns)))
    for i, panel in enumerate(panels):
        grid.paste(panel, (size * (i % columns), size * (i // columns)))
    return grid


def _draw_sun(pen: Pen, context: Context, lamp: light.Light) -> None:
    """Draw the sun or the moon on the side of the light; a light from above is visible only on the beach."""
    if lamp.side:
        pen.ellipse(0.5 + 0.38 * lamp.side, 0.13, 0.09, 0.09, lamp.disk)
    elif context.scene == "beach" and lamp.disk:
        pen.ellipse(0.12 + 0.76 * (context.backdrop > 0.5), 0.13, 0.09, 0.09, lamp.disk)


def _draw_critter(pen: Pen, critter: Critter, context: Context) -> None:
    """Draw a critter with its accessory, in units of its body's radius."""
    rgb, body = ACCESSORY_COLORS[context.accessory_color], _outline(critter)
    _draw_held(pen, context.accessory, rgb)
    for sign in (-1, 1):
        pen.ellipse(0.42 * sign, 0.98, 0.28, 0.17, _darken(critter.body_rgb, 0.62))  # feet
    _draw_ears(pen, critter)
    pen.polygon(body, critter.body_rgb)
    _draw_pattern(pen, critter, body)
    _draw_worn(pen, critter, context.accessory, rgb)
    _draw_face(pen, critter)


def _outline(critter: Critter) -> list[Point]:
    aspect = critter.aspect
    if critter.shape == "round":
        return ellipse(0, 0, aspect, 1 / aspect, 40)
    if critter.shape == "tall":
        return ellipse(0, -0.12, 0.72 * aspect, 1.22 / aspect, 40)
    if critter.shape == "boxy":
        circle = ellipse(0, 0, 1, 1, 40)
        return [(0.95 * aspect * _cube_root(x), 0.9 / aspect * _cube_root(y)) for x, y in circle]
    return [(x * aspect, y / aspect) for x, y in _round_corners([(-1.15, 0.9), (0.0, -1.35), (1.15, 0.9)])]


def _cube_root(value: float) -> float:
    return math.copysign(abs(value) ** (2 / 6), value)


def _round_corners(corners: list[Point], amount: float = 0.25) -> list[Point]:
    """Replace each corner with a short quadratic curve between points on its two edges."""
    points = []
    for i, (x, y) in enumerate(corners):
        (px, py), (nx, ny) = corners[i - 1], corners[(i + 1) % len(corners)]
        start = x + amount * (px - x), y + amount * (py - y)
        end = x + amount * (nx - x), y + amount * (ny - y)
        for s in (0, 0.25, 0.5, 0.75, 1):
            a, b, c = (1 - s) ** 2, 2 * s * (1 - s), s * s
            points.append((a * start[0] + b * x + c * end[0], a * start[1] + b * y + c * end[1]))
    return points


def _draw_ears(pen: Pen, critter: Critter) -> None:
    build, length = BUILDS[critter.shape], critter.ear_length
    base, rgb = build.ear_y / critter.aspect, _darken(critter.body_rgb, 0.78)
    for sign in (-1, 1):
        x = sign * (build.ear_x * critter.aspect)
        if critter.ears == "round":
            pen.ellipse(x + 0.12 * sign, base - 0.12 * length, 0.27 * length, 0.27 * length, rgb)
        if critter.ears == "pointy":
            tip = x + 0.2 * sign, base - 0.62 * length
            pen.polygon([(x - 0.26, base + 0.1), tip, (x + 0.26, base + 0.1)], rgb)
        if critter.ears == "long":
            pen.ellipse(x, base - 0.5 * length, 0.15, 0.62 * length, rgb)


def _draw_pattern(pen: Pen, critter: Critter, body: list[Point]) -> None:
    if critter.pattern == "plain":
        return
    clip, marks = Image.new("RGB", pen.image.size), Image.new("RGB", pen.image.size)
    pen.on(clip).polygon(body, WHITE)
    if critter.pattern == "striped":
        _draw_stripes(pen.on(marks), math.radians(critter.stripe_angle), 0.62 * critter.stripe_width)
    else:
        for x, y, r in critter.spots:
            pen.on(marks).ellipse(0.95 * x, 0.95 * y, r, r, WHITE)
    mask = ImageChops.multiply(clip, marks).convert("L")
    pen.image.paste(to_bytes(critter.accent_rgb), (0, 0), mask)


def _draw_stripes(pen: Pen, angle: float, period: float) -> None:
    c, s = math.cos(angle), math.sin(angle)
    for i in range(-4, 5):
        low, high = i * period - period / 4, i * period + period / 4
        corners = ((low, -2.0), (high, -2.0), (high, 2.0), (low, 2.0))
        pen.polygon([(c * x - s * y, s * x + c * y) for x, y in corners], WHITE)


def _draw_face(pen: Pen, critter: Critter) -> None:
    build, r = BUILDS[critter.shape], 0.245 * critter.eye_size
    y, gap = build.face_y, EYE_GAPS[critter.eyes] * build.face_width
    for i in range(critter.eyes):
        x = (i - (critter.eyes - 1) / 2) * gap
        pen.ellipse(x, y, r, r, WHITE)
        pen.ellipse(x, y + 0.02, 0.5 * r, 0.5 * r, INK)
    angles = np.linspace(0.15, math.pi - 0.15, 9)
    pen.line([(0.32 * math.cos(a), y + 0.40 + 0.16 * math.sin(a)) for a in angles], 0.085, INK)


def _draw_held(pen: Pen, accessory: str, rgb: Color) -> None:
    """Draw a held accessory beside the body, so that it never hides the face."""
    if accessory == "balloon":
        pen.line([(0.9, 0.35), (1.2, -0.75)], 0.06, INK)
        pen.ellipse(1.2, -1.12, 0.40, 0.48, rgb)
    if accessory == "flag":
        pen.line([(-1.02, 0.85), (-1.02, -1.35)], 0.1, (0.45, 0.30, 0.18))
        pen.box(-1.02, -1.4, -1.72, -0.78, rgb)


def _draw_worn(pen: Pen, critter: Critter, accessory: str, rgb: Color) -> None:
    if accessory == "hat":
        top = min(y for _, y in _outline(critter)) + (0.42 if critter.shape == "pointy" else 0.14)
        pen.box(-0.62, top - 0.16, 0.62, top + 0.04, rgb)
        pen.box(-0.36, top - 0.66, 0.36, top - 0.1, rgb)
    if accessory == "scarf":
        half = BUILDS[critter.shape].scarf * critter.aspect
        pen.box(-half, 0.52, half, 0.52 + 0.26, rgb)
        pen.box(0.28, 0.52 + 0.2, 0.58, 0.52 + 0.62, rgb)


def _darken(rgb: Color, factor: float) -> Color:
    return tuple(factor * channel for channel in rgb)
