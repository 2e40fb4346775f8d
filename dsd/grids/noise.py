"""Noise that the panels of a grid have in common, so that they are more likely to show one subject."""

import math

from torch import Tensor


def correlate_panels(noise: Tensor, rows: int, columns: int, correlation: float) -> Tensor:
    """Make any two panels of independent noise [B, tokens, C] correlate by `correlation`, from 0 to 1.

    The tokens are those of a grid of square panels, row by row. Every value keeps its normal distribution
    with variance 1: only the shares of the panels' mean and of what differs from it change.
    """
    if not correlation or rows * columns == 1:
        return noise
    side = math.isqrt(noise.shape[1] // (rows * columns))
    panels = noise.unflatten(1, (rows, side, columns, side))  # [B, rows, side, columns, side, C]
    mean = panels.mean((1, 3), keepdim=True)  # variance 1 / (rows columns)
    common = math.sqrt(1 + correlation * (rows * columns - 1)) * mean
    return (common + math.sqrt(1 - correlation) * (panels - mean)).flatten(1, 4)
