"""The drawn world: the traits of a critter and the context that it appears in.

A critter has *named* traits, which captions mention, and others, which only an image shows: a model that
reads only text cannot keep them. One in ten combinations of named traits and eye count is *held out*: such
critters appear in no training image of any part.
"""

import colorsys
import math
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

COLORS = {  # name -> (hue in degrees, saturation, value)
    "red": (2, 0.82, 0.86), "orange": (29, 0.88, 0.95), "yellow": (52, 0.82, 0.93),
    "green": (122, 0.70, 0.68), "teal": (176, 0.72, 0.74), "blue": (220, 0.75, 0.86),
    "purple": (274, 0.65, 0.80), "pink": (328, 0.52, 0.96),
}  # fmt: skip
HUE_SPREAD = 9.0  # degrees to either side; neighboring names stay more than 4 degrees apart
SHAPES = ("round", "tall", "boxy", "pointy")
PATTERNS = ("plain", "striped", "spotted")
EARS = ("no", "round", "pointy", "long")
SCENES = ("beach", "forest", "snow", "desert", "city", "sea", "space", "room")
ACCESSORIES = ("none", "hat", "scarf", "balloon", "flag")
ACCESSORY_COLORS = {
    "red": (0.88, 0.12, 0.16), "blue": (0.13, 0.33, 0.90), "yellow": (0.98, 0.83, 0.12),
    "green": (0.10, 0.66, 0.25), "white": (0.97, 0.97, 0.97), "black": (0.10, 0.10, 0.13),
}  # fmt: skip
LIGHTS = ("daylight", "overcast", "sunset left", "sunset right", "moonlight left", "moonlight right")
LIGHT_SHARES = (0.4, 0.12, 0.12, 0.12, 0.12, 0.12)
PLACES = ("left", "centre", "right")
NAMED = ("color", "shape", "pattern", "ears")
PANEL = 128  # pixels to a side
SCORER = Path(__file__).parents[2] / "assets" / "pocket" / "scorer"


@dataclass(frozen=True, kw_only=True)
class Critter:
    """One identity; angles are in degrees, sizes are factors around 1, spots (x, y, radius) in body units."""

    color: str
    shape: str
    pattern: str
    ears: str
    hue: float  # degrees, exact
    accent_hue: float  # degrees, of the stripes or spots
    stripe_angle: float
    stripe_width: float
    spots: tuple[tuple[float, float, float], ...]
    eyes: int
    eye_size: float
    ear_length: float
    aspect: float

    @property
    def held_out(self) -> bool:
        key = f"{self.color} {self.shape} {self.pattern} {self.ears} {self.eyes}"
        return zlib.crc32(key.encode()) % 10 == 0

    @property
    def body_rgb(self) -> tuple[float, float, float]:
        _, saturation, value = COLORS[self.color]
        return colorsys.hsv_to_rgb(self.hue % 360 / 360, saturation, value)

    @property
    def accent_rgb(self) -> tuple[float, float, float]:
        # Light on dark bodies and dark on light ones, so that the pattern is always visible.
        red, green, blue = self.body_rgb
        value, saturation = (0.48, 0.70) if 0.3 * red + 0.59 * green + 0.11 * blue > 0.55 else (0.95, 0.45)
        return colorsys.hsv_to_rgb(self.accent_hue % 360 / 360, saturation, value)


@dataclass(frozen=True, kw_only=True)
class Context:
    """Everything in an image except the critter's identity."""

    scene: str
    accessory: str = "none"
    accessory_color: str = "red"
    light: str = "daylight"
    place: str = "centre"
    tilt: float = 0.0  # degrees
    scale: float = 1.0
    jitter: tuple[float, float] = (0.0, 0.0)
    backdrop: float = 0.5  # 0..1, moves trees, sun, houses


def sample_critter(rng: np.random.Generator, *, held_out: bool = False) -> Critter:
    """Draw a random identity, either one that is held out or one that is not."""
    while True:
        critter = _any_critter(rng)
        if critter.held_out == held_out:
            return critter


