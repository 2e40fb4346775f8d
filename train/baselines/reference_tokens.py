"""Baseline: the tokens of the clean reference are appended to the noisy ones, with shifted positions.

The idea of OminiControl and FLUX.1 Kontext: no new weights; joint attention reads the reference, which stands
to the right of the target as if on one canvas, and only the target's velocities are used. Unlike our first
frame, the reference is not drawn again. The model equals the teacher on that longer sequence, so it differs
from the plain teacher from the first step on, as the originals do. A dropped reference is tokens of zeros.
"""

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from dsd.training.student import Base
from train.baselines.single_frame import SingleFrame


class ReferenceTokens(SingleFrame):
    """A transformer that reads `[target | reference]` and draws the target."""

    def forward(self, x_t: Tensor, seen: Tensor, *, img_ids: Tensor, **inputs) -> Tensor:
        positions = torch.cat([img_ids, shift(img_ids)])  # [2 tokens, 3]
        velocity = self.transformer(torch.cat([x_t, seen], dim=1), img_ids=positions, **inputs)[0]
        return velocity[:, : x_t.shape[1]]  # [B, 2 tokens, C] -> [B, tokens, C]


def shift(positions: Tensor) -> Tensor:
    """Move positions [tokens, 3] to the right by the width of their frame."""
    columns = positions[:, 2].max() + 1
    return positions + columns * torch.tensor([0.0, 0.0, 1.0], device=positions.device)


def wrap(transformer: FluxTransformer2DModel, base: Base) -> ReferenceTokens:
    return ReferenceTokens(transformer)
