"""The eight scenes of the drawn world, without critters.

Coordinates are fractions of the panel. `shift` in 0..1 moves trees, houses and the like. `sky` draws the sun
or the moon; a scene calls it after its sky and before its foreground.
"""

from collections.abc import Callable

from dsd.pocket.pen import Pen

Sky = Callable[[], None]


def _beach(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.45, (0.53, 0.80, 0.97))
    sky()
    pen.box(0, 0.45, 1, 0.66, (0.16, 0.52, 0.78))
    pen.box(0, 0.66, 1, 1, (0.94, 0.84, 0.60))


def _forest(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.65, (0.66, 0.84, 0.68))
    sky()
    pen.box(0, 0.65, 1, 1, (0.30, 0.50, 0.24))
    for x in (0.10 + 0.06 * shift, 0.42 - 0.06 * shift, 0.70 + 0.04 * shift, 0.95):
        pen.box(x - 0.025, 0.5, x + 0.025, 0.7, (0.36, 0.24, 0.14))
        pen.polygon([(x - 0.14, 0.56), (x, 0.06), (x + 0.14, 0.56)], (0.12, 0.36, 0.20))


def _snow(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.62, (0.70, 0.79, 0.88))
    sky()
    left, right = 0.22 + 0.1 * shift, 0.74 + 0.1 * shift
    pen.polygon([(left - 0.3, 0.62), (left, 0.24), (left + 0.3, 0.62)], (0.55, 0.64, 0.75))
    pen.polygon([(right - 0.26, 0.62), (right, 0.34), (right + 0.26, 0.62)], (0.60, 0.69, 0.79))
    pen.box(0, 0.62, 1, 1, (0.97, 0.98, 1.0))


def _desert(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.6, (0.99, 0.78, 0.52))
    sky()
    pen.box(0, 0.6, 1, 1, (0.88, 0.63, 0.34))
    x, green = 0.1 + 0.8 * (shift > 0.5), (0.25, 0.50, 0.28)
    pen.box(x - 0.035, 0.24, x + 0.035, 0.68, green)
    pen.box(x - 0.11, 0.42, x + 0.11, 0.49, green)
    pen.box(x - 0.11, 0.32, x - 0.055, 0.49, green)
    pen.box(x + 0.055, 0.28, x + 0.11, 0.49, green)


def _city(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.72, (0.83, 0.80, 0.90))
    sky()
    pen.box(0, 0.72, 1, 1, (0.38, 0.37, 0.42))
    for i, height in enumerate((0.24, 0.42, 0.16, 0.34)):
        x, top = 0.25 * i, height + 0.12 * (shift - 0.5) * (-1) ** i
        pen.box(x, top, x + 0.22, 0.72, (0.50, 0.47, 0.62))
        for row in (0.07, 0.21):
            pen.box(x + 0.06, top + row, x + 0.16, top + row + 0.07, (0.98, 0.88, 0.55))


def _sea(pen: Pen, shift: float, sky: Sky) -> None:
    for i in range(8):
        pen.box(0, i / 8, 1, i / 8 + 0.13, (0.08, 0.60 - 0.32 * (i / 7), 0.85 - 0.35 * (i / 7)))
    bubbles = (0.12, 0.2, 0.05), (0.86, 0.32, 0.06), (0.1 + 0.1 * shift, 0.62, 0.04), (0.82, 0.72, 0.04)
    for x, y, r in bubbles:
        pen.ellipse(x, y, r, r, (0.55, 0.82, 0.95))


def _space(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 1, (0.06, 0.05, 0.16))
    x = 0.15 + 0.7 * (shift > 0.5)
    pen.ellipse(x, 0.16, 0.12, 0.12, (0.80, 0.56, 0.36))
    for sx, sy in ((0.5, 0.08), (0.9 - x + 0.08, 0.3), (0.08, 0.55), (0.92, 0.6), (0.15, 0.9), (0.84, 0.92)):
        pen.ellipse(sx, sy, 0.018, 0.018, (0.95, 0.95, 1.0))


def _room(pen: Pen, shift: float, sky: Sky) -> None:
    pen.box(0, 0, 1, 0.7, (0.90, 0.81, 0.73))
    pen.box(0, 0.7, 1, 1, (0.58, 0.40, 0.28))
    x = 0.06 + 0.6 * (shift > 0.5)
    pen.box(x, 0.08, x + 0.28, 0.38, (0.98, 0.97, 0.95))
    pen.box(x + 0.03, 0.11, x + 0.25, 0.35, (0.56, 0.78, 0.95))


BACKDROPS = {
    "beach": _beach, "forest": _forest, "snow": _snow, "desert": _desert,
    "city": _city, "sea": _sea, "space": _space, "room": _room,
}  # fmt: skip
GROUND = ("beach", "forest", "snow", "desert", "city", "room")  # the scenes that a shadow falls on
