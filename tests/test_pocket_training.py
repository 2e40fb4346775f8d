"""What builds the pocket family, at toy size: the linear VAE and its spelling, batches, resuming."""

from dataclasses import replace
from multiprocessing import dummy

import numpy as np
import pytest
import torch

from dsd.pairs import read_pairs
from dsd.pocket.draw import draw
from dsd.pocket.words import VOCABULARY, caption
from train.pocket import (
    judge,
    latents,
    lessons,
    loop,
    reader,
    rendered,
    scenes,
    student,
    teacher,
    text,
    truths,
    vae,
)
from train.pocket.linear import LinearAutoencoder, spell
from train.pocket.loop import State, descend, learning_rate, made_ahead, running_average
from train.pocket.presets import SMALL
from train.pocket.scorer import targets

TOY = replace(
    SMALL, families=4, t5_width=32, clip_width=32, heads=2, head_width=24, double_blocks=1, single_blocks=1
)


EVERY_LESSON = tuple(lessons.THEN)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> truths.Truths:
    return truths.load(vae.TRAIN_SEED, 4, tmp_path_factory.mktemp("truths"))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    panels = [np.asarray(draw(*scene, SMALL.panel)) for i in range(6) for scene in scenes.family(3, i)]
    return vae.to_tensor(np.stack(panels))


@pytest.fixture(scope="module")
def linear(pictures) -> LinearAutoencoder:
    torch.manual_seed(0)
    model = LinearAutoencoder(SMALL.vae_widths)
    model.start_at_principal_components(pictures)
    model.normalise(pictures)
    return model


@pytest.fixture(scope="module")
def spelled(linear):
    model = vae.build(SMALL)
    spell(linear, model)
    return model


@torch.no_grad()
def test_the_stock_vae_spells_the_linear_autoencoder(linear, spelled, pictures):
    code = linear.encode(pictures[:4])
    torch.testing.assert_close(spelled.encode(pictures[:4]).latent_dist.mode(), code, atol=2e-3, rtol=0)
    torch.testing.assert_close(spelled.decode(code).sample, linear.decode(code), atol=2e-3, rtol=0)


