"""How the pocket teacher is taught, at toy size: lessons and their words, the loss, the reader, resuming."""

from dataclasses import replace
from multiprocessing import dummy

import numpy as np
import pytest
import torch

from dsd.pocket.words import caption
from tests.toys import TOY, toy_latents
from train.pocket import arrays, latents, lessons, loop, scenes, teacher, text
from train.pocket.loop import TrainState, build_ema, descend, prefetch
from train.pocket.scenes import Truths, load_truths, targets
from train.pocket.vae import model as vae

EVERY_LESSON = tuple(max(lessons.STAGES.items())[1])


def last_stage(truths: Truths, batch: int) -> lessons.Sampler:
    """The batches of the last stage, which has all lessons."""
    return lessons.Sampler(truths, batch, steps=1, lessons=(0.9, 0.9))


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Truths:
    return load_truths(vae.TRAIN_SEED, 4, tmp_path_factory.mktemp("truths"))


def test_prompts_fit_their_token_counts(known):
    t5, rng = text.build_t5_tokenizer(), np.random.default_rng(0)
    for lesson in EVERY_LESSON:
        prompts = [lessons.sample_grid(known, i % 4, lesson, rng).prompt for i in range(200)]
        fits = [len(t5(prompt).input_ids) <= lesson.tokens for prompt in prompts]
        assert np.mean(fits) > 0.95  # of the longest phrases the last word or two may be cut
    assert lessons.SINGLES.tokens == text.T5_TOKENS


def test_truths_are_those_of_the_scenes(known):
    wanted = targets(all_scenes := [scene for i in range(4) for scene in scenes.family(vae.TRAIN_SEED, i)])
    for name, values in known.targets("cpu").items():
        assert torch.equal(values, wanted[name].to(values.dtype)), name
    for row, (critter, context) in enumerate(all_scenes):
        scene = known.scene(*divmod(row, scenes.FAMILY))
        assert caption(scene, scene) == caption(critter, context)


def double(rows: range) -> np.ndarray:
    return 2 * np.array(rows)


def test_arrays_are_computed_in_order_by_one_process_or_many_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "get_context", lambda way: dummy)  # a pool, of threads: they start at once
    for name, chunk in (("one", 7), ("many", 3)):
        chunks = arrays.on_all_cores(double, 7, chunk)
        assert arrays.store(tmp_path / name, (7,), np.int64, chunks).tolist() == [0, 2, 4, 6, 8, 10, 12]
        assert arrays.store(tmp_path / name, (7,), np.int64, [np.zeros(7)])[-1] == 12


def test_the_lessons_shares_are_a_whole():
    for shares in lessons.STAGES.values():
        assert sum(shares.values()) == pytest.approx(1)


def test_imperfect_grids_are_some_and_not_most(known):
    rng = np.random.default_rng(0)
    grids = [lessons.sample_grid(known, i % 4, lessons.GRIDS, rng) for i in range(3000)]
    wrong = np.mean([max(grid.panels) >= scenes.SAME for grid in grids])
    assert abs(wrong - lessons.IMPERFECT) < 0.03
    assert not any(any(grid.shown) for grid in grids)


def test_copying_shows_one_critter_some_of_its_panels_and_seldom_tells_its_traits(known):
    rng = np.random.default_rng(0)
    grids = [lessons.sample_grid(known, i % 4, lessons.COPIED_GRIDS, rng) for i in range(600)]
    assert {sum(grid.shown) for grid in grids} == {1, 2, 3}
    assert max(max(grid.panels) for grid in grids) < scenes.SAME
    untold = np.mean(
        ["of the same critter top" in s.prompt or "of the same critter bottom" in s.prompt for s in grids]
    )
    assert abs(untold - lessons.UNTOLD_COPYING) < 0.08


def test_relit_grids_show_one_context_in_different_lights(known):
    rng = np.random.default_rng(0)
    for lesson in (lessons.RELIT, lessons.COPIED_RELIT):
        grids = [lessons.sample_grid(known, i % 4, lesson, rng) for i in range(60)]
        for i, grid in enumerate(grids):
            told = [known.scene(i % 4, panel) for panel in grid.panels]
            assert len({one.light for one in told}) == 4 and len({one.scene for one in told}) == 1
            assert grid.prompt.endswith(f"bottom right {told[-1].light}")
            assert any(grid.shown) == lesson.copying


def test_words_come_first_then_pairs_then_grids(known):
    sampler = lessons.Sampler(known, 6, steps=300)
    assert {sampler[step].lesson for step in range(120)} == {lessons.SINGLES}
    assert {sampler[step].lesson.columns for step in range(120, 165)} == {1, 2}
    assert any(sampler[step].lesson.rows == 2 for step in range(165, 200))
    pieces = [lessons.Sampler(known, 6, steps=100, lessons=share) for share in ((0.55, 1.0), (0.0, 0.4))]
    assert pieces[0].passed(0) == 0.55 and pieces[1].passed(50) == 0.2


def toy_images() -> teacher.Images:
    wanted = targets([scene for i in range(4) for scene in scenes.family(vae.TRAIN_SEED, i)])
    return teacher.Images(toy_latents(), wanted)


def copied(shown: list[bool], panels: list[int]) -> lessons.Batch:
    """One diptych without words."""
    words = text.Speller()([""], lessons.COPIED_PAIRS.tokens)
    rows = torch.zeros(1, dtype=torch.long), torch.tensor([panels]), torch.tensor([shown])
    return lessons.Batch(lessons.COPIED_PAIRS, *rows, *words)


