"""The shipped pocket family: each part opens in the stock class and does what its card says."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw

from dsd import load_pipeline
from dsd.model.presets import ASSETS
from dsd.pocket import scorer as pocket_scorer
from dsd.pocket.draw import draw
from dsd.pocket.words import caption, describe_context
from dsd.pocket.world import NAMED, sample_context, sample_critter
from train.pocket.scorer import fit_tilt
from train.pocket.vae import model as vae

SIDE = 128


@pytest.fixture(scope="module")
def teacher() -> FluxPipeline:
    return FluxPipeline.from_pretrained(ASSETS / "teacher", dtype=torch.float32)


@pytest.fixture(scope="module")
def scorer():
    return pocket_scorer.load()


def fresh(count: int, seed: int, *, held_out: bool = False) -> list:
    rng = np.random.default_rng((123, seed))
    return [(sample_critter(rng, held_out=held_out), sample_context(rng)) for _ in range(count)]


def test_no_file_is_over_10_mb_and_all_together_are_at_most_52():
    sizes = [file.stat().st_size for file in ASSETS.parent.rglob("*") if file.is_file()]
    assert max(sizes) <= 10 * 2**20, "git pushes no larger file to a Space"
    assert sum(sizes) <= 52 * 2**20


def test_the_vae_redraws_unseen_renders(teacher):
    images = np.stack([np.asarray(draw(*scene)) for scene in fresh(60, 1)])
    assert vae.vae_psnr(teacher.vae, vae.to_tensor(images)) >= 28.5


@pytest.mark.parametrize("held_out", [False, True])
def test_the_scorer_reads_named_traits_and_how_far_a_critter_leans(scorer, held_out):
    scenes = fresh(150, 2, held_out=held_out)
    readings = scorer.read([draw(*scene) for scene in scenes])
    off = [abs(r.tilt - context.tilt) for (_, context), r in zip(scenes, readings, strict=True)]
    assert (
        np.mean(np.array(off) <= pocket_scorer.LEAN) >= 0.85
    )  # 91 % of 2,000, and two standard errors of 150
    traits = [pocket_scorer.check_traits(c, r) for (c, _), r in zip(scenes, readings, strict=True)]
    right = [agree[name] for agree in traits for name in NAMED]
    assert np.mean(right) >= 0.97


def test_a_scorer_of_other_lights_is_refused_by_name(tmp_path):
    old = pocket_scorer.Scorer(width=4, features=8, size=64)
    old.heads["light"] = torch.nn.Linear(8, 3)
    old.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of an earlier version: train it again with python -m"):
        pocket_scorer.load(tmp_path)


def test_fitting_how_far_they_lean_changes_nothing_else_of_the_scorer(scorer):
    scenes, other = fresh(24, 5), deepcopy(scorer)
    torch.nn.init.zeros_(other.tilt.weight)
    fit_tilt(
        other,
        pocket_scorer.to_tensor([draw(*scene) for scene in scenes], other.size),
        torch.tensor([context.tilt for _, context in scenes]),
    )
    before = scorer.state_dict()
    changed = {name for name, value in other.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"tilt.weight", "tilt.bias"}
    read = [reading.tilt for reading in other.read([draw(*scene) for scene in scenes])]
    assert np.corrcoef(read, [context.tilt for _, context in scenes])[0, 1] > 0.9


def test_the_teacher_draws_the_scene_in_plain_diffusers(teacher, scorer):
    scenes = fresh(12, 3)
    teacher.set_progress_bar_config(disable=True)
    drawn = teacher(
        [caption(*scene) for scene in scenes],
        height=SIDE,
        width=SIDE,
        num_inference_steps=12,
        max_sequence_length=28,
        generator=torch.Generator().manual_seed(0),
    ).images
    right = [r.choices["scene"] == x.scene for (_, x), r in zip(scenes, scorer.read(drawn), strict=True)]
    assert np.mean(right) >= 0.7


def test_the_student_keeps_a_held_out_subjects_color_and_goes_where_it_is_told(scorer):
    pipe = load_pipeline("pocket", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    scenes, elsewhere = fresh(12, 4, held_out=True), [context for _, context in fresh(12, 5)]
    drawn = pipe(
        [describe_context(context) for context in elsewhere],
        image=[draw(*scene) for scene in scenes],
        num_inference_steps=12,
        generator=[torch.Generator().manual_seed(i) for i in range(12)],
    ).images
    readings = scorer.read(drawn)
    assert np.mean([r.choices["color"] == c.color for (c, _), r in zip(scenes, readings, strict=True)]) >= 0.7
    assert np.mean([r.choices["scene"] == x.scene for x, r in zip(elsewhere, readings, strict=True)]) >= 0.7


def test_critters_raise_no_alarm():
    alarms = [pocket_scorer.warning(draw(*scene)) is not None for scene in fresh(200, 6, held_out=True)]
    assert np.mean(alarms) <= 0.05


def ordinary_photographs() -> list[Image.Image]:
    data = pytest.importorskip("skimage.data")
    names = "astronaut camera chelsea coffee coins page text moon brick grass gravel".split()
    images = [Image.fromarray(getattr(data, name)()).convert("RGB") for name in names]
    return [crop for image in images for crop in quarters(image)]


def quarters(image: Image.Image) -> list[Image.Image]:
    """The image and its four quarters, as squares."""
    w, h = image.size
    corners = [(0, 0, w, h), *((x, y, x + w // 2, y + h // 2) for x in (0, w // 2) for y in (0, h // 2))]
    return [image.crop(corner) for corner in corners]


def text_screenshots() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [text_screenshot(rng) for _ in range(20)]


def text_screenshot(rng: np.random.Generator) -> Image.Image:
    page = Image.new("RGB", (400, 400), "white" if rng.random() < 0.5 else (24, 26, 30))
    ink = "black" if page.getpixel((0, 0)) == (255, 255, 255) else "white"
    for line in range(10, 390, 16):
        words = " ".join("lorem ipsum dolor sit amet"[: int(rng.integers(3, 26))] for _ in range(2))
        ImageDraw.Draw(page).text((10, line), words, fill=ink)
    return page


@pytest.mark.parametrize("strangers", [ordinary_photographs, text_screenshots])
def test_photographs_and_text_are_told_apart(strangers):
    assert np.mean([pocket_scorer.warning(image) is not None for image in strangers()]) >= 0.9
