"""Sharpness and visible token borders of drawn images, relative to renders of the same scenes."""

import numpy as np
from PIL import Image

TOKEN = 16  # side of the square that one token draws, in pixels: the VAE's 8, two by two


def sharpness(drawn: list[Image.Image], renders: list[Image.Image]) -> float:
    """Return the gradient energy of `drawn` divided by that of `renders`; 1 is as sharp as a render."""
    energies = [np.mean([np.square(step).mean() for step in _steps(images)]) for images in (drawn, renders)]
    return float(energies[0] / energies[1])


def token_edges(drawn: list[Image.Image], renders: list[Image.Image]) -> float:
    """Return the ratio of steps across token borders to steps elsewhere, divided by that of `renders`.

    1 means that no border shows.
    """
    return float(_border_ratio(drawn) / _border_ratio(renders))


def _border_ratio(images: list[Image.Image]) -> float:
    across, elsewhere = [], []
    for steps in _steps(images):  # the direction of the step is the last axis
        border = np.arange(1, steps.shape[-1] + 1) % TOKEN == 0
        across.append(np.abs(steps[..., border]).mean())
        elsewhere.append(np.abs(steps[..., ~border]).mean())
    return float(np.mean(across) / np.mean(elsewhere))


def _steps(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Return differences of neighboring gray values 0..1: along rows [B, H, W - 1], columns [B, W, H - 1]."""
    gray = np.stack([np.asarray(image.convert("L"), np.float32) / 255 for image in images])
    return np.diff(gray, axis=2), np.diff(gray, axis=1).transpose(0, 2, 1)
