"""Muon beside AdamW in one optimizer: each moves its weights as it would alone, and a run resumes exactly."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from dsd.training import optimizer as optimizer_module
from dsd.training.optimizer import MuonAdamW, build_optimizer, suits_muon
from dsd.training.options import TrainingError, TrainOptions
from tests import student, tiny

MUON, ADAMW = {"lr": 0.02, "momentum": 0.9}, {"lr": 1e-3, "betas": (0.9, 0.97)}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def named_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"x_embedder.weight": (4, 6), "transformer_blocks.0.attn.to_q.weight": (6, 4)}
    return {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def descend(optimizers, weights, steps: range) -> None:
    for step in steps:
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] *= 0.9
            optimizer.step()


def test_each_part_moves_its_weights_as_it_would_alone_also_after_a_restart(monkeypatch):
    monkeypatch.setattr(optimizer_module, "cpu_multiplies_bfloat16", lambda: True)
    alone, joint = named_weights(), named_weights()
    embedder, query = alone.values()
    descend([torch.optim.Muon([query], **MUON), torch.optim.AdamW([embedder], **ADAMW)], alone, range(4))
    optimizer = MuonAdamW(joint.items(), muon=MUON, adamw=ADAMW)
    descend([optimizer], joint, range(2))
    again = MuonAdamW(joint.items(), muon=MUON, adamw=ADAMW)
    again.load_state_dict(optimizer.state_dict())
    descend([again], joint, range(2, 4))
    for name, weight in joint.items():
        assert torch.equal(weight, alone[name]) and not torch.equal(weight, named_weights()[name])


def test_without_fast_bfloat16_muon_takes_the_same_step_in_float32(monkeypatch):
    """Rounding to bfloat16, with 8 bits, changes a step by about a hundredth of its size."""
    steps = {}
    for is_fast in (True, False):
        monkeypatch.setattr(optimizer_module, "cpu_multiplies_bfloat16", lambda is_fast=is_fast: is_fast)
        weights = named_weights()
        descend([MuonAdamW(weights.items(), muon=MUON, adamw=ADAMW)], weights, range(1))
        steps[is_fast] = {name: weight - named_weights()[name] for name, weight in weights.items()}
    embedder, query = steps[False]
    assert torch.equal(steps[True][embedder], steps[False][embedder])  # AdamW's
    exact, rounded = steps[False][query], steps[True][query]
    assert 0 < (exact - rounded).norm() < 0.03 * exact.norm()


def test_weights_that_suit_one_part_alone_have_no_other():
    weights = named_weights()
    for name, settings in zip(weights, (ADAMW, MUON), strict=True):
        optimizer = MuonAdamW([(name, weights[name])], muon=MUON, adamw=ADAMW)
        assert [group["lr"] for group in optimizer.param_groups] == [settings["lr"]]
        descend([optimizer], {name: weights[name]}, range(1))
        assert not torch.equal(weights[name], named_weights()[name])


def test_muon_has_the_matrices_that_every_token_passes():
    weights = dict(tiny.plain_transformer().named_parameters())
    chosen = {name for name, weight in weights.items() if suits_muon(name, weight)}
    assert {"single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.attn.to_q.weight"} <= chosen
    assert all(weights[name].ndim == 2 and "blocks" in name and "norm" not in name for name in chosen)
    assert not chosen & {"x_embedder.weight", "proj_out.weight", "context_embedder.weight"}


def test_a_training_with_muon_resumes_bit_for_bit_and_differs_from_adamw(tmp_path):
    model = student.teacher(tmp_path / "teacher")
    settings = {"full": True, "optimizer": "muon", "ema": 0.5, "save_every": 1}
    student.run(model, tmp_path / "whole", steps=4, **settings)
    student.run(model, tmp_path / "parts", steps=2, **settings)
    student.run(model, tmp_path / "parts", steps=4, **settings)
    student.run(model, tmp_path / "adamw", steps=4, **settings | {"optimizer": "adamw"})
    whole, parts, adamw = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts", "adamw"))
    assert all(torch.equal(weight, parts[name]) for name, weight in whole.items())
    differs = {name for name, weight in whole.items() if not torch.equal(weight, adamw[name])}
    assert any(suits_muon(name, whole[name]) for name in differs)
    with pytest.raises(TrainingError, match="optimizer 'muon', but now it is 'adamw'"):
        student.run(model, tmp_path / "whole", steps=5, **settings | {"optimizer": "adamw"})


def test_muon_is_refused_for_a_lora_and_for_shards():
    with pytest.raises(TrainingError, match="a LoRA has narrow ones"):
        TrainOptions(optimizer="muon")
    with pytest.raises(TrainingError, match="one of adamw, muon, got 'sgd'"):
        TrainOptions(optimizer="sgd")
    sharded = SimpleNamespace(distributed_type=DistributedType.FSDP)
    with pytest.raises(TrainingError, match="FSDP shards them"):
        build_optimizer(tiny.plain_transformer(), TrainOptions(optimizer="muon", full=True), sharded)


@pytest.mark.parametrize(
    ("device", "kind", "is_slow"), [("cpu", "Muon", True), ("meta", "Muon", False), ("cpu", "AdamW", False)]
)
def test_only_muon_for_weights_on_a_slow_cpu_multiplies_in_float32(device, kind, is_slow, monkeypatch):
    monkeypatch.setattr(optimizer_module, "cpu_multiplies_bfloat16", lambda: False)
    part = getattr(torch.optim, kind)([torch.nn.Parameter(torch.empty(2, 2, device=device))], lr=0.1)
    assert optimizer_module._is_slow(part) == is_slow
    monkeypatch.setattr(optimizer_module, "cpu_multiplies_bfloat16", lambda: True)
    assert not optimizer_module._is_slow(part)
