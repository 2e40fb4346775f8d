"""The loop, on tiny models: it learns, goes on where it was killed, and leaves what everything opens."""

import os
import random
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import FluxControlPipeline
from safetensors.torch import load_file

import app
from dsd import diptych, generate, training
from dsd.checkpoint import LORA, load_pipeline
from dsd.generate import Options
from dsd.student import black_token, find_base, open_encoders, open_transformer, start_columns
from dsd.training import batch_loss, frame_weights, learning_rate, train
from dsd.training_options import TrainOptions
from tests import student, tiny, two_processes
from tests.test_blocks import free_port

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.two_processes"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def lora(teacher, tmp_path_factory) -> Path:
    """What a LoRA training left."""
    out = tmp_path_factory.mktemp("lora")
    student.run(teacher, out, steps=30, batch=8, alpha=4.0, ema=0.5, lora_dropout=0.0, save_every=10)
    return out


PLAIN = {**two_processes.LORA, "batch": 4}  # of which two processes take half each


@pytest.fixture(scope="module")
def plain(teacher, tmp_path_factory) -> Path:
    """What one process left, and every other way of doing the same is to leave."""
    out = tmp_path_factory.mktemp("plain")
    student.run(teacher, out, **PLAIN, validate=student.validate)
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
    options = student.options(teacher, full=full, columns_start=2.0)
    base = find_base(options)
    pipe = open_encoders(base, torch.float32)
    pipe.register_modules(transformer=open_transformer(base, options, torch.float32, torch.device("cpu")))
    embed, black = pipe.transformer.x_embedder, black_token(pipe)
    noise, picture = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    before = embed(torch.cat([noise, picture], 1))
    torch.testing.assert_close(before, embed(torch.cat([noise, 0 * picture], 1)))  # zero, as in the paper
    start_columns(pipe, options)
    torch.testing.assert_close(embed(torch.cat([noise, black.expand(5, -1)], 1)), before)
    unlike_black = picture - (picture @ black)[:, None] * black / black.square().sum()
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
    frame = diptych.fit(tiny.picture(), tiny.FRAME, tiny.FRAME)
    noise = pipe.prepare_latents(1, 4, tiny.FRAME, 2 * tiny.FRAME, torch.float32, "cpu", tiny.seeded(0))[0]
    return pipe(
        tiny.PROMPTS[0], control_image=diptych.compose(diptych.to_tensor([frame])), latents=noise,
        height=tiny.FRAME, width=2 * tiny.FRAME, num_inference_steps=2, max_sequence_length=16,
        output_type="latent",
    ).images  # fmt: skip


def test_the_app_opens_folder_and_lora_and_draws_the_same(lora, teacher):
    drawn = []
    for flags in (["--model", lora], ["--model", teacher, "--weights", lora / "lora"]):
        args = app.parse([*map(str, flags), "--device", "cpu"])
        loaded = app.load(args, app.judge(args))
        (result,) = generate.generate(loaded.pipe, tiny.picture(), Options(prompt=tiny.PROMPTS[0], steps=2))
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


# ---------------------------------------------------------------- going on


def _train(teacher: Path, out: Path, steps: int) -> None:
    """In a process of its own, to be killed."""
    rows = [student.pair(number, size=(32 + 16 * (number % 2), 32)) for number in range(10)]
    often = {"save_every": 2, "log_every": 1, "batch": 1, "accumulate": 2, "sizes": ("32", "48x32")}
    student.run(teacher, out, rows=rows, steps=steps, ema=0.9, lora_dropout=0.5, decay=0.5, **often)


