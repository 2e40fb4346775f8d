"""Light in the drawn world: a tint of the whole panel, shading of the subject, and the subject's shadow.

Lengths are fractions of the panel; `side` is -1 for light from the left, 1 from the right, 0 from above.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

SLANT = 0.8  # horizontal component of the unit vector toward a light at one side
FLATTENED = 0.22  # height of a shadow on the ground, relative to the object that casts it
SUN, MOON = (1.0, 0.93, 0.45), (0.96, 0.97, 1.0)


@dataclass(frozen=True, kw_only=True)
class Light:
    """One named light; `shade` and `shadow` are shares of brightness lost on the far side and in shadow."""

    rgb: tuple[float, float, float]  # gain of each channel, over the whole panel
    side: int = 0
    shade: float = 0.0
    shadow: float = 0.0
    reach: float = 0.0  # how far a shadow leans away, relative to the height of its object
    disk: tuple[float, float, float] | None = None  # color of the sun or moon, if visible


_SUNSET = {"rgb": (1.0, 0.80, 0.62), "shade": 0.5, "shadow": 0.42, "reach": 0.9, "disk": (1.0, 0.78, 0.40)}
_MOON = {"rgb": (0.46, 0.53, 0.82), "shade": 0.58, "shadow": 0.40, "reach": 0.7, "disk": MOON}
BY_NAME = {
    "daylight": Light(rgb=(1.0, 1.0, 1.0), shade=0.28, shadow=0.30, disk=SUN),
    "overcast": Light(rgb=(0.80, 0.84, 0.86), shade=0.06, shadow=0.12),
    "sunset left": Light(side=-1, **_SUNSET),
    "sunset right": Light(side=1, **_SUNSET),
    "moonlight left": Light(side=-1, **_MOON),
    "moonlight right": Light(side=1, **_MOON),
}


def tint(image: Image.Image, light: Light) -> Image.Image:
    """Return `image` with each channel multiplied by the light's gain."""
    if light.rgb == (1.0, 1.0, 1.0):
        return image
    return image.point([round(i * gain) for gain in light.rgb for i in range(256)])


def shade(layer: Image.Image, light: Light, *, center: tuple[float, float], radius: float) -> Image.Image:
    """Shade an RGBA `layer` like a ball at `center`, darker on the far side, and return its RGB."""
    rgb = layer.convert("RGB")
    if not light.shade:
        return rgb
    steps = (np.arange(layer.width) + 0.5) / layer.width
    x, y = steps - center[0], steps[:, None] - center[1]
    up = (1 - (SLANT * light.side) ** 2) ** 0.5
    facing = (SLANT * light.side * x - up * y) / radius  # [size, size], about 1 at the lit rim, -1 opposite
    gain = 1 - light.shade * ((0.7 - facing) / 1.7).clip(0, 1)
    return Image.fromarray((np.asarray(rgb) * gain[..., None]).round().astype(np.uint8))


def cast_shadow(image: Image.Image, layer: Image.Image, light: Light, *, foot: float) -> None:
    """Darken `image` where the shadow of `layer` (RGBA) falls on the ground; `foot` is the y of its base."""
    if not light.shadow:
        return
    lean, line = light.side * light.reach / FLATTENED, foot * image.height
    flat = (1, lean, -lean * line, 0, -1 / FLATTENED, line * (1 + 1 / FLATTENED))
    mask = layer.getchannel("A").transform(image.size, Image.Transform.AFFINE, flat)
    mask = mask.filter(ImageFilter.GaussianBlur(image.width / 100))
    image.paste((0, 0, 0), mask=mask.point([round(i * light.shadow) for i in range(256)]))
