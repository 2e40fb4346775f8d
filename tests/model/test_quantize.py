"""Weights in fewer bits: what they need, and what to do without it."""

import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import BitsAndBytesConfig

from dsd.grids.teacher import load_teacher
from dsd.model import quantize as quantized
from dsd.model.checkpoint import LoadError, load_pipeline, model_hash
from tests import tiny


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantizing_without_cuda_names_the_package_and_what_to_do(bits):
    with pytest.raises(LoadError, match=r"needs an NVIDIA GPU .*pip install \"bitsandbytes.*this is cpu"):
        load_pipeline("pocket", device="cpu", quantize=bits)


def test_quantizing_without_its_package_gives_the_pip_command(monkeypatch):
    from importlib import metadata

    def gone(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", gone)
    with pytest.raises(LoadError, match="bitsandbytes 0.48 or newer, got none: pip install"):
        quantized.check("4bit", "none", torch.device("cuda"))
    monkeypatch.setattr(metadata, "version", lambda name: "0.43.1")
    with pytest.raises(LoadError, match="0.48 or newer, got 0.43.1"):
        quantized.check("8bit", "model", torch.device("cuda"))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(LoadError, match="quantize must be one of 8bit, 4bit, .*fp8-compute, got '2bit'"):
        quantized.check("2bit", "none", torch.device("cuda"))
    with pytest.raises(LoadError, match="works with offload none or model, not 'group'"):
        quantized.check("4bit", "group", torch.device("cuda"))


@pytest.mark.parametrize("opened", [load_pipeline, load_teacher])
@pytest.mark.parametrize("bits", ["int8", "fp8"])
def test_torchao_needs_no_gpu_and_is_named_where_it_is_missing(opened, bits, monkeypatch):
    monkeypatch.setattr(quantized, "installed_version", lambda name: None)
    with pytest.raises(LoadError, match=f"{bits}.* needs the package torchao 0.15 or newer, got none"):
        opened("pocket", device="cpu", quantize=bits)


def test_computing_in_fp8_needs_a_gpu_that_can(monkeypatch):
    with pytest.raises(LoadError, match=r"NVIDIA GPU .*pip install \"torchao.*this is cpu"):
        quantized.check("fp8-compute", "none", torch.device("cpu"))
    monkeypatch.setattr(quantized, "installed_version", lambda name: "0.18.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an A100")
    with pytest.raises(LoadError, match="multiplies in fp8, and this is an A100: use fp8"):
        quantized.check("fp8-compute", "none", torch.device("cuda"))


@pytest.fixture
def torchao(monkeypatch):
    """A stand-in that records which layers it is to quantize, and how."""
    done: list[tuple[str, set[str]]] = []

    def quantize_(model, config, filter_fn, device):
        done.append((config, {name for name, layer in model.named_modules() if filter_fn(layer, name)}))

    names = (*quantized.TORCHAO.values(), quantized.COMPUTE_CONFIG)
    configs = {name: lambda name=name: name for name in names}
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace(
        quantization=SimpleNamespace(quantize_=quantize_, **configs)
    ))  # fmt: skip
    monkeypatch.setattr(quantized, "installed_version", lambda name: "0.18.0")
    return done


@pytest.mark.parametrize("opened", [load_pipeline, load_teacher])
@pytest.mark.parametrize(("bits", "config"), quantized.TORCHAO.items())
def test_torchao_gets_the_transformer_and_the_large_text_encoder(torchao, opened, bits, config):
    pipe = opened("pocket", device="cpu", quantize=bits)
    pipe = getattr(pipe, "pipe", pipe)
    assert [used for used, _ in torchao] == [config, config]
    (_, layers), (_, text) = torchao
    linear = {n for n, layer in pipe.transformer.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert linear - layers == {"x_embedder", "proj_out"} and "single_transformer_blocks.0.proj_out" in layers
    assert text and all(name.startswith("encoder.") for name in text)


def test_computing_in_fp8_is_for_the_transformer(torchao):
    quantized.shrink(tiny.pipeline(), "fp8-compute", torch.device("cpu"))
    assert [used for used, _ in torchao] == [quantized.COMPUTE_CONFIG, quantized.TORCHAO["fp8"]]


@pytest.mark.parametrize(
    ("parts", "encoder"), [({"text_encoder_2": 0}, "text_encoder_2"), ({}, "text_encoder")]
)
def test_bitsandbytes_is_told_of_both_parts_of_any_teacher(monkeypatch, parts, encoder):
    monkeypatch.setattr(DiffusionPipeline, "load_config", lambda base: {"transformer": 0, encoder: 0})
    mapping = quantized.pipeline_parts("any", "8bit", torch.bfloat16)["quantization_config"].quant_mapping
    assert mapping.keys() == {"transformer", encoder} and isinstance(mapping[encoder], BitsAndBytesConfig)
    assert {"x_embedder", "proj_out", "img_in"} <= set(mapping["transformer"].llm_int8_skip_modules)


@pytest.mark.parametrize("bits", quantized.TORCHAO)
def test_a_quantized_pocket_draws_on_a_cpu_nearly_the_same(bits):
    pytest.importorskip("torchao")
    plain, small, again = (load_pipeline("pocket", device="cpu", quantize=it) for it in (None, bits, bits))
    assert model_hash(plain) != model_hash(small) == model_hash(again)
    options = {"output_type": "pt", "num_inference_steps": 2}
    one, other = (tiny.draw(pipe, "a red critter", **options) for pipe in (plain, small))
    assert 0 < (one - other).abs().mean() < 0.01


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("offload", quantized.OFFLOADS)
def test_a_quantized_pocket_draws_on_cuda(bits, offload):
    pytest.importorskip("bitsandbytes")
    pipe = load_pipeline("pocket", quantize=bits, offload=offload, dtype=torch.bfloat16)
    assert getattr(pipe.transformer, f"is_loaded_in_{bits}")
    from tests.tiny import image

    assert pipe("on the beach", image=image(), num_inference_steps=2).images[0].size == (64, 64)
