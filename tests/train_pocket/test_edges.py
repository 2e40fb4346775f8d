"""The two measures of how images look: blur lowers sharpness, token mosaics raise token edges."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dsd.pocket.draw import draw
from dsd.pocket.world import sample_context, sample_critter
from train.pocket.measure import TOKEN, sharpness, token_edges


@pytest.fixture(scope="module")
def renders() -> list[Image.Image]:
    rng = np.random.default_rng(4)
    return [draw(sample_critter(rng), sample_context(rng), 128) for _ in range(12)]


def mosaic(image: Image.Image, strength: float) -> Image.Image:
    """The image with each token a little lighter or darker than its neighbors."""
    signs = np.random.default_rng(0).choice((-strength, strength), (128 // TOKEN, 128 // TOKEN))
    shift = np.kron(signs, np.ones((TOKEN, TOKEN)))[..., None]
    return Image.fromarray((np.asarray(image) + shift).clip(0, 255).astype(np.uint8))


def test_renders_are_as_sharp_as_themselves_and_show_no_tokens(renders):
    assert sharpness(renders, renders) == 1 and token_edges(renders, renders) == 1


def test_blur_lowers_sharpness_and_noise_raises_it(renders):
    blurred = [image.filter(ImageFilter.GaussianBlur(2)) for image in renders]
    rng = np.random.default_rng(1)
    noisy = [
        Image.fromarray((np.asarray(i) + rng.normal(0, 8, (128, 128, 3))).clip(0, 255).astype(np.uint8))
        for i in renders
    ]
    assert sharpness(blurred, renders) < 0.6 and sharpness(noisy, renders) > 1.1


def test_a_token_mosaic_raises_token_edges_and_a_shifted_one_does_not(renders):
    tiled = [mosaic(image, 6) for image in renders]
    moved = [image.transform((128, 128), Image.Transform.AFFINE, (1, 0, 5, 0, 1, 5)) for image in tiled]
    assert token_edges(tiled, renders) > 1.3
    assert token_edges(moved, renders) < 1.1
