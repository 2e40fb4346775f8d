"""A training that was begun with earlier code goes on: names, contents and randomness stay the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dsd.training import optimizer
from tests.checksums import checksum, shapes
from tests.toys import TOY, toy_latents
from train.pocket import lessons, loop, scenes, scorer, strangers, teacher
from train.pocket.judge import model as judge
from train.pocket.judge import words
from train.pocket.scenes import load_truths, targets
from train.pocket.vae import model as vae

SMALL = replace(
    TOY, rendered=2, strangers=6, scorer_batch=6, vae_batch=4, vae_families=2, judge_width=32,
    judge_eye_blocks=1, judge_blocks=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Compute the same on every CPU."""
    monkeypatch.setattr(loop, "cpu_multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(optimizer, "cpu_multiplies_bfloat16", lambda: True)  # Muon's own bfloat16


def total(module: torch.nn.Module) -> float:
    """A number that every weight moves."""
    return sum(value.double().abs().sum().item() for value in module.parameters())


def saved(path) -> dict:
    return torch.load(path, weights_only=True)


def test_the_teachers_batches(tmp_path):
    known = load_truths(vae.TRAIN_SEED, 4, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["truths-1-4.npy"]
    sampler = lessons.Sampler(known, 8, steps=100)
    batches = [sampler[step] for step in (0, 7, 41, 45, 50, 56, 60, 71, 80, 95)]
    assert [(b.lesson.rows, b.lesson.columns, b.lesson.copying, b.lesson.relit) for b in batches] == [
        (1, 1, False, False), (1, 1, False, False), (1, 2, True, False), (1, 2, False, False),
        (1, 1, False, False), (1, 1, False, False), (1, 2, False, False), (2, 2, False, False),
        (2, 2, True, True), (2, 2, False, False),
    ]  # fmt: skip
    assert checksum(*(x for b in batches for x in (b.families, b.panels, b.shown, b.t5, b.clip))) == 65187414


def test_the_teachers_parts_and_losses(tmp_path):
    torch.manual_seed(0)
    known = load_truths(vae.TRAIN_SEED, 4, tmp_path)
    images = teacher.Images(toy_latents(), known.targets("cpu"))
    model = teacher.Teacher(TOY)
    assert shapes(model) == 119361450
    sampler = lessons.Sampler(known, 8, steps=1, lessons=(0.9, 0.9))
    losses = [teacher.loss(model, images, TOY, step, sampler[step]).item() for step in range(4)]
    assert losses == pytest.approx([5.0179672, 5.1877327, 4.9523277, 4.8273692], rel=1e-4)


def test_the_vaes_batches():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    batches = [vae.sample_batch(images, 8, loop.step_seed(vae.TRAIN_SEED, step)) for step in range(6)]
    assert checksum(*batches) == 25555303


def test_the_vaes_states(tmp_path):
    torch.manual_seed(0)
    families = scenes.render(vae.TRAIN_SEED, 2, SMALL.panel, tmp_path / "renders")
    assert [path.name for path in (tmp_path / "renders").iterdir()] == ["families-1-2-64.npy"]
    images = families.reshape(-1, *families.shape[2:])
    test = vae.to_tensor(images[:4])
    linear = vae.train_linear(images, test, tmp_path, SMALL, 3)
    assert (shapes(linear), total(linear)) == (2112072318, pytest.approx(5272.49602, rel=1e-5))
    model = vae.build(SMALL)
    vae.spell(linear, model)
    vae.train_branches(model, images, test, tmp_path, SMALL, 3, None)
    assert (shapes(model), total(model.decoder)) == (3029627567, pytest.approx(17409.0606, rel=1e-5))
    assert set(saved(tmp_path / "linear.pt")) == {"linear", "optimizer", "step", "seconds"}
    state = saved(tmp_path / "vae.pt")
    assert set(state) == {"vae", "average", "optimizer", "step", "seconds"} and state["step"] == 3
    assert {"n_averaged", "module.decoder.conv_in.weight"} <= set(state["average"])


def test_the_scorers_state(tmp_path):
    trained = scorer.train(tmp_path, SMALL, 3, name="scorer")
    assert (shapes(trained), total(trained)) == (3274078053, pytest.approx(17045.9120, rel=1e-5))
    assert set(saved(tmp_path / "scorer.pt")) == {"scorer", "optimizer", "step", "seconds"}


def test_what_the_scorer_learns_from():
    assert checksum(strangers.draw_strangers(12, 64, 3)) == 991487707
    wanted = targets([scene for i in range(4) for scene in scenes.family(vae.TRAIN_SEED, i)])
    assert checksum(*(wanted[name].float().mul(1e5).round() for name in sorted(wanted))) == 160280547
    assert sorted(scorer.SEEDS.items()) == [("ranker", 22), ("scorer", 21)]


def test_the_judges_batches_and_parts():
    batches = [judge.sample_batch(30, 3, step) for step in range(16)]
    assert checksum(*(part for batch in batches for part in batch)) == 1040201798
    assert checksum(words.vocabulary()) == 1816377873
    built = judge.build(SMALL, judge.build_tokenizer())
    assert shapes(built) == 1128554678
    assert shapes(judge.Eyes(built.model.vision_tower, SMALL.judge_width)) == 1435582632
