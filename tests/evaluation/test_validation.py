"""The held-out critters, what is read of them, and the hook by which a training is watched."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.evaluation import scores, validation
from dsd.evaluation.critters import CritterScorer, Scene, find_copied_parts, validation_set
from dsd.evaluation.scores import Case
from dsd.generate import provenance
from dsd.model.presets import SCALES
from dsd.pocket.scorer import Reading
from dsd.pocket.words import describe_context
from dsd.pocket.world import Context
from tests import tiny

SUBJECTS, PROMPTS = 8, 2


def truly(cases):
    return lambda prompts, references, seeds: [case.truth for case in cases]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return validation_set(0, SUBJECTS, PROMPTS)


@pytest.fixture(scope="module")
def levels(cases) -> scores.Levels:
    return scores.measure_levels(cases, CritterScorer())


def test_the_validation_set_is_a_function_of_its_seed(cases):
    again = validation_set(0, 2, 1)
    first = [case for case in cases if case.subject in ("0000", "0001")][::PROMPTS]
    for a, b in zip(again, first, strict=True):
        assert a.facts == b.facts and a.prompt == b.prompt and a.seed == b.seed
        assert a.reference.tobytes() == b.reference.tobytes() and a.truth.tobytes() == b.truth.tobytes()
    assert validation_set(1, 2, 1)[0].facts != again[0].facts
    assert len({case.seed for case in cases}) == len(cases)


def test_its_critters_are_held_out_and_asked_for_somewhere_else(cases):
    assert all(case.facts.critter.held_out for case in cases)
    assert all(case.facts.target.scene != case.facts.reference.scene for case in cases)
    assert all(case.prompt == describe_context(case.facts.target) for case in cases)
    assert all(case.prompt in case.caption and case.facts.critter.color in case.caption for case in cases)


@pytest.mark.parametrize("counts", [{"subjects": 0}, {"prompts": -1}])
def test_a_validation_set_of_nothing_is_refused(counts):
    with pytest.raises(ValueError, match=f"{next(iter(counts))} must be at least 1"):
        validation_set(**counts)


def test_a_true_render_is_the_ceiling(cases, levels):
    result = scores.evaluate(truly(cases), cases, CritterScorer(), levels=levels)
    assert result.means == levels.ceiling
    assert result.means["identity"].mean > 0.93 and result.means["following"].mean > 0.93
    assert result.means["copy"].mean < 0


def test_a_copy_keeps_the_subject_and_leaves_the_prompt(cases, levels):
    means = scores.evaluate(validation.by_copying, cases, CritterScorer(), levels=levels).means
    assert means["identity"].mean > 0.9 and means["copy"].mean > 0.85  # of the poses, 91 % are read
    assert means["following"].mean < 0.5
    assert means["product"].mean <= means["following"].mean


def test_the_debiased_product_punishes_copies(cases, levels):
    copy, truth = (
        scores.evaluate(draw, cases, CritterScorer(), levels=levels)
        for draw in (validation.by_copying, truly(cases))
    )
    assert copy.means["debiased"].mean < 0.05 < copy.means["product"].mean
    assert truth.means["debiased"].mean > 0.5 > levels.chance["debiased"].mean
    assert all(row["debiased"] <= row["product"] for row in truth.rows)


def test_traits_count_where_they_show_and_are_the_reason(cases, levels):
    result = scores.evaluate(truly(cases), cases, CritterScorer(), levels=levels)
    bare = [case.facts.critter.pattern == "plain" for case in cases]
    assert any(bare) and [math.isnan(row["accent_hue"]) for row in result.rows] == bare
    assert result.means["color"].mean > 0.9 > levels.chance["color"].mean
    others = scores.evaluate(rotated, cases, CritterScorer(), levels=levels)
    reason = CritterScorer().explain(cases, others)[0]
    lost = [name.replace("_", " ") for name in CritterScorer.traits if others.rows[0][name] == 0]
    assert lost and reason.startswith(f"traits lost: {', '.join(lost)}; not shown: ")


def rotated(prompts, references, seeds):
    """Return an image of another subject for each case."""
    return references[PROMPTS:] + references[:PROMPTS]


def test_chance_is_far_below_the_ceiling(levels):
    assert levels.chance["identity"].mean < 0.5 and levels.chance["following"].mean < 0.5
    assert levels.chance["product"].mean < 0.25
    assert 0.1 < levels.raw_chance["copy"] < 0.45


def seen(tilt: float = 0.0, **choices) -> Reading:
    return Reading(
        {"accessory": "none", "accessory_color": "red", "light": "daylight", **choices}, {}, 0.0, tilt
    )


def test_only_what_was_not_asked_for_counts_as_copied(cases):
    reference = Context(
        scene="beach", accessory="hat", accessory_color="blue", light="moonlight left", place="left", tilt=8
    )
    target = Context(scene="snow", accessory="hat", accessory_color="red", light="moonlight left")
    scene = Scene(critter=cases[0].facts.critter, reference=reference, target=target)
    copied = find_copied_parts(scene, seen(**vars(reference)))
    assert copied == {"place": True, "pose": True, "scene": True, "accessory": True}
    obeyed = find_copied_parts(
        scene, seen(scene="snow", accessory="hat", light="moonlight left", place="right")
    )
    assert obeyed == {"place": False, "pose": False, "scene": False, "accessory": False}
    scene = replace(scene, reference=replace(reference, accessory="none"))
    bare = find_copied_parts(scene, seen(scene="sea", place="left", tilt=4))
    assert bare == {"place": True, "pose": True, "scene": False}


# ---------------------------------------------------------------- while training


@pytest.fixture(scope="module")
def hook(cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    settings = {"steps": 1, "image_guidance": 1.0, "batch": 3}
    benchmark = validation.Benchmark(cases[:4], CritterScorer())
    return folder, validation.Validator(benchmark, folder, **settings)


def test_the_hook_scores_a_pipeline_and_leaves_a_grid(hook):
    folder, validate = hook
    flat = validate(tiny.pipeline(), 40)
    assert {"identity", "following", "product", "copy", "copy_low", "identity_ceiling"} <= set(flat)
    grid = Image.open(folder / "samples" / "000040.png")
    assert grid.info["Source"] == provenance.MARK
    assert grid.width > 3 * 128 and grid.height > 4 * 128  # reference, drawn, truth
    assert validate(tiny.pipeline(), 41) == flat


def test_the_hook_leaves_the_training_as_it_was(hook):
    pipe = tiny.pipeline()
    torch.manual_seed(5)
    weights = [weight.clone() for weight in pipe.transformer.parameters()]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    hook[1](pipe, 1)
    assert torch.equal(torch.get_rng_state(), state) and (np.random.get_state()[1] == numpy_state).all()
    assert all(torch.equal(a, b) for a, b in zip(weights, pipe.transformer.parameters(), strict=True))


def test_the_grid_shows_every_subject_before_any_twice(cases):
    drawn = [Image.new("RGB", (8, 8), (i * 10, 0, 0)) for i in range(len(cases))]
    page = validation.sample_sheet(cases, {"drawn": drawn})
    rows = [page.getpixel((130 + 64, 24 + 130 * row + 64))[0] // 10 for row in range(12)]
    assert rows == [*range(0, 16, 2), 1, 3, 5, 7]


class Echo:
    """Stands in for a pipeline: an image is what it was asked for."""

    scales = SCALES

    def __init__(self):
        self.sizes = []

    def __call__(self, prompts, image, generator, **options):
        self.sizes.append(len(prompts))
        asked = zip(prompts, image, generator, strict=True)
        return SimpleNamespace(images=[f"{p}{i}{g.initial_seed()}" for p, i, g in asked])


def test_batches_together_are_the_whole():
    pipe, done = Echo(), []
    draw = validation.in_batches(validation.by_student(pipe), 2, on_done=done.append)
    assert draw(list("abcde"), list("vwxyz"), [1, 2, 3, 4, 5]) == ["av1", "bw2", "cx3", "dy4", "ez5"]
    assert pipe.sizes == done == [2, 2, 1]
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        validation.in_batches(draw, 0)


def test_saved_images_are_not_drawn_again_unless_a_setting_differs(tmp_path):
    requests = ["a hat"], [tiny.image()], [0]
    seeds = []

    def draw(prompts, references, new_seeds):
        seeds.extend(new_seeds)
        return references

    for name in ("28 steps", "28 steps", "14 steps"):
        saved = validation.save_in(tmp_path, name, draw)
        assert saved(*requests)[0].tobytes() == tiny.image().convert("RGB").tobytes()
    saved(requests[0] * 2, requests[1] * 2, [1, 0])
    assert seeds == [0, 0, 1, 0]  # the last batch as a whole
    assert {Image.open(path).info["Source"] for path in tmp_path.iterdir()} == {provenance.MARK}
