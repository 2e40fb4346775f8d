"""Draw the families of images and encode them, once, to float16 [families, panels, 16, H/8, W/8].

The encoder reads each 8x8 block alone, so grids are assembled from their panels' latents at no cost.
"""

import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dsd.model import latents
from dsd.pocket.draw import draw
from train.pocket import scenes
from train.pocket.arrays import on_all_cores, store, with_rows
from train.pocket.vae import model as pocket_vae
from train.pocket.vae.linear import BLOCK, LATENTS


def load(
    vae: AutoencoderKL, seed: int, count: int, panel: int, folder: Path, *, kind: str = "families"
) -> Tensor:
    """Return the latents of the first `count` families of a seed, or of their edits, once put in `folder`."""
    weight, bias = (tensor.cpu().numpy() for tensor in block_code(vae))
    name = f"{scenes.prefix(kind)}latents-{seed}-{{}}-{panel}-{encoder_checksum(vae)}.npy"
    shape = (count, scenes.KINDS[kind][1], LATENTS, panel // BLOCK, panel // BLOCK)
    encode = partial(_encode, seed=seed, panel=panel, weight=weight, bias=bias, kind=kind)
    chunks = on_all_cores(encode, count, 50)
    stored = store(with_rows(folder, name, count), shape, np.float16, chunks)
    return torch.from_numpy(np.array(stored[:count]))  # a writable copy in memory


def encoder_checksum(vae: AutoencoderKL) -> str:
    """Return eight hex digits that identify the encoder, as each encoder has its own latents."""
    parameters = (parameter.detach().cpu().numpy().tobytes() for parameter in vae.encoder.parameters())
    return f"{zlib.crc32(b''.join(parameters)):08x}"


@torch.no_grad()
def block_code(vae: AutoencoderKL) -> tuple[Tensor, Tensor]:
    """Return the encoder as a linear map of an 8x8 block, weight [16, 192], bias [16]; 100 times as fast."""
    probes = torch.eye(3 * BLOCK * BLOCK).view(-1, 3, BLOCK, BLOCK).to(vae.device)
    bias = latents.encode(vae, torch.zeros_like(probes[:1]))[0, :, 0, 0]
    return (latents.encode(vae, probes)[:, :, 0, 0] - bias).T, bias


def _encode(
    families: range, *, seed: int, panel: int, weight: np.ndarray, bias: np.ndarray, kind: str
) -> np.ndarray:
    """Draw and encode families: float16 [families, FAMILY, 16, h, w]."""
    side, encoded = panel // BLOCK, []
    for scene in scenes.all_scenes(seed, families, kind=kind):
        pixels = np.asarray(draw(*scene, panel), np.float32) / 127.5 - 1
        blocks = pixels.reshape(side, BLOCK, side, BLOCK, 3).transpose(0, 2, 4, 1, 3)  # [h, w, 3, 8, 8]
        encoded.append((blocks.reshape(side * side, -1) @ weight.T + bias).T.astype(np.float16))
    return np.stack(encoded).reshape(len(families), -1, LATENTS, side, side)


def pack(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Pack latents of panels [B rows columns, 16, h, w] into grid tokens [B, rows columns h w / 4, 64]."""
    return latents.pack(pocket_vae.tile(panels.float(), rows, columns))
