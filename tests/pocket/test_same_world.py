"""The drawn world never changes: weights are trained on exactly these words and images."""

import numpy as np
import pytest

from dsd.pocket import phrases, words
from dsd.pocket.draw import draw
from dsd.pocket.phrases import phrase
from dsd.pocket.scorer import encode_numbers, number_mask
from dsd.pocket.words import caption, grid_prompt, relight_prompt
from dsd.pocket.world import change_one_trait, sample_context, sample_critter
from tests.checksums import checksum
from train.pocket.scenes import CHANGES

SEEDS = range(50)


def scene(seed: int) -> tuple:
    rng = np.random.default_rng((77, seed))
    return sample_critter(rng, held_out=seed % 2 == 1), sample_context(rng), rng


def traits(seed: int) -> tuple:
    critter, context, rng = scene(seed)
    return critter, context, [change_one_trait(critter, trait, rng) for trait in CHANGES]


def texts(seed: int) -> tuple:
    critter, context, rng = scene(seed)
    contexts = [sample_context(rng) for _ in range(4)]
    said = [phrase(critter, one, rng) for one in contexts]
    prompts = [grid_prompt(critter, contexts[:2]), grid_prompt(critter, contexts, panels={0, 3})]
    return caption(critter, context), prompts, relight_prompt(critter, contexts), said


def numbers(seed: int) -> tuple:
    critter, _, _ = scene(seed)
    return np.round(encode_numbers(critter), 9).tolist(), number_mask(critter)


def pixels(seed: int) -> tuple:
    return tuple(np.asarray(draw(*scene(seed)[:2], size)) for size in (64, 128))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (traits, 1134982590),
        (texts, 1004124088),
        (numbers, 1077493191),
        (pixels, 1317234353),
    ],
)
def test_fifty_scenes_are_what_they_always_were(part, expected):
    assert checksum(*(value for seed in SEEDS for value in part(seed))) == expected


def test_the_vocabularies_are_what_they_always_were():
    assert checksum(words.VOCABULARY) == 4036419035
    assert checksum(phrases.VOCABULARY) == 1411206064
