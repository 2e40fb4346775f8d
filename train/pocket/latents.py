"""The families' latents, drawn and encoded once: float16 [families, FAMILY, 16, H/8, W/8].

The encoder reads each 8x8 block alone, so a grid's latents are its panels' latents side by side, and grids
are assembled from latents at no cost. The images are not kept.
"""

import os
import zlib
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dsd.model import latents
from dsd.pocket.draw import draw
from train.pocket import scenes
from train.pocket import vae as pocket_vae
from train.pocket.linear import BLOCK
from train.pocket.loop import once

CHUNK = 50  # families that a process draws at a time


def load(vae: AutoencoderKL, seed: int, count: int, panel: int, folder: Path) -> Tensor:
    """Return the latents of the first `count` families of a seed, from `folder` if they are there."""

    def encode() -> np.ndarray:
        made = np.empty((count, scenes.FAMILY, len(bias), panel // BLOCK, panel // BLOCK), np.float16)
        firsts = range(0, count, CHUNK)
        work = partial(_encode, seed=seed, count=count, panel=panel, weight=weight, bias=bias)
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            for first, chunk in zip(firsts, pool.imap(work, firsts), strict=True):
                made[first : first + CHUNK] = chunk
        return made

    weight, bias = (tensor.cpu().numpy() for tensor in block_code(vae))
    numbers = (parameter.detach().cpu().numpy().tobytes() for parameter in vae.encoder.parameters())
    code = zlib.crc32(b"".join(numbers))  # another encoder, other latents
    path = folder / f"latents-{seed}-{count}-{panel}-{code:08x}.npy"
    return torch.from_numpy(np.array(once(path, encode)))  # a writable copy in memory


@torch.no_grad()
def block_code(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return the encoder as one linear map of an 8x8 block, weight [16, 192] and bias [16], by probing it.

    Running the whole encoder, with its zeroed residual branches, would take a hundred times as long.
    """
    probes = torch.eye(3 * BLOCK * BLOCK).view(-1, 3, BLOCK, BLOCK).to(vae.device)
    bias = latents.encode(vae, torch.zeros_like(probes[:1]))[0, :, 0, 0]
    return (latents.encode(vae, probes)[:, :, 0, 0] - bias).T, bias


def _encode(
    first: int, *, seed: int, count: int, panel: int, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Draw and encode up to `CHUNK` families from `first` on: float16 [families, FAMILY, 16, h, w]."""
    indices = range(first, min(first + CHUNK, count))
    return np.stack(
        [[_code(draw(*one, panel), weight, bias) for one in scenes.family(seed, i)] for i in indices]
    )


def _code(image, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    side = image.width // BLOCK
    pixels = np.asarray(image, np.float32) / 127.5 - 1
    blocks = pixels.reshape(side, BLOCK, side, BLOCK, 3).transpose(0, 2, 4, 1, 3)  # [h, w, 3, 8, 8]
    return (blocks.reshape(side * side, -1) @ weight.T + bias).T.reshape(-1, side, side).astype(np.float16)


def pack(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Pack latents of panels [B rows columns, 16, h, w] into grid tokens [B, rows columns h w / 4, 64]."""
    return latents.pack(pocket_vae.tile(panels.float(), rows, columns))
