"""The tasks relight and edit: their recipes as tables, and the prompts that are written without a model."""

from dataclasses import replace

import pytest

from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.grids import task_writers
from dsd.grids.prompts import compose_prompt
from dsd.grids.recipes import RECIPES, TASKS, WORLD_TASKS, recipe_for
from dsd.grids.writers import Unusable
from dsd.pocket.words import (
    describe_critter,
    describe_edit_panels,
    describe_panel,
    edit_prompt,
    relight_prompt,
)
from dsd.pocket.world import ACCESSORIES, LIGHTS, sample_context, sample_critter, sample_edits
from tests.writing import rng, written
from train import prompts as train_prompts

PLAIN = [f"a photo of a {kind} in the park" for kind in ("red fox", "grey cat", "tiny owl")]


def test_every_task_has_a_recipe_for_full_size_models_and_some_have_one_for_pocket():
    assert set(WORLD_TASKS) <= set(TASKS)
    for recipe in RECIPES.values():
        tasks = WORLD_TASKS if recipe.in_world else TASKS
        assert {recipe_for(task, recipe).task for task in tasks} == set(tasks)
        assert all(recipe_for(task, recipe).in_world == recipe.in_world for task in tasks)
        with pytest.raises(ValueError, match=f"{recipe.name} goes with the tasks identity, .*got 'season'"):
            recipe_for("season", recipe)
        assert recipe_for(recipe.task, recipe) is recipe and set(recipe.changes) < set(recipe.parts)
        assert recipe.in_world or all(f'"{part}": N' in recipe.question for part in recipe.parts)
        assert recipe.name in task_writers.WITHOUT_MODEL


@pytest.mark.parametrize("recipe", ["critters-relight", "critters-edit"])
def test_a_task_words_a_grid_exactly_as_pockets_teacher_is_taught(recipe):
    generator = rng()
    for _ in range(100):
        critter, context = sample_critter(generator), sample_context(generator)
        if recipe == "critters-edit":
            contexts = [context, *sample_edits(context, generator)]
            scene, panels = describe_panel(context, say_accessory=False), describe_edit_panels(contexts)
            taught = edit_prompt(critter, contexts)
        else:
            panels = generator.permutation(LIGHTS)[:4].tolist()
            scene = describe_panel(context, say_light=False)
            taught = relight_prompt(critter, [replace(context, light=light) for light in panels])
        subject = f"{describe_critter(critter)} {scene}"
        assert compose_prompt(RECIPES[recipe], subject, panels, 2, 2) == taught


def test_a_grammar_for_relighting_shows_one_scene_in_four_lights(tmp_path):
    for row in written(tmp_path, None, count=40, recipe="critters-relight"):
        assert len(set(row["places"])) == 4 and set(row["places"]) <= set(LIGHTS)
        assert not any(light in row["subject"] for light in LIGHTS)


def test_a_grammar_for_edits_shows_one_scene_in_four_versions(tmp_path):
    for row in written(tmp_path, None, count=40, recipe="critters-edit"):
        kinds = {place.split()[1] for place in row["places"]}
        assert len(set(row["places"])) == 4 and len(kinds) == 1 and kinds < set(ACCESSORIES)
        assert len({place.split(maxsplit=2)[2] for place in row["places"]}) == 2


def test_an_edit_changes_one_thing():
    generator = rng()
    for _ in range(100):
        context = sample_context(generator)
        for other in sample_edits(context, generator):
            changed = {name for name, value in vars(other).items() if value != getattr(context, name)}
            is_added = context.accessory == "none" and "accessory" in changed
            assert (changed - {"accessory_color"} if is_added else changed) in (
                {"accessory"}, {"accessory_color"}, {"place"},
            )  # fmt: skip


@pytest.mark.parametrize(("recipe", "layout"), [("relight", (3, 3)), ("relight", (1, 2)), ("edit", (2, 2))])
def test_a_template_keeps_the_scene_and_varies_the_rest(tmp_path, recipe, layout):
    rows, columns = layout
    made = written(tmp_path, PLAIN, recipe=recipe, rows=rows, columns=columns)
    assert [row["subject"] for row in made] == [
        "red fox in the park",
        "grey cat in the park",
        "tiny owl in the park",
    ]
    assert all(len(set(row["places"])) == rows * columns for row in made)
    assert all(place in row["prompt"] for row in made for place in row["places"])


def test_a_template_refuses_a_scene_that_names_a_light_or_has_several_subjects():
    for caption, reason in (("a fox at night", "names a light"), ("two dogs in a park", "several subjects")):
        (draft,) = task_writers.relight_template([caption], 4, seed=0)
        assert draft.dropped == reason
    with pytest.raises(Unusable):
        task_writers.read_scene("three cats")


def test_the_command_takes_a_task_and_a_run_keeps_to_it(tmp_path, capsys):
    assert train_prompts.main([str(tmp_path), "--count", "2", "--task", "relight"]) == 0
    rows = jsonl.read(tmp_path / "prompts.jsonl")
    assert [row["recipe"] for row in rows] == ["critters-relight"] * 2 and rows[0][
        "writer"
    ] == "relight_grammar"
    with pytest.raises(RunError, match="recipe was 'critters-relight', now 'critters-edit'"):
        train_prompts.main([str(tmp_path), "--count", "3", "--task", "edit"])
