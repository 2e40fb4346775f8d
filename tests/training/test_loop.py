"""The loop, on tiny models: it learns, and leaves what everything opens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxControlPipeline
from safetensors.torch import load_file

import app
from dsd.generate import drawing
from dsd.generate.drawing import Options
from dsd.model import canvas, origin
from dsd.model.checkpoint import load_pipeline
from dsd.model.presets import LORA
from dsd.training import loop as training
from dsd.training.loop import batch_loss, frame_weights, train
from dsd.training.optimizer import learning_rate
from dsd.training.options import TrainOptions
from dsd.training.student import (
    black_token,
    find_base,
    init_condition_columns,
    open_encoders,
    open_transformer,
)
from tests import student, tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def lora(teacher, tmp_path_factory) -> Path:
    """What a LoRA training left."""
    out = tmp_path_factory.mktemp("lora")
    student.run(teacher, out, steps=30, batch=8, alpha=4.0, ema=0.5, lora_dropout=0.1, save_every=10)
    return out


@pytest.fixture(scope="module")
def full(teacher, tmp_path_factory) -> Path:
    """What a training of all weights left, with validation."""
    out, seen = tmp_path_factory.mktemp("full"), []

    def validate(pipe, step: int) -> dict[str, float]:
        assert not pipe.transformer.training
        seen.append((step, pipe.transformer.x_embedder.weight.detach().clone()))
        return {"identity": 0.5, "drawn": float(tiny.draw(pipe).mean())}

    reports = []
    options = student.options(teacher, full=True, lr=1e-3, ema=0.9, validate_every=2, steps=4, text_tokens=9)
    train(student.pairs(), options, out, validate=validate, on_step=lambda *report: reports.append(report))
    torch.save((seen, reports), out / "seen.pt")
    return out


# ---------------------------------------------------------------- the parts


def test_the_rate_rises_stays_and_falls_to_a_fiftieth():
    options = TrainOptions(lr=1.0, steps=100, warmup=10, decay=0.5)
    rates = [learning_rate(step, options) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9:50] == [pytest.approx(1.0)] * 41
    assert rates[75] == pytest.approx(0.51) and rates[100] == pytest.approx(0.02)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert learning_rate(99, TrainOptions(lr=1.0, steps=100, warmup=0)) == 1.0


def test_each_frame_has_its_weight():
    weights = frame_weights((48, 32), 8, (0.3, 1.0)).view(2, 6)
    assert weights.tolist() == [[pytest.approx(0.3)] * 3 + [1.0] * 3] * 2


class Model(torch.nn.Module):
    """Answers with the reference frame's truth, and notes what it was asked."""

    def __init__(self, batch) -> None:
        super().__init__()
        self.truth, self.asked = batch.noise - batch.data, {}

    def forward(self, **asked):
        self.asked = asked
        half = frame_weights((32, 32), 8, (1.0, 0.0))
        return (self.truth * half,)


def test_the_loss_is_over_both_frames_and_the_model_is_asked_as_when_drawing():
    pipe, shape = tiny.pipeline(), (2, 8, 16)
    words = torch.randn(2, 4, 32), torch.randn(2, 32)
    batch = training.Batch(*(torch.randn(shape) for _ in range(3)), torch.rand(2), *words, (32, 32))
    model = Model(batch)
    loss = lambda **weights: batch_loss(model, batch, TrainOptions(**weights), pipe).item()  # noqa: E731
    error = (batch.noise - batch.data).square().view(2, 2, 4, 16)[:, :, 2:].mean().item()
    assert loss(target_weight=0.0) == 0.0
    assert loss(reference_weight=0.0) == pytest.approx(error)
    assert loss() == pytest.approx(error / 2) and loss(reference_weight=3.0) == pytest.approx(error / 4)
    t = batch.t[:, None, None]
    x_t = (1 - t) * batch.data + t * batch.noise
    torch.testing.assert_close(model.asked["hidden_states"], torch.cat([x_t, batch.condition], dim=2))
    assert model.asked["guidance"].tolist() == [3.5, 3.5] and torch.equal(model.asked["timestep"], batch.t)
    assert model.asked["img_ids"].shape == (8, 3) and model.asked["img_ids"][:, 2].max() == 3


# ---------------------------------------------------------------- it learns


def test_the_loss_falls(lora, full):
    losses = [row["loss"] for row in student.said(lora)]
    assert losses[-1] < 0.97 * losses[0]


def test_reports_have_loss_norm_rate_time_and_waiting(lora):
    said = student.said(lora)
    assert [row["step"] for row in said] == list(range(2, 31, 2))
    names = {"step", "loss", "norm", "rate", "seconds", "seconds_per_step", "waiting"}
    assert all(row.keys() == names and 0 <= row["waiting"] <= 1 for row in said)


