"""Rectified flow: times, interpolation, target, loss.

The convention of the whole project, stated only here: `t` is in [0, 1], `t = 1` is noise, `t = 0` is data,
and velocity = noise - data. One Euler step is therefore `x + (t_next - t) * velocity`.
"""

import math

import torch
from torch import Tensor


def sigmas(steps: int) -> list[float]:
    """Return the noise levels before the scheduler's shift: `linspace(1, 1/N, N)`, as in the FLUX release."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64).tolist()


def sample_times(
    count: int, *, shift: float = 1.0, generator: torch.Generator | None = None, device: str = "cpu"
) -> Tensor:
    """Draw logit-normal times `t = sigmoid(N(log shift, 1))`, shape [count].

    The paper does not state its distribution. `shift` is that of the schedulers,
    `t' = shift t / (1 + (shift - 1) t)`: above 1, more times are near noise.
    """
    return torch.sigmoid(torch.randn(count, generator=generator, device=device) + math.log(shift))


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return `x_t = (1 - t) data + t noise` for `data` and `noise` [B, ...] and `t` [B]."""
    t = t.view(-1, *[1] * (data.ndim - 1))  # [B] -> [B, 1, ...]
    return (1 - t) * data + t * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity that the model is trained to predict."""
    return noise - data


def estimate_data(x_t: Tensor, predicted: Tensor, t: Tensor | float) -> Tensor:
    """Return the clean data that a predicted velocity implies: `x_t - t v`."""
    return x_t - t * predicted


def loss(predicted: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean squared error over velocities [B, tokens, C].

    `weight`, for example per frame, broadcasts over them and gives a weighted mean.
    """
    error = (predicted.float() - target.float()) ** 2
    return error.mean() if weight is None else (error * weight).sum() / weight.expand_as(error).sum()
