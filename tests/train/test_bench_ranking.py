"""What ranking gains, measured by a scorer that has ranked nothing."""

import pytest
from PIL import Image

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.validation import Benchmark
from dsd.generate.ranking import Score
from dsd.model.presets import SCALES
from dsd.pocket.world import SCORER
from train.bench import __main__ as command
from train.bench import ranking


@pytest.fixture(scope="module")
def benchmark():
    return Benchmark(validation_set(0, 4, 1), CritterScorer())


def pick(image: Image.Image):
    """A ranker that likes one image."""
    return lambda frame, prompt, images: [Score(float(one is image), 1.0) for one in images]


def test_the_chosen_images_are_scored_and_compared_with_the_first(benchmark):
    wrong = [case.reference for case in benchmark.cases]
    images = [[other, case.truth] for other, case in zip(wrong, benchmark.cases, strict=True)]
    truths = {id(case.truth) for case in benchmark.cases}

    def knows(frame, prompt, drawn):
        return [Score(float(id(one) in truths), 1.0) for one in drawn]

    first, best, most = ranking.rows(benchmark, images, knows)
    assert first["gain"] == 0 and best["way"] == "best of 2 by the ranker"
    assert best["gain"] > 0.2 and best["CP x PF"] == most["CP x PF"] > first["CP x PF"]
    assert best["gain, 95 %"][0] > 0
    _, same, most = ranking.rows(benchmark, images, pick(None))
    assert same["gain"] == 0 < most["gain"], "a ranker that knows nothing gains nothing"


def test_every_image_of_a_case_has_a_seed_of_its_own(benchmark):
    seeds = []

    class Pipe:
        scales = SCALES

        def __call__(self, prompts, *, image, generator, **_):
            seeds.extend(each.initial_seed() for each in generator)
            return type("Output", (), {"images": list(image)})

    images = ranking.draw_several(Pipe(), benchmark.cases, 3, steps=1)
    assert [len(of_case) for of_case in images] == [3] * 4 and len(set(seeds)) == 12


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--best-of", "1"], "--best-of must be at least 2, got 1"),
        (["--ranker", str(SCORER)], "is the scorer that measures"),
        (["--ranker", "nowhere"], "there is no ranker"),
    ],
)
def test_a_scorer_that_also_measures_is_refused_before_anything_is_drawn(flags, words):
    with pytest.raises(ValueError, match=words):
        command.main(["ranking", *flags])
