"""The plan: counts are the loaded model's, memory is near the measured, and what cannot fit is refused."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin
from torch.utils.flop_counter import FlopCounterMode

from dsd.model import presets
from dsd.training import estimate as plan
from dsd.training.estimate import Plan
from dsd.training.loop import configure_deepspeed, start
from dsd.training.optimizer import build_optimizer, moments
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.student import Base, find_base, open_encoders, open_transformer
from tests import student

CPU = torch.device("cpu")
POCKET = TrainOptions(**{**presets.POCKET.training, "optimizer": "adamw"})
LORA = replace(POCKET, full=False, rank=8)


@pytest.fixture(scope="module")
def base() -> Base:
    return find_base(POCKET)


@cache  # a third of a second each
def made(base: Base, options: TrainOptions, rows: int = 100) -> Plan:
    return plan.make(base, options, start(options), rows=rows)


@pytest.mark.parametrize("options", [POCKET, LORA], ids=["full", "lora"])
def test_weights_are_counted_as_they_are_loaded(base, options):
    transformer, counted = open_transformer(base, options, torch.float32, CPU), made(base, options)
    moving = sum(weight.numel() for weight in transformer.parameters() if weight.requires_grad)
    frozen = sum(weight.nbytes for weight in transformer.parameters() if not weight.requires_grad)
    assert counted.trained == moving
    assert counted.moving == moving * 20  # weight, gradient, two moments, average
    assert abs(counted.frozen - frozen) < 0.02 * frozen + 1


def test_muon_keeps_one_moment_of_a_matrix_and_its_products_are_counted(base):
    options, usual = replace(POCKET, optimizer="muon"), made(base, POCKET)
    counted, model = made(base, options), open_transformer(base, options, torch.float32, CPU)
    optimizer = build_optimizer(model, options, start(options))
    states = moments(optimizer, dict(model.named_parameters())).values()
    kept = sum(moment.nbytes for state in states for name, moment in state.items() if name != "step")
    assert counted.moving == counted.trained * 12 + kept < usual.moving
    assert usual.saved - counted.saved == 3 * (usual.moving - counted.moving)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    with FlopCounterMode(display=False) as products:
        optimizer.step()
    assert counted.flops - usual.flops == pytest.approx(products.get_total_flops())


@pytest.mark.parametrize("options", [POCKET, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
def test_what_is_kept_for_the_way_back_is_near_what_autograd_keeps(base, options, checkpointing):
    options = replace(options, gradient_checkpointing=checkpointing, batch=4)
    model = open_transformer(base, options, torch.float32, CPU)
    kept, weights = {}, {weight.data_ptr() for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address is used again
        return tensor

    inputs = {
        "hidden_states": torch.randn(4, 128, 128), "timestep": torch.rand(4), "txt_ids": torch.zeros(28, 3),
        "encoder_hidden_states": torch.randn(4, 28, 96), "pooled_projections": torch.randn(4, 64),
        "img_ids": torch.zeros(128, 3), "return_dict": False,
    }  # fmt: skip
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs)
    measured = sum(size for size, _ in kept.values())
    if (
        checkpointing
    ):  # the hooks see the blocks' inputs only; one block more is there when it is computed again
        measured += made(base, replace(options, gradient_checkpointing=False)).activations // 8
    assert 0.6 * measured < made(base, options).activations < 1.5 * measured


def test_the_encoders_and_the_disk_are_counted(base):
    pipe, counted = open_encoders(base, torch.float32), made(base, POCKET, rows=1000)
    parts = (pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert counted.encoding > sum(weight.nbytes for part in parts for weight in part.parameters())
    # two canvases of 16 x 16 x 32 numbers and two texts of 28 x 96 + 64, two bytes each
    assert counted.disk == 1000 * 2 * (2 * 16 * 16 * 32 + 2 * (28 * 96 + 64))
    unseen = made(base, replace(POCKET, condition_dropout=1.0), rows=1000)  # without [reference | black]
    assert unseen.disk == 1000 * 2 * (16 * 16 * 32 + 2 * (28 * 96 + 64))
    assert unseen.flops_encoding < counted.flops_encoding


def test_a_limited_cache_takes_no_more_and_rows_that_were_dropped_are_encoded_again(base, tmp_path):
    whole = made(base, POCKET, rows=10_000)
    kept = made(base, replace(POCKET, cache_gb=whole.disk / 2e9), rows=10_000)
    assert kept.disk == pytest.approx(whole.disk / 2, rel=1e-6) and kept.window < kept.disk
    assert whole.rows_encoded == 10_000 and whole.window == 0
    assert kept.rows_encoded == pytest.approx(10_000 + (24 * POCKET.steps - 10_000) / 2, rel=1e-3)
    assert made(base, replace(POCKET, cache_gb=1), rows=10_000).rows_encoded == 10_000
    assert "10,000 rows before the first step, about 6 min" in plan.describe(
        replace(whole, flops_encoding=whole.flops * 0.072), POCKET, 0.5
    )
    with pytest.raises(TrainingError, match="cache_gb allows 1 MB: pass --cache-gb 0.0"):
        plan.check(made(base, replace(POCKET, cache_gb=0.001), rows=10_000), tmp_path, tmp_path)


def test_the_operations_of_encoding_are_those_of_the_vae_and_the_text_encoder(base):
    from torch.utils.flop_counter import FlopCounterMode

    pipe = open_encoders(base, torch.float32)
    counted = made(base, POCKET).flops_encoding
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        pipe.vae.encode(torch.zeros(2, 3, pipe.frame_size, 2 * pipe.frame_size))
        pipe.encode_prompt(["a hat", "a hat on"], None, max_sequence_length=POCKET.text_tokens)
    assert 0.8 * counter.get_total_flops() < counted < 1.2 * counter.get_total_flops()


def test_settings_that_save_memory_do_so_in_the_plan(base):
    usual, activations = made(base, LORA), made(base, LORA).activations
    assert made(base, replace(LORA, gradient_checkpointing=True)).activations < 0.4 * activations
    assert made(base, replace(LORA, batch=12)).activations == pytest.approx(activations / 2)
    assert made(base, replace(LORA, quantize="4bit")).frozen < 0.3 * usual.frozen
    assert made(base, replace(LORA, quantize="8bit")).frozen < 0.4 * usual.frozen
    assert made(base, POCKET).frozen == 0


def test_the_work_of_a_step_grows_as_it_should(base):
    full, lora = made(base, POCKET).flops, made(base, LORA).flops
    assert full == pytest.approx(1.5 * lora)  # three passes against two
    assert made(base, replace(LORA, gradient_checkpointing=True)).flops == pytest.approx(1.5 * lora)
    assert made(base, replace(LORA, accumulate=3)).flops == pytest.approx(3 * lora)


def test_what_cannot_fit_is_refused_with_what_would_help(base, tmp_path):
    fine = made(base, POCKET)
    elsewhere = tmp_path / "not" / "there" / "yet"
    plan.check(fine, elsewhere, elsewhere)
    with pytest.raises(TrainingError, match="needs about .* free: try --gradient-checkpointing"):
        plan.check(replace(fine, free=fine.needed), tmp_path, elsewhere)
    (tmp_path / "texts").mkdir()
    with (tmp_path / "texts" / "a.safetensors").open("wb") as file:
        file.truncate(10**12)  # a hole: takes no room, but says it is so large
    plan.check(replace(fine, disk=10**12), tmp_path, elsewhere)  # it is all there already
    refused = r"may need 1000000.0 GB for {}, and .* free: choose another --out"
    with pytest.raises(TrainingError, match=refused.format("the encoded dataset")):
        plan.check(replace(fine, disk=10**15), tmp_path, elsewhere)
    with pytest.raises(TrainingError, match=refused.format("states and checkpoint")):
        plan.check(replace(fine, saved=10**15), tmp_path, elsewhere)


def test_what_is_saved_fits_the_plan(tmp_path):
    model = student.teacher(tmp_path / "teacher")
    options = student.options(model, full=True, ema=0.9, save_every=1, steps=4)
    base, out = find_base(options), tmp_path / "out"
    counted = plan.make(base, options, start(options), rows=10)
    student.run(model, out, full=True, ema=0.9, save_every=1, steps=4)
    files = [file for file in out.rglob("*") if file.is_file() and "cache" not in file.parts]
    numbers = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".distcp"))
    assert 0.5 * counted.saved < numbers < counted.saved


def test_validating_takes_the_encoders_and_an_image_beside_the_weights(base):
    options, plain = start(POCKET), made(base, POCKET)
    watched = plan.make(base, POCKET, options, rows=100, validates=True)
    pipe = open_encoders(base, torch.float32)
    parts = (pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert plain.validation == 0 and "to validate" not in plan.describe(plain, POCKET, None)
    assert watched.validation > sum(weight.nbytes for part in parts for weight in part.parameters())
    assert "to validate in the activations' place" in plan.describe(watched, POCKET, None)
    tight = replace(watched, activations=0)
    assert tight.needed >= tight.frozen + tight.moving + tight.validation


def test_a_training_that_cannot_fit_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    teacher = student.teacher(tmp_path / "teacher")
    for file in teacher.rglob("*.safetensors"):
        file.unlink()  # whoever opened one would fail in another way
    monkeypatch.setattr(plan, "_free", lambda accelerator: 1000)
    with pytest.raises(TrainingError, match="1000|0 MB are free"):
        student.run(teacher, tmp_path / "out")


def test_the_plan_reads_as_a_page(base):
    page = plan.describe(made(base, POCKET), replace(POCKET, steps=8_000), 0.5)
    assert "24 pairs" in page and "8.7 M, of which 8.7 M are trained" in page
    assert "8,000 steps, about 1 h 7 min" in page
    assert "unknown" in plan.describe(made(base, POCKET), POCKET, None)


def test_time_follows_from_the_operations_and_the_speed_of_a_matrix_product(base, monkeypatch):
    assert plan.time_step(made(base, POCKET), start(POCKET)) > 0
    monkeypatch.setattr(plan, "_matrix_speed", lambda accelerator: 1e9)
    counted = replace(made(base, POCKET), flops=3e9)
    assert plan.time_step(counted, start(POCKET)) == pytest.approx(6)


CONFIGS = sorted((Path(__file__).parents[2] / "train" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_shipped_launch_settings_are_ones_that_accelerate_knows(file):
    from accelerate.commands import launch
    from accelerate.commands.config.config_args import ClusterConfig

    config = ClusterConfig.from_yaml_file(str(file))
    assert config.mixed_precision == "bf16" and config.num_processes in (1, 8, 16)
    given = launch.launch_command_parser().parse_args(["--config_file", str(file), "script.py"])
    args, _, _ = launch._validate_launch_command(given)
    assert (args.use_fsdp, args.use_deepspeed) == (
        "FSDP" in config.distributed_type,
        "deepspeed" in file.stem,
    )
    assert args.gradient_accumulation_steps is None and args.gradient_clipping is None  # ours to say
    for name in config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap", "").split(","):
        assert not name or hasattr(
            __import__("diffusers.models.transformers.transformer_flux", fromlist=[name]), name
        )


def test_what_a_launcher_says_does_not_replace_our_settings(monkeypatch):
    options = TrainOptions(accumulate=3, clip=0.5, batch=7)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")
    assert start(options).gradient_accumulation_steps == 3
    plugin = DeepSpeedPlugin(gradient_clipping=1.0, gradient_accumulation_steps=1)
    configure_deepspeed(plugin.deepspeed_config, options)
    asked = ("gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu")
    assert [plugin.get_value(name) for name in asked] == [3, 0.5, 7]
