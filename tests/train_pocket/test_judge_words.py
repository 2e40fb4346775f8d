"""What the embedded judge is taught to say: read strictly, true, and forgiving of its own eyes."""

from dataclasses import replace

import numpy as np
import pytest

from dsd.grids.recipes import CRITTERS
from dsd.pocket.world import change_one_trait, sample_critter
from dsd.vlm.answers import read_judgment
from train.pocket.judge import words
from train.pocket.judge.model import build_tokenizer
from train.pocket.scenes import CHANGES

PART_OF = {
    "hue": "color", "shape": "shape", "pattern": "pattern", "stripe_angle": "pattern", "spots": "pattern",
    "ears": "ears", "eyes": "eyes", "eye_size": "eyes",
}  # fmt: skip
NEEDS = {"stripe_angle": "striped", "spots": "spotted"}


def critters(count: int, pattern: str | None = None):
    rng = np.random.default_rng(5)
    found = [sample_critter(rng) for _ in range(count)]
    return [replace(critter, pattern=pattern) if pattern else critter for critter in found]


def compared(first, second, seed=0):
    return read_judgment(words.comparison(first, second, np.random.default_rng(seed)), CRITTERS.parts)


def test_one_critter_agrees_in_every_part_however_it_is_misread():
    for seed, critter in enumerate(critters(40)):
        answer = compared(critter, critter, seed)
        assert answer.same and set(answer.scores.values()) == {4}
        assert words.DIFFER not in answer.differences


@pytest.mark.parametrize("trait", CHANGES)
def test_a_changed_trait_is_named_in_its_part_and_in_no_other(trait):
    rng = np.random.default_rng(6)
    for critter in critters(40, NEEDS.get(trait)):
        answer = compared(critter, change_one_trait(critter, trait, rng))
        low = {part for part, score in answer.scores.items() if score < words.SAME_FROM}
        assert not answer.same and low == {PART_OF[trait]}
        differing = [line.split()[0] for line in answer.differences.split(" , ") if line.endswith("differ")]
        assert differing == [PART_OF[trait]]


def test_descriptions_err_about_as_much_as_is_forgiven_and_no_more():
    numbers = words.exact(critters(1)[0])
    rng = np.random.default_rng(0)
    off = [words.misread(numbers, rng)["hue"] - numbers["hue"] for _ in range(2000)]
    assert np.std(off) == pytest.approx(words.MISREAD * words.TOLERANCE["hue"], rel=0.1)


def test_the_tokenizer_knows_every_word_that_is_taught():
    tokenizer, rng = build_tokenizer(), np.random.default_rng(1)
    for critter, other in zip(critters(60), critters(61)[1:], strict=True):
        assert tokenizer.unk_token_id not in tokenizer(words.comparison(critter, other, rng)).input_ids


@pytest.mark.parametrize(
    "name, value, said",
    [("hue", 359.0, "0°"), ("hue", -7.0, "348°"), ("stripe_angle", -60.0, "120°"), ("spot_turn", 89.0, "0°")],
)
def test_angles_are_said_within_their_own_turn(name, value, said):
    assert words.degrees(name, value) == said