def test_a_shown_panel_is_seen_as_it_is_and_only_the_others_are_learnt(monkeypatch):
    torch.manual_seed(0)
    model, images = teacher.Teacher(TOY), toy_images()
    seen = []
    study = model.study
    monkeypatch.setattr(model, "study", lambda x_t, *rest: seen.append(x_t) or study(x_t, *rest))
    monkeypatch.setattr(teacher, "READING", 0.0)
    monkeypatch.setattr(teacher, "HAZY", 0.0)
    left, both = copied([True, False], [0, 1]), copied([False, False], [0, 1])
    teacher.loss(model, images, TOY, 0, left)
    teacher.loss(model, images, TOY, 0, both)
    truth = latents.pack(toy_latents()[0, :2].float(), 1, 2).view(1, 4, 8, 64)
    with_clean, noisy = (x_t.view(1, 4, 8, 64) for x_t in seen)
    assert torch.equal(with_clean[:, :, :4], truth[:, :, :4])
    assert torch.equal(with_clean[:, :, 4:], noisy[:, :, 4:])
    assert not torch.allclose(noisy[:, :, :4], truth[:, :, :4])
    model.transformer.proj_out.weight.data.zero_(), model.transformer.proj_out.bias.data.zero_()
    noise = torch.randn(1, 32, 64, generator=loop.step_seed(teacher.SEED, 0))
    error = (noise - truth.view(1, 32, 64)).square().view(1, 4, 8, 64)[:, :, 4:].mean()
    assert teacher.loss(model, images, TOY, 0, left).item() == pytest.approx(error.item(), rel=1e-5)


def test_some_of_the_shown_panels_have_noise_and_less_than_the_others():
    shown = torch.tensor([[True, False]]).expand(400, 2)
    haze = teacher._haze(shown, torch.Generator().manual_seed(0))
    assert (haze[:, 1] == 1).all() and (haze[:, 0] < 1).all()
    assert abs((haze[:, 0] > 0).float().mean().item() - teacher.HAZY) < 0.08


def test_panels_are_cut_from_a_grids_tokens_as_they_were_put_together():
    panels = torch.randn(8, 16, 8, 8)  # two grids of four
    alone, together = latents.pack(panels, 1, 1), latents.pack(panels, 2, 2)
    assert torch.equal(teacher.by_panel(together, 2, 2), alone)


def test_the_readers_question_teaches_the_transformer(monkeypatch):
    torch.manual_seed(0)
    model, images, batch = teacher.Teacher(TOY), toy_images(), copied([True, False], [0, 1])
    weight = model.transformer.transformer_blocks[0].attn.to_q.weight

    def pull(reading: float) -> torch.Tensor:
        monkeypatch.setattr(teacher, "READING", reading)
        return torch.autograd.grad(teacher.loss(model, images, TOY, 0, batch), weight)[0]

    assert not torch.allclose(pull(0.0), pull(1.0))


def test_the_teachers_batches_are_a_function_of_the_step(known):
    sampler = last_stage(known, 12)
    first, again, other = sampler[7], sampler[7], sampler[8]
    assert first.panels.shape == (len(first.families), first.lesson.rows * first.lesson.columns)
    for name in ("families", "panels", "shown", "t5", "clip"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.families, other.families)


def test_batches_made_by_workers_are_those_made_here(monkeypatch, known):
    here = list(prefetch(last_stage(known, 6), 3, 6))
    monkeypatch.setattr(loop, "device", lambda: "cuda")
    monkeypatch.setattr(loop.os, "cpu_count", lambda: 4)  # two workers
    ahead = list(prefetch(last_stage(known, 6), 3, 6))
    assert len(here) == len(ahead) == 3
    for one, other in zip(here, ahead, strict=True):
        assert one.lesson == other.lesson
        for name in ("families", "panels", "shown", "t5", "clip"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def run_steps(path, known, monkeypatch, steps: int) -> torch.Tensor:
    torch.manual_seed(0)
    model, preset = teacher.Teacher(TOY), replace(TOY, teacher_batch=4)
    optimizer = loop.build_optimizer(model, 1e-3)
    state = TrainState(path, model, optimizer=optimizer, ema=build_ema(model), steps=steps)
    batches, images = prefetch(last_stage(known, 4), state.step, steps), toy_images()
    monkeypatch.setattr(loop, "learning_rate", lambda *_, **__: 1.0)  # whatever the length
    descend(state, lambda step: teacher.loss(model, images, preset, step, next(batches)))
    return model.transformer.x_embedder.weight.detach().clone()


def test_a_training_that_was_stopped_continues_as_if_it_were_not(tmp_path, known, monkeypatch):
    whole = run_steps(tmp_path / "whole.pt", known, monkeypatch, 4)
    assert not torch.equal(run_steps(tmp_path / "parts.pt", known, monkeypatch, 2), whole)
    assert torch.equal(run_steps(tmp_path / "parts.pt", known, monkeypatch, 4), whole)


def test_a_training_ends_after_its_minutes_and_decays_before(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    model = torch.nn.Linear(1, 1)
    parts = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 1e-3)}
    state, shares = TrainState(tmp_path / "a.pt", **parts, steps=1000, minutes=2.0), []
    while state.passed < 1:
        shares.append(loop.learning_rate(300, state.passed))
        now[0] += 6
        state.count_step()
    assert state.step == 20 and shares[0] == shares[10] == 1 and shares[-1] < 0.2
    assert TrainState(tmp_path / "b.pt", **parts, steps=10).passed == 0
