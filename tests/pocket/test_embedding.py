"""The ranker's embedding: the similarity of images tells one critter from another, and near-copies."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.pocket.draw import draw
from dsd.pocket.embedding import CritterEmbedder, open_critter_embedder
from dsd.pocket.world import Context, change_one_trait, sample_context, sample_critter
from dsd.vlm.embed import similarity

CRITTERS = 24


@pytest.fixture(scope="module")
def ranker() -> CritterEmbedder:
    return open_critter_embedder("cpu")


def drawn(index: int, changed: str | None = None) -> list[Image.Image]:
    """Two renders of a critter that nothing was trained on; the second one may differ in one trait."""
    rng = np.random.default_rng((77, index))
    critter = sample_critter(rng, held_out=True)
    other = change_one_trait(critter, changed, rng) if changed else critter
    return [draw(critter, sample_context(rng)), draw(other, sample_context(rng))]


def similarities(ranker: CritterEmbedder, changed: str | None = None) -> np.ndarray:
    pairs = [drawn(index, changed) for index in range(CRITTERS)]
    vectors = ranker.embed([image for pair in pairs for image in pair])
    return similarity(vectors[::2], vectors[1::2]).numpy()


def test_vectors_have_length_one_and_do_not_depend_on_the_others(ranker):
    images = drawn(0)
    vectors = ranker.embed(images)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(ranker.embed(images[1:]), vectors[1:], rtol=0, atol=1e-5)
    assert ranker.embed([]).shape == (0, vectors.shape[1])


def test_images_of_one_critter_are_alike_and_those_of_two_are_not(ranker):
    assert np.mean(similarities(ranker) > 0.86) > 0.9
    for trait in ("shape", "pattern", "ears", "eyes", "hue"):
        assert np.mean(similarities(ranker, trait) < 0.86) > 0.9, trait


def test_only_near_copies_reach_the_ceiling(ranker):
    image = drawn(1)[0]
    alone, copy = ranker.embed([image, image])
    assert similarity(alone, copy).item() == pytest.approx(1, abs=1e-6)
    images = [drawn(index)[0] for index in range(8)]
    assert all(similarity(a, b) < 0.98 for a, b in combinations(ranker.embed(images), 2))
    assert np.mean(similarities(ranker) < 0.98) > 0.9


EDITS: dict[str, Callable[[Context], Context]] = {
    "scene": lambda context: replace(context, scene="forest"),
    "light": lambda context: replace(context, light="moonlight left"),
    "place": lambda context: replace(context, place="right"),
    "accessory": lambda context: replace(context, accessory="none"),
    "accessory_color": lambda context: replace(context, accessory_color="yellow"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_image_that_differs_in_one_thing_of_its_context_is_no_near_copy(ranker, name):
    images = []
    for index in range(CRITTERS):
        rng = np.random.default_rng((78, index))
        critter, context = sample_critter(rng, held_out=True), sample_context(rng)
        context = replace(context, scene="beach", light="daylight", place="left")
        context = replace(context, accessory="scarf", accessory_color="red")
        images += [draw(critter, context), draw(critter, EDITS[name](context))]
    vectors = ranker.embed(images)
    alike = similarity(vectors[::2], vectors[1::2]).numpy()
    assert np.mean((alike > 0.86) & (alike < 0.98)) > 0.9, alike