def _any_critter(rng: np.random.Generator) -> Critter:
    color = str(rng.choice(list(COLORS)))
    hue = COLORS[color][0] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)
    return Critter(
        color=color,
        shape=str(rng.choice(SHAPES)),
        pattern=str(rng.choice(PATTERNS)),
        ears=str(rng.choice(EARS)),
        hue=float(hue % 360),
        accent_hue=float((hue + rng.uniform(60, 300)) % 360),
        stripe_angle=float(rng.uniform(-60, 60)),
        stripe_width=float(rng.uniform(0.8, 1.3)),
        spots=_sample_spots(rng),
        eyes=int(rng.integers(1, 4)),
        eye_size=float(rng.uniform(0.8, 1.25)),
        ear_length=float(rng.uniform(0.75, 1.35)),
        aspect=float(rng.uniform(0.9, 1.12)),
    )


def _sample_spots(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """Draw four spots, one per quarter of the body, each with a random offset and size."""
    turn = rng.uniform(0, 90)
    angles = [math.radians(turn + 90 * i + rng.uniform(-20, 20)) for i in range(4)]
    centers = [(rng.uniform(0.55, 0.8), angle) for angle in angles]
    return tuple((r * math.cos(a), r * math.sin(a), float(rng.uniform(0.16, 0.3))) for r, a in centers)


def sample_context(rng: np.random.Generator) -> Context:
    """Draw a random context."""
    return Context(
        scene=str(rng.choice(SCENES)),
        accessory=str(rng.choice(ACCESSORIES, p=(0.36, 0.16, 0.16, 0.16, 0.16))),
        accessory_color=str(rng.choice(list(ACCESSORY_COLORS))),
        light=str(rng.choice(LIGHTS, p=LIGHT_SHARES)),
        place=str(rng.choice(PLACES, p=(0.25, 0.5, 0.25))),
        tilt=float(rng.uniform(-12, 12)),
        scale=float(rng.uniform(0.92, 1.08)),
        jitter=(float(rng.uniform(-0.02, 0.02)), float(rng.uniform(-0.02, 0.02))),
        backdrop=float(rng.uniform(0, 1)),
    )


def sample_edits(context: Context, rng: np.random.Generator) -> list[Context]:
    """Return three contexts that each differ from this one in one thing: its accessory, or its place.

    The accessory is taken off and recolored or, if there is none, added in two colors.
    """

    def recolor(some: Context) -> Context:
        return replace(some, accessory_color=_choose_other(ACCESSORY_COLORS, some.accessory_color, rng))

    moved = replace(context, place=_choose_other(PLACES, context.place, rng))
    if context.accessory != "none":
        return [replace(context, accessory="none"), recolor(context), moved]
    added = replace(context, accessory=_choose_other(ACCESSORIES, "none", rng))
    return [added, recolor(added), moved]


def _choose_other(values: Collection[str], value: str, rng: np.random.Generator) -> str:
    return str(rng.choice([other for other in values if other != value]))


def change_one_trait(critter: Critter, trait: str, rng: np.random.Generator) -> Critter:
    """Return a hard negative: the same critter with one trait changed enough to be visible."""
    other = _any_critter(rng)
    if trait == "hue":
        names = list(COLORS)
        color = names[(names.index(critter.color) + int(rng.choice((-1, 1)))) % len(names)]
        return replace(critter, color=color, hue=float(COLORS[color][0] % 360))
    if trait == "stripe_angle":
        turned = critter.stripe_angle + 60
        return replace(critter, stripe_angle=turned if turned <= 60 else turned - 120)
    if trait == "eye_size":
        return replace(critter, eye_size=1.25 if critter.eye_size < 1.02 else 0.8)
    if trait == "spots":
        # By 135 degrees: 45 degrees from where they were, as seen in their cross of four.
        c, s = math.cos(math.radians(45)), math.sin(math.radians(45))
        spots = tuple((-(s * x + c * y), c * x - s * y, r) for x, y, r in critter.spots)
        return replace(critter, spots=spots)
    if trait == "eyes":
        return replace(critter, eyes=critter.eyes % 3 + 1)
    if trait in ("shape", "pattern", "ears"):
        values = {"shape": SHAPES, "pattern": PATTERNS, "ears": EARS}[trait]
        others = [value for value in values if value != getattr(critter, trait)]
        return replace(critter, **{trait: str(rng.choice(others))})
    return replace(critter, **{trait: getattr(other, trait)})
