"""Pocket's trainings at toy size."""

from dataclasses import replace

import torch

from train.pocket import scenes
from train.pocket.presets import CPU

TOY = replace(
    CPU,
    panel=64,
    families=4,
    t5_width=32,
    clip_width=32,
    heads=2,
    head_width=24,
    double_blocks=1,
    single_blocks=1,
)


def toy_latents() -> torch.Tensor:
    return torch.randn(4, scenes.FAMILY, 16, 8, 8, generator=torch.Generator().manual_seed(0)).half()
