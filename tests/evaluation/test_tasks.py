"""Relighting and edits with known truth: true pairs, the cases to draw, and what is right in an image."""

from statistics import fmean

import numpy as np
import pytest

from dsd.evaluation.benefit import is_true
from dsd.evaluation.scores import evaluate
from dsd.evaluation.tasks import TARGETS, TaskScorer, by_multiplying, split_parts, task_cases
from dsd.evaluation.validation import CRITTERS as WORLD
from dsd.evaluation.validation import by_copying, open_benchmark
from dsd.grids.recipes import CRITTERS, RECIPES
from dsd.pocket.scorer import Reading

CHOICES = {
    "color": "red", "shape": "round", "pattern": "plain", "ears": "no", "eyes": 2, "scene": "beach",
    "accessory": "hat", "accessory_color": "red", "place": "left", "light": "daylight",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "relit", "edited"),
    [
        ({}, False, False),
        ({"light": "moonlight left"}, True, False),
        ({"accessory": "none", "accessory_color": "blue"}, False, True),
        ({"accessory_color": "blue"}, False, True),
        ({"place": "right"}, False, True),
        ({"place": "right", "accessory": "flag"}, False, False),
        ({"light": "moonlight left", "scene": "sea"}, False, False),
        ({"light": "moonlight left", "color": "blue"}, False, False),
    ],
)
def test_a_pair_of_a_task_is_true_if_one_part_of_its_kind_differs(changes, relit, edited):
    one, other = Reading(CHOICES, {"hue": 0.0}, 0.0), Reading(CHOICES | changes, {"hue": 0.0}, 0.0)
    recipes = RECIPES["critters-relight"], RECIPES["critters-edit"], CRITTERS
    assert [is_true(recipe, one, other) for recipe in recipes] == [relit, edited, "color" not in changes]


@pytest.fixture(scope="module", params=list(TARGETS))
def cases(request) -> tuple[str, list]:
    return request.param, task_cases(request.param, subjects=20, prompts=2)


def reading(context, **changes) -> Reading:
    return Reading(CHOICES | vars(context) | changes, {}, 0.0, context.tilt)


def test_a_case_asks_for_one_change_of_its_reference(cases):
    task, some = cases
    for case in some:
        scene = case.facts
        changed = {
            name for name, value in vars(scene.target).items() if value != getattr(scene.reference, name)
        }
        assert case.prompt and scene.critter.held_out and case.truth.tobytes() != case.reference.tobytes()
        if task == "relight":
            assert changed == {"light"}
        else:
            assert len(changed - {"accessory_color"}) <= 1 and changed <= {
                "place",
                "accessory",
                "accessory_color",
            }
    assert len({case.seed for case in some}) == len(some) == 40


def test_truth_has_the_change_and_the_rest_and_the_reference_only_the_rest(cases):
    _, some = cases
    for case in some:
        asked, kept = split_parts(case.facts, reading(case.facts.target))
        assert asked and all(asked.values()) and all(kept.values()) and len(asked) + len(kept) == 5
        asked, kept = split_parts(case.facts, reading(case.facts.reference))
        assert not any(asked.values()) and all(kept.values())
        lost = {"scene": "nowhere"}
        assert not split_parts(case.facts, reading(case.facts.target, **lost))[1]["scene"]


def test_the_scorer_tells_the_truth_from_the_unchanged_reference(cases):
    task, some = cases
    network = TaskScorer()
    by_truth = evaluate(lambda *_: [case.truth for case in some], some, network)
    unchanged = evaluate(by_copying, some, network, levels=by_truth.levels)
    assert by_truth.means["changed"].mean > 0.9 > 0.1 > unchanged.means["changed"].mean
    assert by_truth.means["kept"].mean > 0.95 and unchanged.means["kept"].mean > 0.95
    assert by_truth.means["right"].mean > 0.8 > unchanged.means["right"].mean
    assert {*(measure.name for measure in network.measures), *network.traits} == set(by_truth.rows[0])
    assert {"light", "place"} - by_truth.means.keys() == ({"light"} if task == "relight" else set())
    reasons = network.explain(some, unchanged)
    assert sum(reason == "the change is missing; lost: nothing" for reason in reasons) > 20
    assert all(row["pose"] or "pose" in reason for row, reason in zip(unchanged.rows, reasons, strict=True))


def test_multiplied_colors_have_the_mean_of_the_light_asked_for():
    some = task_cases("relight", subjects=8, prompts=2)
    images = by_multiplying(some)([], [case.reference for case in some], [case.seed for case in some])
    near = [np.abs(np.asarray(i, float).mean((0, 1)) - np.asarray(c.truth, float).mean((0, 1))).max()
            for i, c in zip(images, some, strict=True)]  # fmt: skip
    far = [np.abs(np.asarray(c.reference, float).mean((0, 1)) - np.asarray(c.truth, float).mean((0, 1))).max()
           for c in some]  # fmt: skip
    assert fmean(near) < 0.5 * fmean(far)


def test_a_task_has_a_benchmark_of_critters_alone(tmp_path):
    found = open_benchmark(WORLD, subjects=2, prompts=None, task="edit")
    assert isinstance(found.scorer, TaskScorer) and "change is there" in found.legend
    assert len(found.cases) == 6 and found.name == "held-out critters, edit"
    assert len(task_cases("relight", subjects=2)) == 2 * 3
    with pytest.raises(ValueError, match="the task edit is measured on critters alone"):
        open_benchmark(tmp_path, subjects=2, prompts=1, task="edit")
    with pytest.raises(ValueError, match=r"prompts of the task edit must be in 1..3, got 4"):
        task_cases("edit", subjects=1, prompts=4)
