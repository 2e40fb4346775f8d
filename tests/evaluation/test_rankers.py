"""What ranks images: the traits that a network reads, an encoder's similarity, a judge's scores."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.evaluation import rankers
from dsd.evaluation.rankers import CritterRanker, EncoderRanker, find_requested, open_ranker
from dsd.model.presets import FLUX_DEV, POCKET, Preset
from dsd.pocket import scorer, world
from dsd.pocket.draw import draw
from dsd.pocket.words import describe_context
from dsd.vlm.base import VLMError


@pytest.fixture(scope="module")
def drawn():
    """Return a reference, a context, and images: another critter there, it elsewhere, and it there."""
    rng = np.random.default_rng(4)
    critter, other = (world.sample_critter(rng, held_out=True) for _ in range(2))
    context = replace(world.sample_context(rng), scene="beach", accessory="hat", accessory_color="red")
    elsewhere = replace(context, scene="space", accessory="none")
    pairs = [(other, context), (critter, elsewhere), (critter, context)]
    return draw(critter, replace(context, scene="room")), context, [draw(*pair) for pair in pairs]


def test_the_image_of_the_subject_in_the_requested_place_is_the_best(drawn):
    reference, context, images = drawn
    ranker = open_ranker(POCKET)
    other, elsewhere, right = ranker(reference, describe_context(context), images)
    assert right.identity > 0.8 and right.following == 1
    assert right.identity > other.identity and right.following > elsewhere.following
    assert max((other, elsewhere, right), key=lambda score: score.order) is right
    assert ranker(reference, describe_context(context), images[::-1])[0] == right, "order changes no score"


def test_the_reference_itself_keeps_everything_and_a_prompt_of_other_words_is_not_judged(drawn):
    reference = drawn[0]
    (score,) = open_ranker(POCKET)(reference, "on the moon", [reference])
    assert (score.identity, score.closeness, score.following) == (1, 0, None)


@pytest.mark.parametrize(
    ("prompt", "requested"),
    [
        (
            "wearing a red hat on the Beach under clouds",
            {"scene": {"beach"}, "accessory": {"hat"}, "accessory_color": {"red"}, "light": {"overcast"}},
        ),
        ("in space", {"scene": {"space"}, "accessory": {"none"}, "light": {"daylight"}}),
        ("with a flag", {"accessory": {"flag"}, "light": {"daylight"}}),
        ("at sunset", {"accessory": {"none"}, "light": {"sunset left", "sunset right"}}),
        (
            "at night moonlight from the left",
            {"accessory": {"none"}, "light": {"moonlight left"}},
        ),
        ("at sunset lit from the left", {"accessory": {"none"}, "light": {"sunset left"}}),
        ("in daylight", {"accessory": {"none"}, "light": {"daylight"}}),
        ("riding a spacecraft", {}),
    ],
)  # fmt: skip
def test_a_prompt_requests_what_it_names_and_the_usual_for_the_rest(prompt, requested):
    assert find_requested(prompt) == requested


def test_every_context_is_read_back_from_its_own_words():
    rng = np.random.default_rng(0)
    for _ in range(80):
        context = world.sample_context(rng)
        requested = find_requested(describe_context(context))
        assert all(getattr(context, name) in values for name, values in requested.items()), context


# ---------------------------------------------------------------- an encoder, and a judge


class Encoder:
    """Vectors by the mean brightness of an image."""

    name = "brightness"

    def embed(self, images):
        levels = [np.asarray(image.convert("L")).mean() / 255 for image in images]
        return torch.tensor([[level, (1 - level**2) ** 0.5] for level in levels])


class Judge:
    """A judge that gives prepared answers."""

    name, weights, batch = "judge", None, 4

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def ask_many(self, requests):
        for request in requests:
            self.asked.append(request)
            yield self.answers.pop(0)


def gray(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level,) * 3)


def scores(identity: int, prompt: int) -> str:
    return f'{{"scores": {{"identity": {identity}, "prompt": {prompt}}}}}'


def test_without_a_judge_similarity_is_the_identity_and_nobody_reads_the_prompt():
    far, near, same = EncoderRanker(Encoder())(gray(200), "x", [gray(20), gray(180), gray(200)])
    assert far.identity < near.identity < same.identity == pytest.approx(1)
    assert same.following is None


def test_a_judge_scores_subject_and_prompt_and_similarity_decides_between_equals():
    judge = Judge(scores(3, 4), scores(3, 4), scores(4, 1))
    far, near, off = EncoderRanker(Encoder(), judge)(gray(200), 'a "hat"', [gray(20), gray(190), gray(200)])
    assert (far.identity, far.following) == (near.identity, near.following) == (0.75, 1)
    assert near.order > far.order > off.order
    request = judge.asked[0]
    assert 'a "hat"' in request.question and len(request.images) == 2 and request.schema


def test_an_unreadable_score_is_asked_for_again_and_then_said():
    judge = Judge("I like it", scores(2, 2))
    (score,) = EncoderRanker(Encoder(), judge)(gray(9), "x", [gray(9)])
    first, second = judge.asked
    assert score.identity == 0.5 and second == replace(first, seed=rankers.AGAIN)
    with pytest.raises(VLMError, match="scores cannot be read"):
        EncoderRanker(Encoder(), Judge("hm", "hm"))(gray(9), "x", [gray(9)])


def test_a_family_names_its_own_and_the_flag_another(monkeypatch):
    opened = []
    monkeypatch.setattr(rankers, "open_embedder", lambda name, **_: opened.append(name) or Encoder())
    assert isinstance(open_ranker(POCKET), CritterRanker)
    open_ranker(FLUX_DEV)
    open_ranker(Preset(name="a", base="a", weights="a", like="flux-dev"))
    open_ranker(POCKET, embedder="mine")
    assert opened == ["facebook/dinov2-base", "facebook/dinov2-base", "mine"]
    with pytest.raises(ValueError, match="--embedder"):
        open_ranker(Preset(name="a", base="a", weights="a"))


def test_another_network_ranks_than_the_one_that_measures():
    one, other = (scorer.load(folder).state_dict() for folder in (POCKET.ranker, world.SCORER))
    assert one.keys() == other.keys() and not torch.equal(one["numbers.weight"], other["numbers.weight"])
