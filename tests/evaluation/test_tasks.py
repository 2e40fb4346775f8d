"""Relighting and edits with known truth: which pairs are true, which cases are drawn, what is right in an image."""

import pytest

from dsd.evaluation.benefit import is_true
from dsd.grids.recipes import CRITTERS, RECIPES
from dsd.pocket.scorer import Reading

CHOICES = {
    "color": "red", "shape": "round", "pattern": "plain", "ears": "no", "eyes": 2, "scene": "beach",
    "accessory": "hat", "accessory_color": "red", "place": "left", "light": "day",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "relit", "edited"),
    [
        ({}, False, False),
        ({"light": "night"}, True, False),
        ({"accessory": "none", "accessory_color": "blue"}, False, True),
        ({"accessory_color": "blue"}, False, True),
        ({"place": "right"}, False, True),
        ({"place": "right", "accessory": "flag"}, False, False),
        ({"light": "night", "scene": "sea"}, False, False),
        ({"light": "night", "color": "blue"}, False, False),
    ],
)
def test_a_pair_of_a_task_is_true_if_one_part_of_its_kind_differs(changes, relit, edited):
    one, other = Reading(CHOICES, {"hue": 0.0}, 0.0), Reading(CHOICES | changes, {"hue": 0.0}, 0.0)
    recipes = RECIPES["critters-relight"], RECIPES["critters-edit"], CRITTERS
    assert [is_true(recipe, one, other) for recipe in recipes] == [relit, edited, "color" not in changes]
