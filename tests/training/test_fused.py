"""The folder that a LoRA training leaves: fused in float32, rounded once; what rounding keeps is stated."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file

from dsd.model import lora as loras
from dsd.model.checkpoint import load_pipeline
from dsd.model.presets import LORA
from dsd.model.transformer import widen
from dsd.training import card as model_card
from dsd.training.loop import TrainResult
from tests import student, tiny

LAYER = "transformer_blocks.0.attn.to_q"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A teacher in bfloat16, as FLUX is."""
    folder = tmp_path_factory.mktemp("teacher")
    pipe = FluxPipeline.from_pretrained(student.teacher(folder))
    pipe.transformer.to(torch.bfloat16).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory) -> tuple[Path, TrainResult]:
    """A short training, whose LoRA changes little."""
    out = tmp_path_factory.mktemp("trained")
    return out, student.run(teacher, out, steps=2, lr=1e-3, alpha=4.0)


def change(folder: Path) -> torch.Tensor:
    """What the LoRA file adds to a weight."""
    parts = load_file(folder / "lora" / LORA)
    down, up = (parts[f"transformer.{LAYER}.lora_{part}.weight"].float() for part in "AB")
    return 4.0 / 2 * up @ down


def test_a_lora_of_small_norm_keeps_its_effect_in_a_folder_of_bfloat16(teacher, trained):
    out, _ = trained
    before, after = load_file(teacher / WEIGHTS), load_file(out / WEIGHTS)
    base, fused = before[f"{LAYER}.weight"], after[f"{LAYER}.weight"]
    added = change(out)
    assert fused.dtype == base.dtype == torch.bfloat16
    assert 1e-3 < added.norm() / base.float().norm() < 0.05
    effect = fused.float() - base.float()
    assert (effect * added).sum() / added.square().sum() > 0.9
    nearest = (base.float() + added).bfloat16()  # the file's parts are rounded, the folder's were not
    assert (fused == nearest).float().mean() > 0.9


def test_the_share_that_rounding_keeps_is_measured_over_all_layers(teacher, trained):
    out, result = trained
    before, after = load_file(teacher / WEIGHTS), load_file(out / WEIGHTS)
    layers, settings = loras.read(out / "lora" / LORA)
    kept = total = 0.0
    for path, parts in layers.items():
        scale = 1.0 if path == loras.INPUT else 2.0
        added = scale * parts["lora_B.weight"].float() @ parts["lora_A.weight"].float()
        base = torch.zeros_like(added)
        base[:, : before[f"{path}.weight"].shape[1]] = before[f"{path}.weight"]
        kept += ((after[f"{path}.weight"].float() - base) * added).sum()
        total += added.square().sum()
    assert result.kept == pytest.approx(float(kept / total), abs=0.02) and result.kept > 0.9


def test_a_change_too_small_for_the_folder_is_reported_in_the_card(teacher, trained, tmp_path):
    small = student.run(teacher, tmp_path, steps=1, lr=1e-6, condition_dropout=0.0)
    assert small.kept < 0.95
    facts = {"dataset": "run", "rows": "10"}
    text = model_card.card(small, "small", facts=facts)
    assert f"keep {small.kept:.0%} of the LoRA's change" in " ".join(text.split())
    for kept in (1.0, None):
        assert "of the LoRA's change" not in model_card.card(replace(small, kept=kept), "same", facts=facts)


def test_nothing_is_lost_in_float32(tmp_path):
    folder = student.teacher(tmp_path / "teacher")
    assert student.run(folder, tmp_path / "out", steps=1).kept == pytest.approx(1.0, abs=1e-3)
    assert student.run(folder, tmp_path / "full", steps=1, full=True).kept is None


def test_fusing_adds_in_float32_and_rounds_once():
    model = widen(tiny.plain_transformer()).bfloat16()
    before = model.get_submodule(LAYER).weight.float()
    parts = {"lora_A.weight": torch.randn(2, 32), "lora_B.weight": 1e-2 * torch.randn(32, 2)}
    metadata = {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.target_modules": ["to_q"]}
    loras.fuse({LAYER: parts}, {"network_alphas": None, "metadata": metadata}, model)
    exact = before + 2 * parts["lora_B.weight"] @ parts["lora_A.weight"]
    assert torch.equal(model.get_submodule(LAYER).weight, exact.bfloat16())


def test_the_folder_draws_as_the_lora_does(teacher, trained):
    out, _ = trained
    whole, light = (
        load_pipeline(out, device="cpu"),
        load_pipeline(teacher, weights=out / "lora", device="cpu"),
    )
    for pipe in (whole, light):
        pipe.to(torch.float32)
    torch.testing.assert_close(tiny.draw(whole), tiny.draw(light), rtol=0.05, atol=0.05)
