"""Images that are not of the drawn world, from which the scorer learns to recognize strange images."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from dsd.pocket.backdrops import BACKDROPS
from dsd.pocket.draw import blank, draw, shrink
from dsd.pocket.pen import Pen
from dsd.pocket.world import SCENES, sample_context, sample_critter

LETTERS = list("abcdefghijklmnopqrstuvwxyz      .,ABC0123")


def draw_strangers(count: int, size: int, seed: int) -> np.ndarray:
    """Return images as uint8 [count, size, size, 3], cycling through the kinds."""
    rng = np.random.default_rng(seed)
    kinds = (clouds, patches_of_clouds, shapes, text, empty_scene, shuffled)
    return np.stack([np.asarray(kinds[i % len(kinds)](size, rng)) for i in range(count)])


def clouds(size: int, rng: np.random.Generator) -> Image.Image:
    """Return noise whose amplitude falls with frequency as in photographs, gray or in color."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]) + 1 / size
    spectrum = np.fft.fft2(rng.normal(size=(3, size, size))) / frequency ** rng.uniform(0.6, 2.0)
    fields = np.fft.ifft2(spectrum).real
    saturation = rng.uniform(0, 1) if rng.random() < 0.7 else 0.0
    fields = saturation * fields + (1 - saturation) * fields[:1]  # at 0 the image is gray
    fields = (fields - fields.mean()) / fields.std() * rng.uniform(25, 80) + rng.uniform(60, 200)
    return Image.fromarray(fields.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def patches_of_clouds(size: int, rng: np.random.Generator) -> Image.Image:
    """Return three textures with irregular borders, like objects in front of a background."""
    mask = clouds(size, rng).convert("L").point(lambda v: 255 if v > 128 else 0)
    other = clouds(size, rng).convert("L").point(lambda v: 255 if v > 150 else 0)
    image = Image.composite(clouds(size, rng), clouds(size, rng), mask)
    image = Image.composite(clouds(size, rng), image, other)
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))


def shapes(size: int, rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (size, size), _color(rng))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(1, 12))):
        points = [tuple(p) for p in rng.uniform(-0.2, 1.2, size=(int(rng.integers(3, 7)), 2)) * size]
        pen.polygon(points, fill=_color(rng))
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def text(size: int, rng: np.random.Generator) -> Image.Image:
    big = size * int(rng.integers(1, 7))
    page = Image.new("RGB", (big, big), _color(rng) if rng.random() < 0.4 else "white")
    ink = _color(rng) if rng.random() < 0.4 else (0, 0, 0)
    for y in range(int(rng.integers(0, 12)), big, int(rng.integers(11, 24))):
        words = "".join(rng.choice(LETTERS, size=int(rng.integers(4, 80))))
        ImageDraw.Draw(page).text((int(rng.integers(2, 12)), y), words, fill=ink)
    return page.resize((size, size), Image.Resampling.LANCZOS)


def empty_scene(size: int, rng: np.random.Generator) -> Image.Image:
    image = blank(size)
    BACKDROPS[str(rng.choice(SCENES))](Pen(image), float(rng.random()), lambda: None)  # without a sun
    return shrink(image, size, rng.uniform(0.3, 1.2))


def shuffled(size: int, rng: np.random.Generator) -> Image.Image:
    """Return a drawn image cut into squares that are rotated and put together in another order."""
    image = np.asarray(draw(sample_critter(rng), sample_context(rng), size))
    side = size // int(rng.choice((2, 4)))
    cuts = [(y, x) for y in range(0, size, side) for x in range(0, size, side)]
    result = np.empty_like(image)
    for (y, x), (v, u) in zip(cuts, rng.permutation(cuts), strict=True):
        result[y : y + side, x : x + side] = np.rot90(image[v : v + side, u : u + side], int(rng.integers(4)))
    return Image.fromarray(result)


def _color(rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(0, 256, size=3))
