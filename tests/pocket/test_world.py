"""The drawn world: identities, words and images."""

from dataclasses import replace

import numpy as np
import pytest

from dsd.pocket import phrases
from dsd.pocket.draw import draw
from dsd.pocket.phrases import phrase
from dsd.pocket.words import VOCABULARY, caption, grid_prompt, relight_prompt
from dsd.pocket.world import (
    LIGHTS,
    SCENES,
    Context,
    change_one_trait,
    sample_context,
    sample_critter,
)
from train.pocket import scenes

UNNAMED = ("hue", "accent_hue", "stripe_angle", "stripe_width", "eyes", "eye_size", "ear_length", "aspect")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def difference(a, b) -> float:
    return float(np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).max())


def test_the_same_critter_and_context_draw_the_same_image():
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
    "part", [{"scene": "snow"}, {"accessory": "hat"}, {"light": "moonlight left"}, {"place": "left"}]
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


def test_a_family_shows_one_critter_two_near_misses_and_the_first_context_in_other_lights():
    family = scenes.family(1, 0)
    critters, near, relit = (
        family[: scenes.SAME],
        family[scenes.SAME : -scenes.RELIT],
        family[-scenes.RELIT :],
    )
    critter, first = family[0]
    assert len({critter for critter, _ in critters + relit}) == 1
    assert len(near) == scenes.CHANGED and all(other != critter for other, _ in near)
    assert all(replace(context, light=first.light) == first for _, context in relit)
    assert len({context.light for _, context in [family[0], *relit]}) == 1 + scenes.RELIT


@pytest.mark.parametrize("scene", SCENES)
def test_every_light_can_be_told_from_every_other_in_every_scene(scene):
    critter = sample_critter(rng(8))
    drawn = [np.asarray(draw(critter, Context(scene=scene, light=name), 128), float) for name in LIGHTS]
    off = [np.abs(one - other).mean() for i, one in enumerate(drawn) for other in drawn[:i]]
    assert min(off) > 1  # the least: light from the left and from the right, where no shadow falls


@pytest.mark.parametrize("name", ["sunset", "moonlight"])
def test_light_from_one_side_shades_the_other_and_throws_its_shadow_there(name):
    critter = replace(sample_critter(rng(8)), pattern="plain", shape="round", ears="no", eyes=1)
    left, right = (
        np.asarray(draw(critter, Context(scene="snow", light=f"{name} {side}"), 128).convert("L"), float)
        for side in ("left", "right")
    )
    body = left[60:90, 40:88]
    assert body[:, :15].mean() > 1.2 * body[:, -15:].mean()
    ground = left[110:118]
    assert ground[:, 80:110].mean() < 0.9 * ground[:, 18:48].mean()
    assert np.abs(left[108:, 1:] - right[108:, :0:-1]).mean() < 3, "shadows are each other's mirror image"


def test_a_relit_grid_tells_what_its_panels_share_once_and_their_lights():
    critter = sample_critter(rng(4))
    contexts = [Context(scene="beach", accessory="hat", light=name) for name in LIGHTS[:4]]
    prompt = relight_prompt(critter, contexts)
    assert prompt.count("beach") == prompt.count("red hat") == 1
    assert prompt.endswith("bottom left sunset left bottom right sunset right")
    assert set(prompt.split()) <= set(VOCABULARY)


def test_prompts_use_only_words_that_the_tokenizer_knows():
    generator = rng(5)
    for _ in range(200):
        critter, context = sample_critter(generator), sample_context(generator)
        words = caption(critter, context).split() + grid_prompt(critter, [context] * 4).split()
        assert set(words) <= set(VOCABULARY)


@pytest.mark.parametrize("light", LIGHTS)
def test_phrases_tell_the_light_in_many_ways_and_never_a_wrong_side(light):
    critter, context = sample_critter(rng(6)), Context(scene="forest", light=light)
    said = [phrase(critter, context, rng(i)) for i in range(200)]
    wrong = {"left": "from the right", "right": "from the left"}.get(light.split()[-1], "from the")
    assert len(set(said)) > 100 and not any(wrong in text for text in said)


def test_nearly_all_words_of_phrases_are_in_the_vocabulary():
    generator = rng(5)
    words = [
        word
        for _ in range(500)
        for word in phrase(sample_critter(generator), sample_context(generator), generator).split()
    ]
    unknown = [word for word in words if not set(word.split("-")) <= set(phrases.VOCABULARY)]
    assert 0 < len(unknown) / len(words) < 2 * phrases.MISSPELLED


def test_phrases_vary_but_always_name_the_scene():
    critter, context = (
        sample_critter(rng(6)),
        Context(scene="forest", accessory="hat", accessory_color="blue"),
    )
    said = {phrase(critter, context, rng(i)) for i in range(40)}
    assert len(said) > 10
    places = [place for place in phrases.PLACES["forest"]]
    assert all("forest" in words or any(place.split()[-1] in words for place in places) for words in said)
