"""Panels are found where a teacher drew them: any gutter, displaced, framed, on white or at night."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

from dsd.grids.gutters import find_panels
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.world import SCENES, Context, sample_context, sample_critter

SIDE = 128  # pixels of a panel
COUNT = 5  # grids of each kind, border and color
WHERE = "between or around"
Panels = Callable[[np.random.Generator, int], list[Image.Image]]


@cache
def sources() -> list[Image.Image]:
    names = ("astronaut", "coffee", "chelsea", "rocket")
    return [Image.fromarray(getattr(skimage.data, name)()) for name in names]


def photographs(rng: np.random.Generator, count: int) -> list[Image.Image]:
    order = [*rng.permutation(4), *rng.integers(4, size=max(0, count - 4))][:count]
    return [crop(sources()[index], rng) for index in order]


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(min(image.size) * rng.uniform(0.5, 0.95))
    x, y = (int(rng.integers(0, length - side + 1)) for length in image.size)
    return image.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def critters(rng: np.random.Generator, count: int) -> list[Image.Image]:
    scenes, critter = rng.permutation(SCENES), sample_critter(rng)
    contexts = [vars(sample_context(rng)) | {"scene": str(scenes[i % len(scenes)])} for i in range(count)]
    return [draw(critter, Context(**context), SIDE) for context in contexts]


def at_night(rng: np.random.Generator, count: int) -> list[Image.Image]:
    dark = [np.asarray(image, float) * rng.uniform(0.1, 0.25) for image in critters(rng, count)]
    return [
        Image.fromarray((one + rng.normal(0, 0.7, one.shape)).clip(0, 255).astype(np.uint8)) for one in dark
    ]


def in_a_studio(rng: np.random.Generator, count: int) -> list[Image.Image]:
    return [_product(rng) for _ in range(count)]


def _product(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    pen, (x, y), radius = ImageDraw.Draw(image), rng.integers(40, 65, 2), rng.integers(22, 32)
    pen.ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill=tuple(rng.integers(0, 200, 3).tolist())
    )
    pen.rectangle((x - 8, y + 10, x + 20, y + 40), fill=tuple(rng.integers(0, 200, 3).tolist()))
    return image


def compose(
    panels: list[Image.Image], border: int, color: str, rng: np.random.Generator
) -> tuple[Image.Image, list]:
    """A 2x2 grid with a gutter, sometimes displaced, framed or soft, and the boxes of its panels."""
    image, half = Image.new("RGB", (2 * SIDE, 2 * SIDE), color), border / 2
    x, y = SIDE + (rng.integers(-8, 9, 2) if rng.random() < 0.3 and border else np.zeros(2, int))
    frame = int(rng.integers(0, border + 1)) if rng.random() < 0.3 else 0
    across = [(frame, round(x - half)), (round(x + half), 2 * SIDE - frame)]
    down = [(frame, round(y - half)), (round(y + half), 2 * SIDE - frame)]
    boxes = [(left, upper, right, lower) for upper, lower in down for left, right in across]
    for panel, (left, upper, right, lower) in zip(panels, boxes, strict=True):
        image.paste(panel.resize((right - left, lower - upper), Image.Resampling.LANCZOS), (left, upper))
    return (image.filter(ImageFilter.GaussianBlur(0.6)) if rng.random() < 0.5 else image), boxes


@pytest.mark.parametrize("panels", [photographs, critters, at_night, in_a_studio])
def test_whole_grids_are_cut_and_no_border_is_left(panels: Panels):
    grids, rejected, bordered = 0, 0, 0
    for border in (0, 2, 8, 24, 48):
        for color in ("white", "black"):
            rng = np.random.default_rng((7, border))
            for _ in range(COUNT):
                image, boxes = compose(panels(rng, 4), border // (1 + (border > 24)), color, rng)
                found, grids = find_panels(image, 2, 2), grids + 1
                rejected += isinstance(found, str)
                bordered += isinstance(found, list) and leaves_a_border(image, found, boxes)
    # Of 550 grids of critters, 2 kept a line of a border; both are among these 50.
    assert rejected <= 0.03 * grids and bordered <= 0.04 * grids, (rejected, bordered, grids)


def leaves_a_border(image: Image.Image, found: list, boxes: list) -> bool:
    """Whether a found box has a visible line of pixels outside of its panel, beyond a margin of 2 pixels."""
    pixels = np.asarray(image, float)
    for (left, upper, right, lower), (x0, y0, x1, y1) in zip(found, boxes, strict=True):
        inner = pixels[upper + 2 : lower - 2, left + 2 : right - 2]
        lost = (x0 - left - 2, y0 - upper - 2, right - 2 - x1, lower - 2 - y1)
        if max(lost) > 0 and np.abs(np.diff(inner, axis=0)).max() > 14 and inner.std() > 0:
            edge = max(range(4), key=lambda side: lost[side])
            line = (inner[:, 0], inner[0], inner[:, -1], inner[-1])[edge]
            beside = (inner[:, 4], inner[4], inner[:, -5], inner[-5])[edge]
            if np.abs(line - beside).max(axis=1).mean() > 14:
                return True
    return False


@pytest.mark.parametrize("panels", [critters, at_night, in_a_studio])
def test_a_gutter_or_frame_wider_than_a_quarter_of_a_panel_is_rejected(panels: Panels):
    rng, found = np.random.default_rng(3), []
    for border in (16, 30, 36, 48):
        for gap, frame in ((border, 0), (0, border), (border, border)):
            image = spread(panels(rng, 4), gap, frame, "black")
            found.append((border, find_panels(image, 2, 2)))
    wrong = [border for border, boxes in found if isinstance(boxes, str) != (border > SIDE // 4)]
    assert not wrong
    reasons = {boxes for _, boxes in found if isinstance(boxes, str)}
    assert reasons <= {
        f"gutters: wider than a quarter of a panel, {WHERE} {name}" for name in ("columns", "rows")
    }


def spread(panels: list[Image.Image], gap: int, frame: int, color: str) -> Image.Image:
    """A 2x2 grid of the usual size, with so wide a gutter and frame."""
    image, side = Image.new("RGB", (2 * SIDE, 2 * SIDE), color), (2 * SIDE - gap - 2 * frame) // 2
    for index, panel in enumerate(panels):
        place = (frame + index % 2 * (side + gap), frame + index // 2 * (side + gap))
        image.paste(panel.resize((side, side)), place)
    return image


def test_a_frame_that_fades_into_snow_on_one_side_is_as_wide_as_on_the_other():
    image = spread(critters(np.random.default_rng(5), 4), 12, 10, "white")
    image.paste("white", (10, 2 * SIDE - 40, SIDE - 6, 2 * SIDE - 10))  # snow in one panel
    found = find_panels(image, 2, 2)
    assert isinstance(found, list) and max(box[3] for box in found) <= 2 * SIDE - 10


def wide_above_two(panels: list[Image.Image]) -> Image.Image:
    image = draw_grid(panels[:4], 2)
    image.paste(panels[0].resize((2 * SIDE, SIDE)), (0, 0))
    return image


def rolled(panels: list[Image.Image]) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(draw_grid(panels[:4], 2)), (50, 40), (0, 1)))


WRONG = {
    "one image": lambda panels: panels[0].resize((2 * SIDE, 2 * SIDE)),
    "two images": lambda panels: draw_grid(panels[:2], 2).resize((2 * SIDE, 2 * SIDE)),
    "one wide image above two": wide_above_two,
    "nine images": lambda panels: draw_grid(panels[:9], 3).resize((2 * SIDE, 2 * SIDE)),
    "displaced by a third": rolled,
}


@pytest.mark.parametrize("panels", [photographs, critters, at_night])
def test_what_is_no_grid_is_rejected(panels: Panels):
    rng = np.random.default_rng(11)
    grids = [(name, make(panels(rng, 9))) for name, make in WRONG.items() for _ in range(COUNT)]
    accepted = [name for name, image in grids if isinstance(find_panels(image, 2, 2), list)]
    assert len(accepted) <= 0.03 * len(grids), accepted


def test_plain_images_and_noise_are_rejected():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for image in (
        *(Image.new("RGB", (128, 128), color) for color in ("black", "white")),
        Image.fromarray(noise),
    ):
        assert isinstance(find_panels(image, 2, 2), str)
