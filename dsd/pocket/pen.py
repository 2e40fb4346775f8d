"""A pen for flat shapes in local coordinates, x to the right and y down."""

import math

from PIL import Image, ImageDraw

Point = tuple[float, float]
Color = tuple[float, float, float]  # RGB in 0..1


def to_bytes(rgb: Color) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in rgb)


def ellipse(x: float, y: float, rx: float, ry: float, count: int = 28) -> list[Point]:
    """Return `count` points on an ellipse around (x, y)."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


class Pen:
    """Draws on an image of mode RGB or RGBA.

    The local coordinates have their origin at `origin` and the length `unit`, both in fractions of the image,
    and are rotated by `turn` degrees.
    """

    def __init__(self, image: Image.Image, origin: Point = (0.0, 0.0), unit: float = 1.0, turn: float = 0.0):
        self.image, self.origin, self.unit, self.turn = image, origin, unit, turn
        self._draw = ImageDraw.Draw(image)
        self._cos, self._sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))

    def on(self, image: Image.Image) -> "Pen":
        """Return a pen with the same coordinates for another image."""
        return Pen(image, self.origin, self.unit, self.turn)

    def polygon(self, points: list[Point], rgb: Color) -> None:
        self._draw.polygon([self._pixel(*point) for point in points], fill=to_bytes(rgb))

    def box(self, left: float, top: float, right: float, bottom: float, rgb: Color) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], rgb)

    def ellipse(self, x: float, y: float, rx: float, ry: float, rgb: Color) -> None:
        self.polygon(ellipse(x, y, rx, ry), rgb)

    def line(self, points: list[Point], width: float, rgb: Color) -> None:
        pixels = max(1, round(width * self.unit * self.image.width))
        self._draw.line([self._pixel(*point) for point in points], to_bytes(rgb), pixels, joint="curve")

    def _pixel(self, x: float, y: float) -> Point:
        x, y = self.unit * x, self.unit * y
        size = self.image.width
        return (
            (self.origin[0] + self._cos * x - self._sin * y) * size,
            (self.origin[1] + self._sin * x + self._cos * y) * size,
        )
