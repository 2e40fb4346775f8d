"""What the judge sees in training of the teacher's way of drawing: the same panels, only worse drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dsd.model.latents import decode
from dsd.model.presets import ASSETS
from dsd.pocket.draw import draw
from train.pocket import latents as grids
from train.pocket import scenes
from train.pocket.judge import redrawn
from train.pocket.presets import CPU
from train.pocket.teacher import Teacher
from train.pocket.vae.model import TRAIN_SEED

FAMILIES, SIDE = range(0, 2), 64


@pytest.fixture(scope="module")
def vae():
    return AutoencoderKL.from_pretrained(ASSETS / "teacher" / "vae", torch_dtype=torch.float32)


@pytest.fixture(scope="module")
def latents(vae, tmp_path_factory):
    return grids.load(vae, TRAIN_SEED, len(FAMILIES), SIDE, tmp_path_factory.mktemp("latents"))


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return Teacher(replace(CPU, panel=SIDE, heads=2, single_blocks=1)).eval()


@torch.no_grad()
def test_with_hardly_any_noise_every_panel_comes_back_in_its_place(teacher, vae, latents, monkeypatch):
    monkeypatch.setattr(redrawn, "NOISE", (0.01, 0.02))
    panels = redrawn.GRIDS[0]
    drawn = redrawn.redraw(teacher, vae, latents, FAMILIES, panels, SIDE)
    assert drawn.shape == (len(FAMILIES), len(panels), SIDE, SIDE, 3)
    plain = redrawn.to_pixels(decode(vae, latents[: len(FAMILIES), list(panels)].flatten(0, 1).float()))
    off = np.abs(drawn.reshape(-1, 1, SIDE, SIDE, 3).astype(float) - plain[None].astype(float)).mean(
        (2, 3, 4)
    )
    assert off.argmin(1).tolist() == list(range(len(off))) and off.diagonal().max() < 6


@torch.no_grad()
def test_more_noise_changes_more_and_the_same_call_draws_the_same(teacher, vae, latents, monkeypatch):
    def drawn(noise):
        monkeypatch.setattr(redrawn, "NOISE", (noise, noise))
        return redrawn.redraw(teacher, vae, latents, FAMILIES, redrawn.GRIDS[1], SIDE).astype(float)

    little, much, again = drawn(0.02), drawn(0.6), drawn(0.6)
    assert (much == again).all() and np.abs(much - little).mean() > 3


def test_only_images_that_still_tell_the_critter_count_as_true():
    from dsd.pocket import scorer

    by_day = [
        (critter, replace(context, light="daylight")) for critter, context in scenes.family(TRAIN_SEED, 0)
    ]
    images = np.stack([np.asarray(draw(*one, SIDE)) for one in by_day])
    readings = scorer.load().read([redrawn.Image.fromarray(image) for image in images])
    assert sum(redrawn.is_true(row, reading) for row, reading in enumerate(readings)) >= 6
    other = scenes.FAMILY * 5  # another critter
    assert not any(redrawn.is_true(other + row, reading) for row, reading in enumerate(readings))


def test_an_interrupted_command_goes_on_and_another_teacher_draws_anew(vae, latents, monkeypatch, tmp_path):
    preset, drawn, fails = replace(CPU, panel=SIDE, heads=2, single_blocks=1), [], [True]
    weights = tmp_path / "teacher" / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"one")
    vae.save_pretrained(tmp_path / "vae")

    def draw(teacher, vae, latents, families, panels, side):
        if families.start == 1 and fails:
            fails.clear()
            raise KeyboardInterrupt
        drawn.append(families.start)
        return np.full((1, len(panels), side, side, 3), families.start, np.uint8)

    monkeypatch.setattr(redrawn, "BATCH", 1)
    monkeypatch.setattr(redrawn, "redraw", draw)
    monkeypatch.setattr(redrawn, "begin_with", lambda teacher, folder: None)
    monkeypatch.setattr(redrawn, "read_truths", lambda run, images: np.ones(len(images), bool))
    with pytest.raises(KeyboardInterrupt):
        redrawn.by_teacher(tmp_path, preset, latents, 2)
    images, _ = redrawn.by_teacher(tmp_path, preset, latents, 2)
    assert drawn == [0, 0, 0, 1, 1, 1], "the batch that was drawn is not drawn again"
    assert images[:, 0, 0, 0].tolist() == [0] * scenes.FAMILY + [1] * scenes.FAMILY
    redrawn.by_teacher(tmp_path, preset, latents, 2)
    assert len(drawn) == 6, "a stored array is read"
    weights.write_bytes(b"two")
    redrawn.by_teacher(tmp_path, preset, latents, 2)
    assert len(drawn) == 12 and not [path for path in (tmp_path / "renders").iterdir() if path.is_dir()]
