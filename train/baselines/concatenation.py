"""Baseline: the reference is concatenated to the noisy latents along the channels, without a second frame.

The idea of InstructPix2Pix and of image-to-image FLUX models. The model is widened as ours is, its new
columns start at zero, and so it draws at first exactly what the teacher draws. Where the reference shows
something, the target is told of it in place; there is no frame in which the subject stands as it was.
"""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from dsd.model.transformer import widen
from dsd.training.student import Base
from train.baselines.single_frame import SingleFrame


class Concatenation(SingleFrame):
    """A widened transformer of one frame."""

    def added(self) -> list[nn.Parameter]:
        return [self.transformer.x_embedder.weight]

    def forward(self, x_t: Tensor, seen: Tensor, **inputs) -> Tensor:
        return self.transformer(torch.cat([x_t, seen], dim=2), **inputs)[0]  # [B, tokens, 2C] in


def wrap(transformer: FluxTransformer2DModel, base: Base) -> Concatenation:
    return Concatenation(widen(transformer))
