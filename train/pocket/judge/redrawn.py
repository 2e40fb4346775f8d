"""Renders redrawn by the VAE and by the teacher, so that the judge is trained on images like those it judges.

What the teacher draws from pure noise has no known truth. So true grids are noised by varying amounts, and
denoised from there. Panels in which the scorer no longer reads the true critter are not used.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from dsd.grids.teacher import SETTINGS
from dsd.model.latents import decode, unpack
from dsd.pocket import scorer
from dsd.pocket.scorer import check_traits
from dsd.pocket.words import grid_prompt, relight_prompt
from train.pocket import latents as grids
from train.pocket import scenes
from train.pocket.arrays import checksum, store, write_once
from train.pocket.judge.pairs import scene
from train.pocket.judge.words import PARTS
from train.pocket.lessons import GRID_TOKENS
from train.pocket.loop import device, step_seed
from train.pocket.presets import Preset
from train.pocket.redraw import redraw as redraw_latents
from train.pocket.teacher import Teacher, begin_with
from train.pocket.vae.model import TRAIN_SEED

SEED, BATCH, STEPS = 43, 24, 6
NOISE = (0.4, 0.85)  # start times of drawing: least and most noise
# Panels of a family that share a grid: two grids with three panels of one critter and one of a changed
# critter, then a grid of one context in four lights.
GRIDS = ((0, 1, 2, 6), (3, 4, 5, 7), scenes.ONE_CONTEXT)
SIDE = 2  # panels per side
# The traits that the judge describes; the teacher may change the critter's other numbers.
DESCRIBED = {trait for choices, numbers in PARTS.values() for trait in (*choices, *numbers)}


def by_vae(run: Path, panel: int, latents: Tensor, count: int) -> np.ndarray:
    """Return the first `count` families as redrawn by the VAE, uint8 [FAMILY count, H, W, 3]."""

    @torch.no_grad()
    def draw() -> Iterator[np.ndarray]:
        vae = AutoencoderKL.from_pretrained(run / "vae").to(device())
        for part in latents[:count].flatten(0, 1).split(256):
            yield to_pixels(decode(vae, part.float().to(device())))

    path = run / "renders" / f"redrawn-{count}-{panel}-{checksum(run / 'vae')}.npy"
    return store(path, (scenes.FAMILY * count, panel, panel, 3), np.uint8, draw())


def by_teacher(run: Path, preset: Preset, latents: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` families redrawn by the teacher, uint8 [FAMILY count, H, W, 3], and which are true.

    Each batch is kept until all are drawn, so that an interrupted command continues. The file names hold a
    checksum of the teacher's weights and the VAE's: a teacher that was trained further draws its own.
    """
    panel, rows = preset.panel, scenes.FAMILY * count
    name = f"{count}-{panel}-{checksum(run / 'teacher' / 'transformer', run / 'vae')}"
    drawn = draw_batches(run, preset, latents, count, run / "renders" / f"taught-{name}")
    images = store(run / "renders" / f"taught-{name}.npy", (rows, panel, panel, 3), np.uint8, drawn)
    truths = (read_truths(run, images) for _ in range(1))  # read only if they are not stored
    true = store(run / "renders" / f"true-{name}.npy", (rows,), np.bool_, truths)
    shutil.rmtree(run / "renders" / f"taught-{name}", ignore_errors=True)
    return images, true


@torch.no_grad()
def draw_batches(
    run: Path, preset: Preset, latents: Tensor, count: int, folder: Path
) -> Iterator[np.ndarray]:
    """Yield the redrawn families in batches, uint8 [FAMILY B, H, W, 3], each kept in the folder."""
    panel = preset.panel
    teacher = Teacher(preset).to(device()).eval()
    begin_with(teacher, run / "teacher")
    vae = AutoencoderKL.from_pretrained(run / "vae").to(device())

    def draw(families: range) -> Iterator[np.ndarray]:
        drawn = np.empty((len(families), scenes.FAMILY, panel, panel, 3), np.uint8)
        for panels in GRIDS:
            drawn[:, panels] = redraw(teacher, vae, latents, families, panels, panel)
        yield drawn.reshape(-1, panel, panel, 3)

    for first in range(0, count, BATCH):
        families = range(first, min(first + BATCH, count))
        shape = (scenes.FAMILY * len(families), panel, panel, 3)
        write_once(folder / f"{first}.npy", shape, np.uint8, draw(families))
        yield np.load(folder / f"{first}.npy")


def redraw(
    teacher: Teacher, vae: AutoencoderKL, latents: Tensor, families: range, panels: tuple[int, ...], side: int
) -> np.ndarray:
    """Redraw one grid of these panels for each family: uint8 [B, 4, side, side, 3]."""
    generator = step_seed(SEED, families.start * scenes.FAMILY + panels[0])
    data = grids.pack(latents[list(families)][:, list(panels)].flatten(0, 1), SIDE, SIDE)  # [B, tokens, 64]
    prompts = [prompt(family, panels) for family in families]
    settings = {"noise": NOISE, "steps": STEPS, "tokens": GRID_TOKENS}
    settings["guidance"] = SETTINGS["pocket"].guidance
    x_0 = redraw_latents(teacher, data, prompts, SIDE * side, **settings, generator=generator)
    pixels = to_pixels(decode(vae, unpack(x_0, SIDE * side, SIDE * side)))
    rows = pixels.reshape(len(data), SIDE, side, SIDE, side, 3)  # [B, 2 side, 2 side, 3], cut into panels
    return rows.transpose(0, 1, 3, 2, 4, 5).reshape(len(data), SIDE * SIDE, side, side, 3)


def prompt(family: int, panels: tuple[int, ...]) -> str:
    shown = scenes.family(TRAIN_SEED, family)
    contexts = [shown[panel][1] for panel in panels]
    write = relight_prompt if panels == scenes.ONE_CONTEXT else grid_prompt
    return write(shown[0][0], contexts)


def read_truths(run: Path, images: np.ndarray) -> np.ndarray:
    """Return bool [FAMILY count]: whether the scorer reads all described traits of the true critter."""
    readings = scorer.load(run / "scorer").read([Image.fromarray(image) for image in images])
    return np.array([is_true(row, reading) for row, reading in enumerate(readings)])


def is_true(row: int, reading: scorer.Reading) -> bool:
    return all(ok for trait, ok in check_traits(scene(row)[0], reading).items() if trait in DESCRIBED)


def to_pixels(images: Tensor) -> np.ndarray:
    """Convert [B, 3, H, W] in -1..1 to uint8 [B, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
