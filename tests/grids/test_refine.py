"""Panels that are drawn again: each from its own words and its grid's noise, and only where that is asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from dsd.grids import refine
from dsd.grids.gutters import equal_boxes
from dsd.grids.prompts import Prompt
from dsd.grids.teacher import Settings, Teacher, load_teacher
from dsd.model.checkpoint import LoadError, model_hash
from tests import tiny
from tests.tiny import FRAME

PLACES = ["beach", "snow", "city", "room"]
BOXES = equal_boxes(Image.new("RGB", (2 * FRAME, 2 * FRAME)), 2, 2)


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    pipe = FluxPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()})
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer_2.model_max_length = 40
    settings = Settings(panel=FRAME, margin=0, steps=4, tokens=40, equal_parts=True, refine=0.5)
    return Teacher(pipe=pipe, settings=settings, name="tiny", hash=model_hash(pipe))


def prompt(seed: int = 7, places: list[str] = PLACES) -> Prompt:
    layout = {"rows": 2, "columns": 2, "recipe": "critters", "subject": "red critter", "places": places}
    return Prompt(id="", prompt="four critters", seed=seed, **layout)


def at(teacher: Teacher, strength: float) -> Teacher:
    return replace(teacher, settings=replace(teacher.settings, refine=strength))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


def test_the_words_of_a_panel_are_in_the_wording_of_its_recipe():
    assert refine.panel_prompt(prompt(), 1) == "a red critter snow"
    assert refine.panel_prompt(replace(prompt(), recipe="identity"), 1) == "red critter, snow"


def test_without_a_strength_or_boxes_a_grid_stays_as_it_is(teacher):
    (grid,) = teacher.draw([prompt()])
    assert at(teacher, 0).refine([grid], [prompt()], [BOXES]) == [grid]
    assert teacher.refine([grid], [prompt()], ["gutters: none"]) == [grid]


def test_a_higher_strength_keeps_less_of_a_panel(teacher):
    (grid,) = teacher.draw([prompt()])
    refined = [at(teacher, strength).refine([grid], [prompt()], [BOXES])[0] for strength in (0.25, 1.0)]
    change = [np.abs(pixels(image) - pixels(grid)).mean() for image in refined]
    assert all(image.size == grid.size for image in refined) and 0 < change[0] < change[1]


def test_a_panel_depends_on_its_own_words_and_seed_alone(teacher):
    grid, other = teacher.draw([prompt(), prompt(8)])
    (alone,) = teacher.refine([grid], [prompt()], [BOXES])
    others = [prompt(places=["desert", *PLACES[1:]]), prompt(8)]
    changed, _ = teacher.refine([grid, other], others, [BOXES, BOXES])
    differs = [np.abs(pixels(alone.crop(box)) - pixels(changed.crop(box))).max() for box in BOXES]
    assert differs[0] > 2 and max(differs[1:]) <= 1  # by rounding in another batch


def test_panels_of_a_grid_get_the_same_noise(teacher):
    one = Image.effect_noise((FRAME, FRAME), 40).convert("RGB")
    grid = Image.new("RGB", (2 * FRAME, 2 * FRAME))
    for left, upper, *_ in BOXES:
        grid.paste(one, (left, upper))
    (refined,) = teacher.refine([grid], [prompt(places=["beach"] * 4)], [BOXES])
    first, *others = [pixels(refined.crop(box)) for box in BOXES]
    assert all(np.abs(first - other).max() <= 1 for other in others) and (first != pixels(one)).any()


def test_new_noise_in_every_step_is_a_grids_own_too_and_leaves_the_teacher_alone(teacher):
    renewed = replace(teacher, settings=replace(teacher.settings, stochastic=True, batch=3))
    grid = Image.new("RGB", (2 * FRAME, 2 * FRAME), "gray")
    same = prompt(places=["beach"] * 4)
    (plain,), (refined,) = (one.refine([grid], [same], [BOXES]) for one in (teacher, renewed))
    first, *others = [pixels(refined.crop(box)) for box in BOXES]
    assert all(np.abs(first - other).max() <= 1 for other in others)
    assert np.abs(pixels(refined) - pixels(plain)).max() > 2
    assert renewed.refine([grid], [same], [BOXES]) == [refined]
    assert teacher.refine([grid], [same], [BOXES]) == [plain]


def test_boxes_within_gutters_leave_the_gutters_alone(teacher):
    (grid,) = teacher.draw([prompt()])
    inner = [(left + 3, upper + 2, right - 3, lower - 2) for left, upper, right, lower in BOXES]
    (refined,) = teacher.refine([grid], [prompt()], [inner])
    changed = np.abs(pixels(refined) - pixels(grid)).max(2) > 0
    outside = np.ones_like(changed)
    for left, upper, right, lower in inner:
        outside[upper:lower, left:right] = False
    assert changed.any() and not (changed & outside).any()


def test_a_rows_stamp_names_the_strength(teacher):
    assert teacher.stamp["refine"] == 0.5 and "refine" not in at(teacher, 0).stamp


def test_what_cannot_be_refined_is_refused():
    with pytest.raises(ValueError, match="refine must be from 0 to 1, got 1.5"):
        load_teacher("pocket", refine=1.5, device="cpu")
    pipe = tiny.pipeline()  # reads a reference
    with pytest.raises(LoadError, match="mine is a DSDPipeline, which cannot draw a panel again"):
        refine.image_pipeline(pipe, "mine")


def test_a_prompt_whose_panels_have_no_words_of_their_own_is_refused(teacher):
    assert teacher.refuse(prompt()) is None
    assert teacher.refuse(prompt(places=["beach"])).startswith("not one place for each panel: 1 for 4; ")
    unknown = replace(prompt(), recipe="mine")
    assert "the recipe is 'mine'; --refine 0" in teacher.refuse(unknown)
    assert at(teacher, 0).refuse(unknown) is None
    long = prompt(places=["very " * 60 + "far away", *PLACES[1:]])
    assert teacher.refuse(long).startswith("words of a panel too long: ")
