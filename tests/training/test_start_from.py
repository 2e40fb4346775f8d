"""A training that continues a student: the start is fused, the result opens everywhere, the card says so."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxControlPipeline
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dsd.model.checkpoint import load_pipeline, load_student
from dsd.model.origin import METADATA
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import ASSETS, LORA
from dsd.model.sampling import is_stochastic
from dsd.training import card as model_card
from dsd.training.options import TrainingError
from dsd.training.student import empty_transformer, find_base, match_training, open_encoders
from tests import student, tiny
from train import train as command

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def first(teacher, tmp_path_factory) -> Path:
    """A student that a LoRA training left."""
    out = tmp_path_factory.mktemp("first")
    student.run(teacher, out, alpha=4.0, tasks=("identity", "edit"))
    return out


@pytest.fixture(scope="module")
def second(teacher, first, tmp_path_factory) -> Path:
    """A student of that student."""
    out = tmp_path_factory.mktemp("second")
    result = student.run(teacher, out, start_from=str(first), steps=2, tasks=("relight",))
    facts = {"dataset": "run", "rows": "10"}
    (out / "README.md").write_text(model_card.card(result, "second", facts=facts))
    return out


def test_a_folder_and_its_lora_file_are_the_same_start(teacher, first):
    whole = load_student(str(teacher), str(first)).state_dict()
    fused = load_student(str(teacher), str(first / "lora" / LORA)).state_dict()
    assert whole.keys() == fused.keys() and not any(".lora_" in name for name in fused)
    assert all(torch.equal(whole[name], fused[name]) for name in whole)


def test_a_student_says_what_it_was_trained_for_and_a_further_training_adds_to_it(teacher, first, second):
    whole, lora = load_pipeline(first), load_pipeline(teacher, weights=first / "lora" / LORA)
    assert whole.trained_tasks == lora.trained_tasks == ("identity", "edit")
    assert load_pipeline(second).trained_tasks == ("identity", "edit", "relight")
    assert load_pipeline("pocket").trained_tasks == ("identity",)
    pipe = DSDPipeline.from_pretrained(first)
    for model, before in ((first, ("identity", "edit")), (teacher, ())):  # only a student knows tasks before
        options = student.options(model)
        match_training(pipe, replace(find_base(options), tasks=("relight",)), options)
        assert pipe.trained_tasks == (*before, "relight")


def test_new_students_of_pocket_draw_with_new_noise_and_one_that_is_continued_as_before(teacher, first):
    def is_drawn_with_noise(options):
        base = find_base(options)
        pipe = open_encoders(base, torch.float32)
        match_training(pipe, base, options)
        return is_stochastic(pipe.scheduler)

    pocket = replace(student.options(teacher), model="pocket")
    assert is_drawn_with_noise(pocket) and is_stochastic(load_pipeline("pocket").scheduler)
    continued = {"condition_init_scale": 0.0, "start_from": str(ASSETS / "student")}
    assert is_drawn_with_noise(replace(pocket, **continued))
    bare = {"start_from": str(ASSETS / "student" / "transformer")}  # without a scheduler of its own
    assert is_drawn_with_noise(replace(pocket, **continued | bare))
    deterministic = replace(pocket, **continued | {"start_from": str(first)})
    assert not is_drawn_with_noise(deterministic)
    assert not find_base(deterministic).stochastic, "the card would speak of noise"
    assert not is_drawn_with_noise(student.options(teacher))


def test_a_lora_file_says_that_its_student_draws_with_new_noise(teacher, first, tmp_path):
    with safe_open(first / "lora" / LORA, framework="pt") as file:
        metadata = file.metadata()
    noted = json.dumps(json.loads(metadata[METADATA]) | {"stochastic": True})
    save_file(load_file(first / "lora" / LORA), tmp_path / LORA, metadata | {METADATA: noted})
    assert is_stochastic(load_pipeline(teacher, weights=tmp_path / LORA).scheduler)
    assert not is_stochastic(load_pipeline(teacher, weights=first / "lora" / LORA).scheduler)


def test_a_student_with_a_lora_beside_draws_the_same_fused(teacher, first, tmp_path):
    """The published layout: the transformer is not fused with the LoRA beside it."""
    load_student(str(teacher), str(first)).save_pretrained(tmp_path / "transformer")
    lora = load_file(first / "lora" / LORA)
    kept = {name: value for name, value in lora.items() if "x_embedder" not in name}
    from safetensors.torch import save_file

    save_file(kept, tmp_path / LORA)
    pipe = load_pipeline(teacher, weights=tmp_path, device="cpu")
    expected = tiny.draw(pipe)
    pipe.unload_lora_weights()
    plain = tiny.draw(pipe)
    pipe.transformer = load_student(str(teacher), str(tmp_path))
    torch.testing.assert_close(tiny.draw(pipe), expected, rtol=1e-4, atol=1e-4)
    assert (plain - expected).abs().max() > 1e-2  # the LoRA acts


def test_training_moves_on_from_the_start(teacher, first, second):
    before, after = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    base = FluxControlPipeline.from_pretrained(teacher).transformer.state_dict()
    name = "transformer_blocks.0.attn.to_q.weight"
    moved, trained = (after[name] - before[name]).norm(), (before[name] - base[name]).norm()
    assert 0 < moved < trained and after.keys() == before.keys()
    columns = "x_embedder.weight"
    assert torch.equal(after[columns][:, :16], before[columns][:, :16])
    assert not torch.equal(after[columns], before[columns])
    untouched = "transformer_blocks.0.ff.net.2.weight"
    assert torch.equal(after[untouched], before[untouched])


def test_the_result_opens_here_and_in_plain_diffusers_and_has_no_lora_that_fits_no_base(second):
    ours, stock = load_pipeline(second, device="cpu"), FluxControlPipeline.from_pretrained(second)
    assert stock.transformer.config.in_channels == 32 and tiny.draw(ours).isfinite().all()
    assert torch.equal(ours.transformer.x_embedder.weight, stock.transformer.x_embedder.weight)
    assert not (second / "lora").exists()


def test_the_card_names_the_start_and_has_no_path_of_this_machine(second, first):
    text = (second / "README.md").read_text()
    assert f"continuing the student `{first.name}`" in text and str(first) not in text
    assert "lora/" not in text and ModelCard(text).data.base_model is None


def test_the_license_is_the_strictest(teacher, first, tmp_path):
    options = student.options("pocket", start_from=str(first))
    assert find_base(options).license == "unknown: see the model's card"
    (card := first / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert find_base(options).license == "Apache-2.0"
    card.write_text("---\nlicense: other-non-commercial\n---\n")
    assert find_base(options).license == "other-non-commercial"
    card.unlink()


def test_trained_columns_are_not_overwritten(teacher, first):
    options = student.options(teacher, start_from=str(first), condition_init_scale=3.0)
    with pytest.raises(TrainingError, match="already has trained columns .*--condition-init-scale 0"):
        empty_transformer(find_base(options), options)
    args = command._parser().parse_args(["data", "--out", "out", "--start-from", "student"])
    assert command.options_of(args).condition_init_scale == 0 and command.options_of(args).full


def test_another_start_is_not_a_continuation(teacher, second):
    with pytest.raises(TrainingError, match="was started with start_from .* now it is None"):
        student.run(teacher, second, steps=2)
