"""A grid is cut where its panels are, and rejected where they are not."""

import numpy as np
import pytest
from PIL import Image

from dsd.grids.grids import panels
from dsd.grids.gutters import equal_boxes, find_panels
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.world import SCENES, Context, sample_context, sample_critter

FAINT = (
    0.08  # of 25 grids at most: where two scenes of one darkness meet, no boundary is seen (2 when enlarged)
)


def test_panels_come_in_reading_order_without_the_margin():
    colors = ["red", "green", "blue", "white", "black", "yellow"]
    grid = draw_grid([Image.new("RGB", (16, 16), color) for color in colors], 3)
    for margin in (0, 5):
        cut = panels(grid, 2, 3, margin)
        assert [one.size for one in cut] == [(16 - 2 * margin,) * 2] * 6
        assert [one.getcolors() for one in cut] == [
            Image.new("RGB", cut[0].size, color).getcolors() for color in colors
        ]
    marked = Image.new("RGB", (32, 32))
    marked.putpixel((16 + 3, 3), (255, 0, 0))
    assert panels(marked, 2, 2, 3)[1].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(("rows_", "columns", "margin"), [(3, 2, 0), (2, 3, 0), (2, 2, 8), (2, 2, -1)])
def test_a_grid_that_cannot_be_cut_so_says_so(rows_, columns, margin):
    with pytest.raises(
        ValueError, match=f"32 x 32 pixels has no {rows_}x{columns} panels .* margin of {margin}"
    ):
        panels(Image.new("RGB", (32, 32)), rows_, columns, margin)


def rendered(seed: int, count: int = 4, columns: int = 2) -> Image.Image:
    """A grid of one critter in different scenes."""
    rng = np.random.default_rng((77, seed))
    critter, scenes = sample_critter(rng), rng.permutation(SCENES)
    places = [Context(**{**vars(sample_context(rng)), "scene": str(scenes[i % 8])}) for i in range(count)]
    return draw_grid([draw(critter, place, 64) for place in places], columns)


@pytest.fixture(scope="module")
def grids() -> list[Image.Image]:
    return [rendered(seed) for seed in range(25)]


def rolled(grid: Image.Image, x: int, y: int) -> Image.Image:
    return Image.fromarray(np.roll(np.asarray(grid), (y, x), (0, 1)))


def separated(grid: Image.Image, width: int) -> Image.Image:
    pixels = np.asarray(grid).copy()
    pixels[64 - width // 2 : 64 + width // 2] = 255
    pixels[:, 64 - width // 2 : 64 + width // 2] = 255
    return Image.fromarray(pixels)


def rejected(grids: list[Image.Image], layout: tuple[int, int] = (2, 2)) -> float:
    return sum(isinstance(find_panels(grid, *layout), str) for grid in grids) / len(grids)


@pytest.mark.parametrize("gap", [0, 2, 4])
@pytest.mark.parametrize("panel", [64, 256])
def test_a_whole_grid_passes_with_and_without_gutters_at_any_size(grids, gap, panel):
    size = (2 * panel, 2 * panel)
    enlarged = [separated(grid, gap).resize(size, Image.Resampling.BICUBIC) for grid in grids]
    assert rejected(enlarged) <= FAINT


def test_panels_within_two_pixels_of_equal_parts_are_equal_parts(grids):
    assert all(find_panels(grid, 2, 2) == equal_boxes(grid, 2, 2) for grid in grids)
    assert all(find_panels(rolled(grid, 1, -1), 2, 2) == equal_boxes(grid, 2, 2) for grid in grids[:8])
    assert find_panels(separated(grids[0], 8), 2, 2)[0] != (0, 0, 64, 64)


def test_neighbors_may_share_a_background(grids):
    """In one column the two panels meet in the same color, as drawn grids do."""
    grid = grids[0].copy()
    for panel, place in enumerate(((0, 58, 64, 70), (64, 48, 128, 64))):
        grid.paste(((90, 120, 160), (230, 40, 20))[panel], place)
    assert find_panels(grid, 2, 2) == equal_boxes(grid, 2, 2)


def test_other_layouts_pass_too():
    assert rejected([rendered(seed, 2) for seed in range(20)], (1, 2)) == 0
    assert rejected([rendered(seed, 9, 3) for seed in range(25)], (3, 3)) <= FAINT


@pytest.mark.parametrize(("x", "y"), [(8, 0), (0, 8), (-8, 0), (0, -8), (20, 20), (32, 0), (0, 40)])
def test_a_grid_whose_panels_are_elsewhere_is_rejected(grids, x, y):
    assert rejected([rolled(grid, x, y) for grid in grids]) >= 0.96


def test_the_reason_says_what_is_wrong(grids):
    two = grids[0].crop((0, 0, 128, 64)).resize((128, 128))
    assert find_panels(two, 2, 2) == "gutters: no boundary between rows 1 and 2"
    assert find_panels(Image.new("RGB", (96, 32)), 1, 3) == "gutters: a panel is empty"
    faint = np.full((64, 128, 3), 120, np.uint8)
    faint[:40, 64:] += 30
    faint[:, 90:] += 60
    faint += np.linspace(0, 30, 64).astype(np.uint8)[:, None, None]
    assert find_panels(Image.fromarray(faint), 1, 2).startswith("gutters: a stronger boundary inside")
