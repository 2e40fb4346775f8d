"""Redraw images of known content: their latents are noised, and the teacher denoises them."""

import torch
from torch import Tensor

from dsd.model import flow
from dsd.model.latents import positions
from train.pocket.loop import device
from train.pocket.teacher import Teacher


@torch.no_grad()
def redraw(
    teacher: Teacher,
    data: Tensor,
    prompts: list[str],
    side: int,
    *,
    noise: tuple[float, float],
    steps: int,
    guidance: float,
    tokens: int,
    generator: torch.Generator,
) -> Tensor:
    """Return packed latents [B, tokens, 64] of images of `side` pixels, redrawn in Euler steps.

    Each begins at a time of its own, from the least to the most `noise`; `tokens` is the length of the texts.
    """
    begin = noise[0] + (noise[1] - noise[0]) * torch.rand(len(data), generator=generator)
    x_t = flow.interpolate(data, torch.randn(data.shape, generator=generator), begin).to(device())
    begin, ids = begin.to(device()), positions(side, side, device=device())
    texts = [part.to(device()) for part in teacher.spell(prompts + [""] * len(prompts), tokens)]
    for step in range(steps):
        t = begin * (1 - step / steps)
        prompted, empty = teacher(torch.cat([x_t, x_t]), torch.cat([t, t]), *texts, ids).chunk(2)
        x_t = x_t - (begin / steps)[:, None, None] * (empty + guidance * (prompted - empty))
    return x_t
