"""The decoder's last training: it learns to undo what redrawn latents have wrong, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from dsd.model.presets import ASSETS
from dsd.pocket.words import caption
from tests.toys import TOY
from train.pocket import scenes, teacher
from train.pocket.loop import TrainState
from train.pocket.redraw import redraw
from train.pocket.vae import decoder
from train.pocket.vae.model import TRAIN_SEED, psnr, to_tensor

PRESET = replace(TOY, decoder_families=4, vae_batch=4)


def fade(drawer, data, prompts, side, **settings):
    """Stand in for the teacher: latents lose a part of their strength, which a decoder can give back."""
    return 0.8 * data


@pytest.fixture
def run(tmp_path, monkeypatch):
    AutoencoderKL.from_pretrained(ASSETS / "teacher" / "vae").save_pretrained(tmp_path / "vae")
    monkeypatch.setattr(decoder, "begin_with", lambda model, folder: None)
    monkeypatch.setattr(decoder, "redraw", fade)
    return tmp_path


def faded_psnr(vae: AutoencoderKL, images: torch.Tensor) -> float:
    with torch.no_grad():
        return psnr(lambda x: 0.8 * vae.encode(x).latent_dist.mode(), lambda z: vae.decode(z).sample, images)


def test_it_decodes_redrawn_latents_better_and_moves_only_the_branches(run):
    before = AutoencoderKL.from_pretrained(run / "vae")
    test = to_tensor(scenes.render(7, 1, PRESET.panel, run / "renders"))
    after = decoder.train(run, PRESET, 30, None, test)
    assert faded_psnr(after, test) > faded_psnr(before, test) + 0.5
    old = before.state_dict()
    moved = {name for name, value in after.state_dict().items() if not torch.equal(value, old[name])}
    assert moved and all(name.startswith("decoder.") for name in moved)
    still = ("decoder.conv_norm_out", "decoder.conv_out", "decoder.up_blocks.3.resnets.0.conv_shortcut")
    assert not any(name.startswith(still) for name in moved)


def test_a_stopped_training_goes_on_and_ends_in_the_same_weights(run, monkeypatch):
    test = to_tensor(scenes.render(7, 1, PRESET.panel, run / "renders"))
    whole = decoder.train(run, PRESET, 6, None, test)
    next(run.glob("decoder-*.pt")).unlink()
    count = decoder.sample_layout

    def stop(generator):
        if stop.left == 0:
            raise KeyboardInterrupt
        stop.left -= 1
        return count(generator)

    stop.left = 3
    monkeypatch.setattr(decoder, "sample_layout", stop)
    monkeypatch.setattr(TrainState, "count_step", save_always)
    with pytest.raises(KeyboardInterrupt):
        decoder.train(run, PRESET, 6, None, test)
    stop.left = -1
    parts = decoder.train(run, PRESET, 6, None, test)
    assert stop.left == -4, "three steps were left"
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def save_always(state):
    state.step += 1
    state.save()


def test_panels_and_their_captions_belong_together(run, monkeypatch):
    seen = []

    def keep(drawer, data, prompts, side, **settings):
        seen.extend(prompts)
        return data

    monkeypatch.setattr(decoder, "redraw", keep)
    vae = AutoencoderKL.from_pretrained(run / "vae")
    panels = decoder.load_panels(run, PRESET, vae)
    for row, prompt in enumerate(seen):
        family, panel = divmod(row, len(decoder.PANELS))
        scene = scenes.family(TRAIN_SEED, family)[decoder.PANELS[panel]]
        assert prompt == caption(*scene)
        drawn = np.asarray(decoder.scenes.draw(*scene, PRESET.panel))
        assert np.array_equal(panels.images[row], drawn)
    assert len(seen) == len(panels.images) == len(panels.plain)
    torch.testing.assert_close(panels.redrawn, panels.plain)  # packed and unpacked


@torch.no_grad()
def test_more_noise_changes_more_and_none_changes_nothing():
    torch.manual_seed(0)
    drawer = teacher.Teacher(TOY).eval()
    data = torch.randn(2, 16, 64)
    settings = {"steps": 2, "guidance": 2.0, "tokens": 28}

    def off(noise):
        generator = torch.Generator().manual_seed(0)
        words = ["a red critter", "a blue critter"]
        drawn = redraw(drawer, data, words, 64, noise=(noise, noise), **settings, generator=generator)
        return (drawn - data).abs().mean().item()

    assert off(0.0) == 0.0 < off(0.1) < off(0.5)
