"""The families' latents, encoded once: uint8 panels -> `latents.npy`, float16 [families, FAMILY, 16, H/8, W/8].

The encoder reads each 8x8 block alone, so a sheet's latents are its panels' latents side by side; sheets are
therefore put together here, from latents, at no cost.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline
from torch import Tensor

from train.pocket import vae as pocket_vae


def load(vae: AutoencoderKL, families: np.ndarray, path: Path) -> Tensor:
    if not path.exists():
        parts = [_encode(vae, families[i : i + 100]) for i in range(0, len(families), 100)]
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.replace(path)
    return torch.from_numpy(np.load(path))


def _encode(vae: AutoencoderKL, families: np.ndarray) -> np.ndarray:
    latents = pocket_vae.encode(vae, pocket_vae.to_tensor(families))
    return latents.view(*families.shape[:2], *latents.shape[1:]).half().cpu().numpy()


def pack(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Panels' latents [B rows columns, 16, h, w] -> tokens of their sheets [B, rows columns h w / 4, 64]."""
    sheets = pocket_vae.tile(panels.float(), rows, columns)
    return FluxPipeline._pack_latents(sheets, *sheets.shape)


def positions(rows: int, columns: int, side: int, device: str) -> Tensor:
    """Rotary positions of a sheet's tokens, [tokens, 3]; `side` is a panel's latent side."""
    height, width = rows * side // 2, columns * side // 2
    return FluxPipeline._prepare_latent_image_ids(1, height, width, device, torch.float32)
