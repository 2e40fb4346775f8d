"""The families' latents, encoded once to float16 [families, FAMILY, 16, H/8, W/8].

The encoder reads each 8x8 block alone, so a sheet's latents are its panels' latents side by side; sheets are
therefore put together from latents, at no cost.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from dsd import latents
from train.pocket import vae as pocket_vae
from train.pocket.loop import once


@torch.no_grad()
def load(vae: AutoencoderKL, families: np.ndarray, path: Path) -> Tensor:
    def encode() -> np.ndarray:
        weight, bias = block_code(vae)
        return np.concatenate(
            [_encode(weight, bias, families[i : i + 100]) for i in range(0, len(families), 100)]
        )

    return torch.from_numpy(np.array(once(path, encode)))  # a copy: in memory, and of our own


@torch.no_grad()
def block_code(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """The encoder as one linear map of an 8x8 block, weight [16, 3, 8, 8] and bias [16], by probing it.

    Through all its silent layers it would take a hundred times as long.
    """
    probes = torch.eye(3 * 64).view(-1, 3, 8, 8).to(vae.device)
    bias = latents.encode(vae, torch.zeros_like(probes[:1]))[0, :, 0, 0]
    weight = latents.encode(vae, probes)[:, :, 0, 0] - bias  # [192, 16]
    return weight.T.reshape(-1, 3, 8, 8), bias


def _encode(weight: Tensor, bias: Tensor, families: np.ndarray) -> np.ndarray:
    pixels = pocket_vae.to_tensor(families, weight.device)
    code = functional.conv2d(pixels, weight, bias, stride=8)  # [B, 16, H/8, W/8]
    return code.view(*families.shape[:2], *code.shape[1:]).half().cpu().numpy()


def pack(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Panels' latents [B rows columns, 16, h, w] -> tokens of their sheets [B, rows columns h w / 4, 64]."""
    return latents.pack(pocket_vae.tile(panels.float(), rows, columns))
