"""The drawn world: identities, words and pictures."""

import numpy as np
import pytest

from dsd.pocket.draw import draw
from dsd.pocket.words import VOCABULARY, caption, grid_prompt, phrase
from dsd.pocket.world import UNNAMED, Context, change_one_trait, sample_context, sample_critter
from train.pocket import scenes


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(a, b) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max())


def test_the_same_critter_and_context_draw_the_same_picture():
    critter, context = sample_critter(rng()), sample_context(rng())
    assert difference(draw(critter, context), draw(critter, context)) == 0


@pytest.mark.parametrize(
    "trait", ["hue", "stripe_angle", "eye_size", "eyes", "shape", "pattern", "ears", "spots"]
)
def test_every_trait_can_be_seen(trait):
    critter = sample_critter(rng(1))
    pattern = {"stripe_angle": "striped", "spots": "spotted"}.get(trait, critter.pattern)
    critter = critter.__class__(**{**vars(critter), "pattern": pattern})
    context = Context(scene="beach")
    assert difference(draw(critter, context), draw(change_one_trait(critter, trait, rng(2)), context)) > 25


@pytest.mark.parametrize(
    "part", [{"scene": "snow"}, {"accessory": "hat"}, {"light": "night"}, {"place": "left"}]
)
def test_every_part_of_the_context_can_be_seen(part):
    critter, context = sample_critter(rng(3)), {"scene": "beach"}
    assert difference(draw(critter, Context(**context)), draw(critter, Context(**{**context, **part}))) > 25


def test_words_never_tell_an_unnamed_trait():
    critter, context = sample_critter(rng(4)), sample_context(rng(4))
    other = critter.__class__(
        **{**vars(critter), **{name: vars(sample_critter(rng(9)))[name] for name in UNNAMED}}
    )
    assert caption(critter, context) == caption(other, context)
    assert grid_prompt(critter, [context] * 4) == grid_prompt(other, [context] * 4)


def test_held_out_critters_are_about_a_tenth_and_never_in_training_scenes():
    drawn = [scenes.family(1, i) for i in range(60)]
    assert not any(critter.held_out for family in drawn for critter, _ in family)
    assert all(sample_critter(rng(i), held_out=True).held_out for i in range(20))


def test_a_family_shows_one_critter_and_two_near_misses():
    critters = [critter for critter, _ in scenes.family(1, 0)]
    assert len(set(critters[: scenes.SAME])) == 1
    assert all(critter != critters[0] for critter in critters[scenes.SAME :])


def test_prompts_use_only_words_that_the_tokenizer_knows():
    generator = rng(5)
    for _ in range(200):
        critter, context = sample_critter(generator), sample_context(generator)
        words = caption(critter, context).split() + grid_prompt(critter, [context] * 4).split()
        assert set(words) <= set(VOCABULARY)


def test_phrases_vary_but_always_name_the_scene():
    critter, context = (
        sample_critter(rng(6)),
        Context(scene="forest", accessory="hat", accessory_color="blue"),
    )
    said = {phrase(critter, context, rng(i)) for i in range(40)}
    assert len(said) > 10
    assert all("forest" in words and "blue" in words for words in said)
