"""The memory and the downloads that FLUX needs follow from its parameter counts."""

import math
from dataclasses import dataclass

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel

from dsd.doctor.advice import BASE, DOWNLOADS, WEIGHTS
from dsd.model import memory
from dsd.model import quantize as quantized
from dsd.model.memory import FLUX_GB, QUANTIZED, drawing_bytes


@dataclass(frozen=True)
class Part:
    """A model of the pipeline: its weights, those of its linear layers, and those of its largest layer."""

    weights: int
    linear: int  # what can be quantized
    largest: int

    def size(self, bits: str | None = None) -> float:
        linear = self.linear if bits else 0
        return 2 * (self.weights - linear) + linear * QUANTIZED.get(bits, 0)


PARTS = {
    "transformer": Part(11_901_604_928, 11_897_929_728, 56_623_104),
    "text_encoder_2": Part(4_762_310_656, 4_630_511_616, 131_596_288),
    "text_encoder": Part(123_060_480, 0, 37_945_344),
    "vae": Part(83_819_683, 0, 2_359_296),
}


def needs(offload: str, bits: str | None) -> tuple[float, float]:
    """GB of GPU memory and main memory, from the parameter counts."""
    sizes = {name: part.size(bits) for name, part in PARTS.items()}
    layers = [2 * part.largest for part in PARTS.values()]
    gpu = {
        "none": sum(sizes.values()),
        "model": max(sizes.values()) + sizes["vae"],  # it stays on the GPU for the previews
        "group": 2 * max(layers),
        "sequential": max(layers),
    }[offload]
    gpu += drawing_bytes(tokens=2 * 32 * 32 + 512, width=3072, pixels=512 * 1024, channels=128)
    one_by_one = bits and offload == "none"
    ram = sizes["text_encoder"] if one_by_one else sum(sizes.values())
    return (gpu + memory.WORKSPACE) / 1e9, (ram + memory.WORKSPACE) / 1e9


@pytest.mark.parametrize("way", FLUX_GB)
def test_the_table_follows_from_the_parameter_counts(way):
    assert FLUX_GB[way] == tuple(math.ceil(10 * size) / 10 for size in needs(*way))


def test_downloads_follow_from_the_parameter_counts():
    assert DOWNLOADS[WEIGHTS] == pytest.approx(PARTS["transformer"].size(), abs=1e7)
    others = sum(part.size() for name, part in PARTS.items() if name != "transformer")
    assert DOWNLOADS[BASE] == pytest.approx(others, abs=1e7)


def test_weights_are_counted_in_flux_itself():
    with init_empty_weights():
        model = FluxTransformer2DModel(in_channels=128, out_channels=64, guidance_embeds=True)
    layers = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    linear = sum(one.weight.numel() for name, one in layers.items() if name not in quantized.END_LAYERS)
    largest = max(weight.numel() for weight in model.parameters())
    count = sum(weight.numel() for weight in model.parameters())
    assert PARTS["transformer"] == Part(count, linear, largest)