def test_validation_sees_the_average_that_is_saved(full):
    seen, reports = torch.load(full / "seen.pt")
    scores = [(step, values) for step, values in reports if "identity" in values]
    assert [step for step, _ in seen] == [step for step, _ in scores] == [2, 4]
    saved = load_file(full / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(saved["x_embedder.weight"], seen[-1][1])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_all_weights_move_with_full_and_the_new_columns_too(full, teacher):
    after = load_pipeline(full, device="cpu").transformer.state_dict()
    before = FluxControlPipeline.from_pretrained(teacher).transformer.state_dict()
    assert all(not torch.equal(after[name][..., : value.shape[-1]], value) for name, value in before.items())
    assert after["x_embedder.weight"][:, 16:].abs().max() > 0 and not (full / "lora").exists()


@pytest.mark.parametrize("full", [False, True], ids=["lora", "full"])
def test_new_columns_may_begin_as_the_old_ones_and_take_black_for_nothing(teacher, full):
    options = student.options(teacher, full=full, condition_init_scale=2.0)
    base = find_base(options)
    pipe = open_encoders(base, torch.float32)
    pipe.register_modules(transformer=open_transformer(base, options, torch.float32, torch.device("cpu")))
    embed, black = pipe.transformer.x_embedder, black_token(pipe)
    noise, image = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    before = embed(torch.cat([noise, image], 1))
    torch.testing.assert_close(before, embed(torch.cat([noise, 0 * image], 1)))  # zero, as in the paper
    init_condition_columns(pipe, options)
    torch.testing.assert_close(embed(torch.cat([noise, black.expand(5, -1)], 1)), before)
    unlike_black = image - (image @ black)[:, None] * black / black.square().sum()
    both = embed(torch.cat([noise, unlike_black], 1))
    torch.testing.assert_close(both, embed(torch.cat([noise + 2 * unlike_black, 0 * noise], 1)))


# ---------------------------------------------------------------- what leaves


def draw(pipe, steps: int = 2) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return tiny.draw(pipe, num_inference_steps=steps)


def test_the_lora_trains_attention_and_the_new_columns_only(lora, teacher):
    after = load_pipeline(lora, device="cpu").transformer.state_dict()
    before = FluxControlPipeline.from_pretrained(teacher).transformer.state_dict()
    columns = after.pop("x_embedder.weight")
    assert torch.equal(columns[:, :16], before.pop("x_embedder.weight")) and columns[:, 16:].abs().max() > 0
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert len(moved) == 11 and all(".attn." in name and name.endswith("weight") for name in moved)


def test_the_lora_file_holds_alpha_and_the_new_columns_and_opens_on_the_base(lora, teacher):
    whole = load_pipeline(lora, device="cpu")
    for weights in (lora / "lora", lora / "lora" / LORA):
        light = load_pipeline(teacher, weights=weights, device="cpu")
        torch.testing.assert_close(draw(light), draw(whole), rtol=1e-3, atol=1e-4)
    assert light.transformer.peft_config["dsd"].lora_alpha == 4.0


def test_stock_diffusers_draws_the_same_from_folder_and_lora(lora, teacher):
    folder = FluxControlPipeline.from_pretrained(lora)
    assert type(folder) is FluxControlPipeline and folder.transformer.config.in_channels == 32
    light = FluxControlPipeline.from_pretrained(teacher)
    light.load_lora_weights(lora / "lora", weight_name=LORA)
    ours = draw(load_pipeline(lora, device="cpu"))
    for stock in (folder, light):
        torch.testing.assert_close(_drawn_by_stock(stock), ours, rtol=1e-3, atol=1e-4)


def _drawn_by_stock(pipe: FluxControlPipeline) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    frame = canvas.fit(tiny.image(), tiny.FRAME, tiny.FRAME)
    noise = pipe.prepare_latents(1, 4, tiny.FRAME, 2 * tiny.FRAME, torch.float32, "cpu", tiny.seeded(0))[0]
    return pipe(
        tiny.PROMPTS[0], control_image=canvas.compose(canvas.to_tensor([frame])), latents=noise,
        height=tiny.FRAME, width=2 * tiny.FRAME, num_inference_steps=2, max_sequence_length=16,
        output_type="latent",
    ).images  # fmt: skip


def test_the_app_opens_folder_and_lora_and_draws_the_same(lora, teacher):
    drawn = []
    for flags in (["--model", lora], ["--model", teacher, "--weights", lora / "lora"]):
        args = app.parse([*map(str, flags), "--device", "cpu"])
        loaded, _ = app.load(args)
        (result,) = drawing.generate(loaded.pipe, tiny.image(), Options(prompt=tiny.PROMPTS[0], steps=2))
        drawn.append(np.asarray(result.image, dtype=int))
    assert drawn[0].std() > 0 and abs(drawn[0] - drawn[1]).max() <= 1  # of 255


def test_parts_that_were_not_trained_are_the_bases(full, teacher):
    for part in ("vae", "text_encoder", "text_encoder_2"):
        (one,), (other,) = (list((folder / part).glob("*.safetensors")) for folder in (full, teacher))
        ours, base = load_file(one), load_file(other)
        assert ours.keys() == base.keys() and all(torch.equal(ours[name], base[name]) for name in ours)
        assert {value.dtype for value in ours.values()} == {value.dtype for value in base.values()}


def test_drawing_takes_as_many_text_tokens_as_training_did(full, lora):
    assert load_pipeline(full, device="cpu").tokenizer_2.model_max_length == 9
    assert load_pipeline(lora, device="cpu").tokenizer_2.model_max_length == 16  # the base's


def test_the_lora_file_says_how_many_text_tokens_training_used(lora, teacher, tmp_path):
    assert origin.lora_facts(lora / "lora" / LORA)["text_tokens"] == 16
    seen = []

    def validate(pipe, step):
        seen.append(pipe.tokenizer_2.model_max_length)
        return {"score": 1.0}

    student.run(teacher, tmp_path, steps=1, text_tokens=7, validate=validate)
    light = load_pipeline(teacher, weights=tmp_path / "lora", device="cpu")
    assert light.tokenizer_2.model_max_length == 7 and seen == [7]