@torch.no_grad()
def test_a_sample_of_the_latents_is_their_mode(spelled, pictures):
    encoded = spelled.encode(pictures[:2]).latent_dist
    torch.testing.assert_close(encoded.sample(), encoded.mode(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_sheets_latents_are_its_panels_latents_side_by_side(spelled, pictures):
    alone = spelled.encode(pictures[:4]).latent_dist.mode()
    together = spelled.encode(vae.tile(pictures[:4], 2, 2)).latent_dist.mode()
    torch.testing.assert_close(together, vae.tile(alone, 2, 2), atol=2e-3, rtol=0)


def test_the_probed_block_code_is_the_encoder(spelled, pictures):
    weight, bias = latents.block_code(spelled)
    with torch.no_grad():
        expected = spelled.encode(pictures[:4]).latent_dist.mode()
    code = torch.nn.functional.conv2d(pictures[:4], weight, bias, stride=8)
    torch.testing.assert_close(code, expected, atol=3e-3, rtol=0)


def test_the_code_is_normalised(linear, pictures):
    with torch.no_grad():
        code = linear.encode(pictures)
    assert abs(code.mean().item()) < 0.01
    assert abs(code.std().item() - 1) < 0.01


def test_tokenizers_know_our_words_and_merge_unknown_ones():
    t5, clip = text.build_t5_tokenizer(), text.build_clip_tokenizer()
    assert t5.tokenize("A Red, round zebra!") == ["a", "red", "round", "<unk>"]
    assert clip.tokenize("red critter") == ["red</w>", "critter</w>"]
    assert all(len(clip.tokenize(word)) == 1 for word in VOCABULARY)


def test_words_are_spelled_as_the_tokenizers_spell_whole_prompts(known):
    rng, speller = np.random.default_rng(0), text.Speller()
    for lesson in EVERY_LESSON:
        prompts = [lessons.sample_sheet(known, i % 4, lesson, rng).prompt for i in range(60)]
        prompts += ["", "a zebra, please!", "red critter " * 40]
        how = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        t5, clip = speller(prompts, lesson.tokens)
        assert torch.equal(t5, speller.t5(prompts, max_length=lesson.tokens, **how).input_ids)
        assert torch.equal(clip, speller.clip(prompts, max_length=text.CLIP_TOKENS, **how).input_ids)


def test_prompts_fit_their_token_counts(known):
    t5, rng = text.build_t5_tokenizer(), np.random.default_rng(0)
    for lesson in EVERY_LESSON:
        prompts = [lessons.sample_sheet(known, i % 4, lesson, rng).prompt for i in range(200)]
        fits = [len(t5(prompt).input_ids) <= lesson.tokens for prompt in prompts]
        assert np.mean(fits) > 0.95  # of the longest phrases the last word or two may be cut
    assert lessons.SINGLES.tokens == text.T5_TOKENS


def test_truths_are_those_of_the_scenes(known, tmp_path, monkeypatch):
    wanted = targets(all_scenes := [scene for i in range(4) for scene in scenes.family(vae.TRAIN_SEED, i)])
    for name, values in known.targets("cpu").items():
        assert torch.equal(values, wanted[name].to(values.dtype)), name
    for row, (critter, context) in enumerate(all_scenes):
        scene = known.scene(*divmod(row, scenes.FAMILY))
        assert caption(scene, scene) == caption(critter, context)
    monkeypatch.setattr(truths, "CHUNK", 2)
    monkeypatch.setattr(truths, "get_context", lambda way: dummy)  # a pool, of threads: they start at once
    assert np.array_equal(truths.load(vae.TRAIN_SEED, 4, tmp_path).table, known.table)


def test_the_lessons_shares_are_a_whole():
    for shares in (lessons.FIRST, lessons.THEN):
        assert sum(shares.values()) == pytest.approx(1)


def test_imperfect_sheets_are_some_and_not_most(known):
    rng = np.random.default_rng(0)
    sheets = [lessons.sample_sheet(known, i % 4, lessons.SHEETS, rng) for i in range(3000)]
    wrong = np.mean([max(sheet.panels) >= scenes.SAME for sheet in sheets])
    assert abs(wrong - lessons.IMPERFECT) < 0.03
    assert not any(any(sheet.shown) for sheet in sheets)


def test_copying_shows_one_critter_some_of_its_panels_and_seldom_tells_its_traits(known):
    rng = np.random.default_rng(0)
    sheets = [lessons.sample_sheet(known, i % 4, lessons.COPIED_SHEETS, rng) for i in range(600)]
    assert {sum(sheet.shown) for sheet in sheets} == {1, 2, 3}
    assert max(max(sheet.panels) for sheet in sheets) < scenes.SAME
    untold = np.mean(
        ["of the same critter top" in s.prompt or "of the same critter bottom" in s.prompt for s in sheets]
    )
    assert abs(untold - lessons.UNTOLD_COPYING) < 0.08


def test_the_first_lessons_have_two_panels_at_most(known):
    sample = lessons.Sampler(known, 6, first=30)
    assert {sample(step).lesson for step in range(30)} == set(lessons.FIRST)
    assert {sample(step).lesson for step in range(30, 90)} == set(lessons.THEN)


def toy_latents() -> torch.Tensor:
    return torch.randn(4, scenes.FAMILY, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()


def toy_pictures() -> teacher.Pictures:
    wanted = targets([scene for i in range(4) for scene in scenes.family(vae.TRAIN_SEED, i)])
    return teacher.Pictures(toy_latents(), wanted)


def copied(shown: list[bool], panels: list[int]) -> lessons.Batch:
    """One diptych without words."""
    words = text.Speller()([""], lessons.COPIED_PAIRS.tokens)
    rows = torch.zeros(1, dtype=torch.long), torch.tensor([panels]), torch.tensor([shown])
    return lessons.Batch(lessons.COPIED_PAIRS, *rows, *words)


def test_a_shown_panel_is_seen_as_it_is_and_only_the_others_are_learnt(monkeypatch):
    torch.manual_seed(0)
    model, pictures = teacher.Teacher(TOY), toy_pictures()
    seen = []
    study = model.study
    monkeypatch.setattr(model, "study", lambda x_t, *rest: seen.append(x_t) or study(x_t, *rest))
    monkeypatch.setattr(teacher, "READING", 0.0)
    monkeypatch.setattr(teacher, "HAZY", 0.0)
    left, both = copied([True, False], [0, 1]), copied([False, False], [0, 1])
    teacher.loss(model, pictures, TOY, 0, left)
    teacher.loss(model, pictures, TOY, 0, both)
    truth = latents.pack(toy_latents()[0, :2].float(), 1, 2).view(1, 4, 8, 64)
    with_clean, noisy = (x_t.view(1, 4, 8, 64) for x_t in seen)
    assert torch.equal(with_clean[:, :, :4], truth[:, :, :4])
    assert torch.equal(with_clean[:, :, 4:], noisy[:, :, 4:])
    assert not torch.allclose(noisy[:, :, :4], truth[:, :, :4])
    model.transformer.proj_out.weight.data.zero_(), model.transformer.proj_out.bias.data.zero_()
    noise = torch.randn(1, 32, 64, generator=loop.step_seed(teacher.SEED, 0))
    error = (noise - truth.view(1, 32, 64)).square().view(1, 4, 8, 64)[:, :, 4:].mean()
    assert teacher.loss(model, pictures, TOY, 0, left).item() == pytest.approx(error.item(), rel=1e-5)


def test_some_of_the_shown_panels_have_noise_and_less_than_the_others():
    shown = torch.tensor([[True, False]]).expand(400, 2)
    haze = teacher._haze(shown, torch.Generator().manual_seed(0))
    assert (haze[:, 1] == 1).all() and (haze[:, 0] < 1).all()
    assert abs((haze[:, 0] > 0).float().mean().item() - teacher.HAZY) < 0.08


def test_panels_are_cut_from_a_sheets_tokens_as_they_were_put_together():
    panels = torch.randn(8, 16, 8, 8)  # two sheets of four
    alone, together = latents.pack(panels, 1, 1), latents.pack(panels, 2, 2)
    assert torch.equal(reader.by_panel(together, 2, 2), alone)


def test_the_readers_question_teaches_the_transformer(monkeypatch):
    torch.manual_seed(0)
    model, pictures, batch = teacher.Teacher(TOY), toy_pictures(), copied([True, False], [0, 1])
    weight = model.transformer.transformer_blocks[0].attn.to_q.weight

    def pull(reading: float) -> torch.Tensor:
        monkeypatch.setattr(teacher, "READING", reading)
        return torch.autograd.grad(teacher.loss(model, pictures, TOY, 0, batch), weight)[0]

    assert not torch.allclose(pull(0.0), pull(1.0))


def test_the_teachers_batches_are_a_function_of_the_step(known):
    sample = lessons.Sampler(known, 12)
    first, again, other = sample(7), sample(7), sample(8)
    assert first.panels.shape == (len(first.families), first.lesson.rows * first.lesson.columns)
    for name in ("families", "panels", "shown", "t5", "clip"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.families, other.families)


def test_batches_made_by_workers_are_those_made_here(monkeypatch, known):
    here = list(made_ahead(lessons.Sampler(known, 6), 3, 6))
    monkeypatch.setattr(loop, "device", lambda: "cuda")
    monkeypatch.setattr(loop.os, "cpu_count", lambda: 4)  # two workers
    ahead = list(made_ahead(lessons.Sampler(known, 6), 3, 6))
    assert len(here) == len(ahead) == 3
    for one, other in zip(here, ahead, strict=True):
        assert one.lesson == other.lesson
        for name in ("families", "panels", "shown", "t5", "clip"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_the_students_condition_is_its_left_frame_beside_black():
    black = torch.full((16, 8, 8), -2.0)
    canvas, condition, _ = student.sample_batch(toy_latents(), black, 16, step=0)
    left = torch.arange(32).view(4, 8)[:, :4].flatten()
    right = torch.arange(32).view(4, 8)[:, 4:].flatten()
    kept = condition.abs().sum((1, 2)) > 0
    assert torch.equal(condition[kept][:, left], canvas[kept][:, left])
    assert (condition[kept][:, right] == -2.0).all()
    assert not torch.equal(canvas[:, left], canvas[:, right])


def test_frame_weights_fall_on_the_left_frame_only():
    weights = student.frame_weights(torch.zeros(1, 32, 64), 4).view(4, 8)
    assert (weights[:, :4] == student.REFERENCE_WEIGHT).all() and (weights[:, 4:] == 1).all()


def test_packing_panels_equals_packing_their_sheet():
    panels = torch.randn(8, 16, 8, 8)
    sheets = vae.tile(panels, 2, 2)
    assert torch.equal(latents.pack(panels, 2, 2), latents.pack(sheets, 1, 1))


def run_steps(path, known, steps: int) -> torch.Tensor:
    torch.manual_seed(0)
    model, preset = teacher.Teacher(TOY), replace(TOY, teacher_batch=4)
    state = State(
        path, model=model, average=running_average(model), optimizer=torch.optim.AdamW(model.parameters())
    ).load()
    batches, pictures = made_ahead(lessons.Sampler(known, 4), state.step, steps), toy_pictures()
    descend(
        "toy",
        state,
        steps,
        lambda step: 1e-3,
        lambda step: teacher.loss(model, pictures, preset, step, next(batches)),
    )
    return model.transformer.x_embedder.weight.detach().clone()


def test_a_training_that_was_stopped_continues_as_if_it_were_not(tmp_path, known):
    whole = run_steps(tmp_path / "whole.pt", known, 4)
    assert not torch.equal(run_steps(tmp_path / "parts.pt", known, 2), whole)
    assert torch.equal(run_steps(tmp_path / "parts.pt", known, 4), whole)


def test_the_learning_rate_warms_up_holds_and_decays():
    rates = [learning_rate(step, 1000, 1.0, warmup=100) for step in range(1000)]
    assert rates[0] < 0.05 and rates[400] == 1.0 and rates[-1] < 0.03


def test_a_judge_goes_on_from_an_earlier_one_word_by_word(tmp_path):
    toy = replace(SMALL, judge_width=32, judge_eye_blocks=1, judge_blocks=1)
    tokenizer = judge.build_tokenizer()
    earlier = judge.build(toy, tokenizer)
    earlier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    swapped = judge.build_tokenizer()  # the same words at other places
    vocab = swapped.get_vocab()
    swapped.backend_tokenizer.model = type(swapped.backend_tokenizer.model)(
        vocab={**vocab, "red": vocab["blue"], "blue": vocab["red"]}, unk_token="<unk>"
    )
    later = judge.build(toy, swapped)
    judge.begin_with(later, swapped, tmp_path)

    def embedding(model, words, word):
        return model.get_input_embeddings().weight[words.convert_tokens_to_ids(word)]

    torch.testing.assert_close(embedding(later, swapped, "red"), embedding(earlier, tokenizer, "red"))
    assert swapped.convert_tokens_to_ids("red") != tokenizer.convert_tokens_to_ids("red")
    eyes = "model.vision_tower.embeddings.patch_embedding.weight"
    torch.testing.assert_close(later.state_dict()[eyes], earlier.state_dict()[eyes])
    assert later.lm_head.weight is later.get_input_embeddings().weight


def test_rendered_pairs_are_a_dataset_of_true_pairs_in_both_orders(tmp_path):
    families = scenes.render(rendered.TRAIN_SEED, 4, 64, tmp_path / "renders", processes=1)
    rendered.write(tmp_path, TOY, 12, tmp_path / "pairs")
    pairs = list(read_pairs(tmp_path / "pairs"))
    assert len(pairs) == 12
    for there, back in zip(pairs[::2], pairs[1::2], strict=True):
        family, first, second = map(int, there["id"].split("-"))
        assert back["id"] == f"{family:06d}-{second}-{first}" and max(first, second) < scenes.SAME
        assert np.array_equal(np.asarray(there["target"]), families[family, second])
        assert np.array_equal(np.asarray(there["target"]), np.asarray(back["conditioning"]))
        assert there["caption"].endswith(there["instruction"])


def test_a_teacher_goes_on_from_a_saved_one(tmp_path, spelled):
    torch.manual_seed(1)
    earlier = teacher.Teacher(TOY).float()
    weights = {n: value.clone() for n, value in earlier.state_dict().items() if not n.startswith("reader")}
    teacher.save(earlier, spelled, tmp_path)
    torch.manual_seed(2)
    later = teacher.Teacher(TOY)
    teacher.begin_with(later, tmp_path)
    for name, value in weights.items():
        torch.testing.assert_close(later.state_dict()[name], value, atol=1e-3, rtol=1e-2, msg=name)
    with pytest.raises(SystemExit, match="other sizes than this --preset"):
        teacher.begin_with(teacher.Teacher(replace(TOY, heads=3)), tmp_path)