def test_killed_at_random_and_run_again_it_ends_bit_for_bit_the_same(teacher, tmp_path):
    dice = random.Random(0)
    whole = FORKS.Process(target=_train, args=(teacher, tmp_path / "whole", 12))
    whole.start()
    reached, kills = 0, 0
    while reached < 12:
        child = FORKS.Process(target=_train, args=(teacher, tmp_path / "killed", 12))
        child.start()
        if kills < 3:
            _wait_for_step(tmp_path / "killed", min(10, reached + dice.randint(1, 5)), child)
            time.sleep(dice.random() * 0.05)
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        reached = max((line["step"] for line in student.said(tmp_path / "killed")), default=0)
    whole.join()
    assert kills == 3 and whole.exitcode == child.exitcode == 0
    assert student.checksums(tmp_path / "whole") == student.checksums(tmp_path / "killed")
    for file in ("transformer/diffusion_pytorch_model.safetensors", f"lora/{LORA}"):
        one, other = load_file(tmp_path / "whole" / file), load_file(tmp_path / "killed" / file)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _wait_for_step(out: Path, step: int, child) -> None:
    while child.is_alive():
        if (out / "said.jsonl").exists() and any(line["step"] >= step for line in student.said(out)):
            return
        time.sleep(0.005)


def assert_same(out: Path, other: Path, file: str = f"lora/{LORA}") -> None:
    """The weights in two checkpoints are equal within 1e-4 of each one's norm."""
    one, two = (load_file(folder / file) for folder in (out, other))
    assert two.keys() == one.keys()
    for name, value in one.items():
        assert (two[name] - value).norm() <= 1e-4 * value.norm(), (other, name)


def test_two_processes_match_one_and_so_do_sharded_weights(plain, teacher, tmp_path):
    where = free_port(), teacher, tmp_path
    processes = [FORKS.Process(target=two_processes.main, args=(rank, *where)) for rank in range(2)]
    for process in processes:
        process.start()
    student.run(teacher, tmp_path / "full", **{**two_processes.FULL, "batch": 4})
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0, 0]
    for mode in ("ddp", "fsdp2"):
        assert_same(plain, tmp_path / mode)
        ours, theirs = (told("drawn", out) for out in (tmp_path / mode, plain))
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert_same(tmp_path / "full", tmp_path / "fsdp2-full", "transformer/diffusion_pytorch_model.safetensors")


def told(name: str, out: Path) -> list[float]:
    return [row[name] for row in student.said(out) if name in row]


@pytest.mark.parametrize(
    "changed", [{"batch": 2, "accumulate": 4}, {"gradient_checkpointing": True}], ids=["parts", "twice"]
)
def test_what_saves_memory_leaves_the_same_weights(plain, teacher, tmp_path, changed):
    student.run(teacher, tmp_path, **{**PLAIN, **changed})
    assert_same(plain, tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"clip": 1e-9},
        {"beta2": 0.5},
        {"weight_decay": 0.9},
        {"guidance": 1.0},
        {"warmup": 4},
        {"columns_start": 1.0},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_counts(plain, teacher, tmp_path, changed):
    student.run(teacher, tmp_path, **{**PLAIN, "cache": str(plain / "run" / "cache"), **changed})
    with pytest.raises(AssertionError):
        assert_same(plain, tmp_path)


@pytest.fixture
def new_process():
    """accelerate settles the precision once in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_bf16_trains_float32_weights_nearly_as_float32_does(
    plain, teacher, tmp_path, new_process, monkeypatch, twice
):
    fused = []

    def watched(*given):
        fused.append(torch.backends.cuda.flash_sdp_enabled())  # of all devices, whatever its name says
        return batch_loss(*given)

    monkeypatch.setattr(training, "batch_loss", watched)
    student.run(teacher, tmp_path, **PLAIN, precision="bf16", gradient_checkpointing=twice)
    ours, theirs = (told("loss", out) for out in (tmp_path, plain))
    assert ours == pytest.approx(theirs, rel=0.05) and ours != theirs
    assert set(fused) == {twice} and torch.backends.cuda.flash_sdp_enabled()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_quantised_base_leaves_a_checkpoint_like_any_other(plain, teacher, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    student.run(teacher, tmp_path, **PLAIN, quantise=bits)
    ours, theirs = (told("loss", out) for out in (tmp_path, plain))
    assert ours == pytest.approx(theirs, rel=0.1) and ours != theirs
    ours, theirs = (load_pipeline(out, device="cpu").transformer.state_dict() for out in (tmp_path, plain))
    frozen = "transformer_blocks.0.ff.net.2.weight"
    assert ours.keys() == theirs.keys() and torch.equal(ours[frozen], theirs[frozen])  # not the few bits
