"""Two-way guidance: the branches that the two scales need, and the combination of their velocities.

    v = v(0,0) + s_image (v(I,0) - v(0,0)) + s_text (v(I,T) - v(I,0))

A dropped I is zeros in packed latent space (not an encoded black image); a dropped T is the empty prompt.
The sum is linear, so each branch has one weight, and a branch with weight zero is never evaluated.
"""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """One evaluation of the model: its inputs, and its weight in the sum."""

    name: str  # also the name of its cache context
    image: bool
    text: bool
    weight: float


def branches(image_scale: float, text_scale: float) -> tuple[Branch, ...]:
    """Return the one to three branches that the scales need, one at (1, 1); their weights sum to 1."""
    for name, scale in (("image_guidance_scale", image_scale), ("text_guidance_scale", text_scale)):
        if not math.isfinite(scale):
            raise ValueError(f"{name} must be a finite number, got {scale}")
    candidates = (
        Branch("neither", image=False, text=False, weight=1.0 - image_scale),
        Branch("image", image=True, text=False, weight=image_scale - text_scale),
        Branch("image_text", image=True, text=True, weight=text_scale),
    )
    return tuple(branch for branch in candidates if abs(branch.weight) > 1e-9)


PLAIN = branches(1.0, 1.0)  # guidance off: the one branch with both image and text


def combine(velocities: list[Tensor], weights: list[float]) -> Tensor:
    """Return the weighted sum of velocities [B, tokens, C]."""
    if weights == [1.0]:
        return velocities[0]
    # In float32, because large terms of opposite sign cancel.
    total = sum(weight * velocity.float() for velocity, weight in zip(velocities, weights, strict=True))
    return total.to(velocities[0].dtype)
