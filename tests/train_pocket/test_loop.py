"""What builds the pocket family, at toy size: the linear VAE and its spelling, batches, resuming."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dsd.files.pairs import read_pairs
from dsd.grids.teacher import SETTINGS, taught_lengths
from dsd.model.presets import ASSETS
from dsd.pocket.draw import draw
from dsd.pocket.phrases import VOCABULARY
from dsd.training.optimizer import MuonAdamW
from tests.toys import TOY
from train.pocket import (
    latents,
    loop,
    rendered,
    scenes,
    scorer,
    teacher,
    text,
)
from train.pocket.judge import model as judge
from train.pocket.loop import learning_rate
from train.pocket.presets import CPU
from train.pocket.strangers import draw_strangers
from train.pocket.vae import model as vae
from train.pocket.vae.linear import LinearAutoencoder, spell

SHIPPED = ASSETS / "teacher" / "tokenizer_2"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    panels = [np.asarray(draw(*scene, TOY.panel)) for i in range(6) for scene in scenes.family(3, i)]
    return vae.to_tensor(np.stack(panels))


@pytest.fixture(scope="module")
def linear(images) -> LinearAutoencoder:
    torch.manual_seed(0)
    model = LinearAutoencoder(TOY.vae_widths)
    model.start_at_principal_components(images)
    model.normalize(images)
    return model


@pytest.fixture(scope="module")
def spelled(linear):
    model = vae.build(TOY)
    spell(linear, model)
    return model


@torch.no_grad()
def test_the_stock_vae_spells_the_linear_autoencoder(linear, spelled, images):
    code = linear.encode(images[:4])
    torch.testing.assert_close(spelled.encode(images[:4]).latent_dist.mode(), code, atol=2e-3, rtol=0)
    torch.testing.assert_close(spelled.decode(code).sample, linear.decode(code), atol=2e-3, rtol=0)


@torch.no_grad()
def test_a_sample_of_the_latents_is_their_mode(spelled, images):
    encoded = spelled.encode(images[:2]).latent_dist
    torch.testing.assert_close(encoded.sample(), encoded.mode(), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_grids_latents_are_its_panels_latents_side_by_side(spelled, images):
    alone = spelled.encode(images[:4]).latent_dist.mode()
    together = spelled.encode(vae.tile(images[:4], 2, 2)).latent_dist.mode()
    torch.testing.assert_close(together, vae.tile(alone, 2, 2), atol=2e-3, rtol=0)


def test_the_probed_block_code_is_the_encoder(spelled, images):
    weight, bias = latents.block_code(spelled)
    with torch.no_grad():
        expected = spelled.encode(images[:4]).latent_dist.mode()
    kernel = weight.view(-1, 3, 8, 8)
    code = torch.nn.functional.conv2d(images[:4], kernel, bias, stride=8)
    torch.testing.assert_close(code, expected, atol=3e-3, rtol=0)


def test_the_code_is_normalized(linear, images):
    with torch.no_grad():
        code = linear.encode(images)
    assert abs(code.mean().item()) < 0.01
    assert abs(code.std().item() - 1) < 0.01


def test_tokenizers_know_our_words_and_merge_unknown_ones():
    t5, clip = text.build_t5_tokenizer(), text.build_clip_tokenizer()
    assert t5.tokenize("A Red, round zebra!") == ["a", "red", "round", "<unk>"]
    assert clip.tokenize("red critter") == ["red</w>", "critter</w>"]
    assert all(len(clip.tokenize(word)) == 1 for word in VOCABULARY)


def test_a_tokenizers_file_tells_the_text_lengths_of_grids(tmp_path):
    text.build_t5_tokenizer().save_pretrained(tmp_path)
    back = SimpleNamespace(tokenizer_2=PreTrainedTokenizerFast.from_pretrained(tmp_path))
    assert taught_lengths(back) == {"tokens": 44, "tokens_of": {(1, 2): 32, (2, 2): 44}}
    shipped = SimpleNamespace(tokenizer_2=PreTrainedTokenizerFast.from_pretrained(SHIPPED))
    assert taught_lengths(shipped).get("tokens", SETTINGS["pocket"].tokens) == 44


def test_latents_that_workers_draw_and_encode_are_the_vaes(spelled, tmp_path):
    made = latents.load(spelled, 3, 2, TOY.panel, tmp_path)
    panels = np.stack([np.asarray(draw(*scene, TOY.panel)) for scene in scenes.family(3, 1)])
    with torch.no_grad():
        expected = spelled.encode(vae.to_tensor(panels)).latent_dist.mode()
    torch.testing.assert_close(made[1].float(), expected, atol=1e-2, rtol=0)


def test_fewer_families_are_read_from_a_file_of_more_and_not_drawn_again(spelled, tmp_path, monkeypatch):
    drawn = scenes.render(3, 2, TOY.panel, tmp_path)
    encoded = latents.load(spelled, 3, 2, TOY.panel, tmp_path)
    monkeypatch.setattr(scenes, "draw", None)
    monkeypatch.setattr(latents, "draw", None)
    assert np.array_equal(scenes.render(3, 1, TOY.panel, tmp_path), drawn[:1])
    assert torch.equal(latents.load(spelled, 3, 1, TOY.panel, tmp_path), encoded[:1])
    with pytest.raises(TypeError):  # other critters are drawn
        scenes.render(3, 1, TOY.panel, tmp_path, held_out=True)


def test_packing_panels_equals_packing_their_grid():
    panels = torch.randn(8, 16, 8, 8)
    grids = vae.tile(panels, 2, 2)
    assert torch.equal(latents.pack(panels, 2, 2), latents.pack(grids, 1, 1))


def test_the_learning_rate_warms_up_holds_and_decays():
    rates = [learning_rate(step, step / 1000, warmup=100) for step in range(1000)]
    assert rates[0] < 0.05 and rates[400] == 1.0 and rates[-1] < 0.03


def test_muon_moves_the_blocks_matrices_and_adamw_all_else():
    model = teacher.Teacher(TOY)
    muon, adam = loop.build_optimizer(model, 1e-3).parts
    matrices, others = (
        {id(p) for group in part.param_groups for p in group["params"]} for part in (muon, adam)
    )
    assert not matrices & others and matrices | others == {id(p) for p in model.parameters()}
    block = model.transformer.single_transformer_blocks[0]
    assert {id(block.attn.to_q.weight), id(block.proj_mlp.weight)} <= matrices
    assert {id(block.norm.linear.weight), id(model.transformer.x_embedder.weight)} <= others


def save_apart(optimizer: MuonAdamW) -> dict:
    """The optimizer's state as earlier versions saved it."""
    for part in optimizer.parts:
        own = {id(weight) for group in part.param_groups for weight in group["params"]}
        part.state = {weight: moments for weight, moments in part.state.items() if id(weight) in own}
    return {f"{i}": part.state_dict() for i, part in enumerate(optimizer.parts)}


