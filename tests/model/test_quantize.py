"""Weights in fewer bits: what they need, and what to do without it."""

import pytest
import torch

from dsd.model import quantize as quantized
from dsd.model.checkpoint import LoadError, load_pipeline


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
    with pytest.raises(LoadError, match="quantize must be one of 8bit, 4bit, got '2bit'"):
        quantized.check("2bit", "none", torch.device("cuda"))
    with pytest.raises(LoadError, match="works with offload none or model, not 'group'"):
        quantized.check("4bit", "group", torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("offload", quantized.OFFLOADS)
def test_a_quantized_pocket_draws_on_cuda(bits, offload):
    pytest.importorskip("bitsandbytes")
    pipe = load_pipeline("pocket", quantize=bits, offload=offload, dtype=torch.bfloat16)
    assert getattr(pipe.transformer, f"is_loaded_in_{bits}")
    from tests.tiny import image

    assert pipe("on the beach", image=image(), num_inference_steps=2).images[0].size == (64, 64)