@pytest.mark.parametrize("save", [MuonAdamW.state_dict, save_apart])
def test_optimizers_continue_as_if_they_had_not_stopped(save):
    def run(stop: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = teacher.Teacher(TOY)
        optimizer, weights = loop.build_optimizer(model, 1e-3), [*model.transformer.parameters()]
        for step in range(4):
            if stop and step == 2:
                saved, optimizer = save(optimizer), loop.build_optimizer(model, 1e-3)
                optimizer.load_state_dict(loop.join_optimizers(saved))
            loop.set_rate(optimizer, 1 / (step + 1))
            sum(p.square().sum() for p in weights).backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.nn.utils.parameters_to_vector(weights).detach()

    assert torch.equal(run(True), run(False))


def test_mixed_precision_computes_attention_in_float32(monkeypatch):
    seen, sdpa = [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(loop, "cpu_multiplies_bfloat16", lambda: True)
    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    with loop.mixed_precision():
        half = torch.nn.functional.linear(q, torch.eye(8))
        out = sdpa(query=half, key=half, value=half)
        seen += [half.dtype, out.dtype]
    exact = sdpa(half.float(), half.float(), half.float())
    assert seen == [torch.bfloat16] * 2 and torch.equal(out, exact.bfloat16())
    out.sum().backward()
    assert q.grad is not None


def test_mixed_precision_keeps_attention_masks(monkeypatch):
    monkeypatch.setattr(loop, "cpu_multiplies_bfloat16", lambda: True)
    q, causal = torch.randn(1, 2, 5, 8), torch.ones(5, 5, dtype=torch.bool).tril()
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with loop.mixed_precision():
        masked = [sdpa(q, q, q, attn_mask=causal), sdpa(q, q, q, causal), sdpa(q, q, q, is_causal=True)]
        plain = sdpa(q, q, q, None)
    exact = sdpa(q, q, q, attn_mask=causal).bfloat16()
    assert all(torch.equal(one, exact) for one in masked) and not torch.equal(plain, exact)


def test_a_judge_goes_on_from_an_earlier_one_word_by_word(tmp_path):
    toy = replace(CPU, judge_width=32, judge_eye_blocks=1, judge_blocks=1)
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
    families = scenes.render(rendered.TRAIN_SEED, 4, 64, tmp_path / "renders")
    rendered.write(TOY, 12, tmp_path / "pairs")
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


def test_strangers_of_every_kind_are_drawn_and_are_a_function_of_the_seed():
    images = draw_strangers(12, 64, 3)
    assert images.shape == (12, 64, 64, 3) and np.array_equal(images, draw_strangers(12, 64, 3))
    assert all(image.std() > 1 for image in images)


def test_scorer_and_ranker_learn_from_different_seeds(tmp_path):
    toy = replace(TOY, rendered=2, strangers=6, scorer_batch=6)
    one, again, other = (
        scorer.train(tmp_path / folder, toy, 2, name=name).numbers.weight.detach()
        for folder, name in (("a", "scorer"), ("b", "scorer"), ("a", "ranker"))
    )
    assert torch.equal(one, again) and not torch.allclose(one, other)
