"""Sizes of the pocket family: `small` for two CPU cores, `large` for one GPU."""

from dataclasses import dataclass, replace

@dataclass(frozen=True, kw_only=True)
class Preset:
    """One set of sizes. Counts are pictures or grids to draw; steps are optimiser steps."""

    panel: int = 64  # pixels a side of one panel, and of the student's frame
    vae_widths: tuple[int, ...] = (16, 32, 48, 96)  # at least 12, ..., then 6 times the 16 latents
    families: int = 12_000
    vae_steps: int = 5_000
    vae_batch: int = 8
    scorer_renders: int = 60_000
    scorer_steps: int = 4_000
    clip_width: int = 64
    t5_width: int = 96
    heads: int = 4
    head_width: int = 48
    double_blocks: int = 2
    single_blocks: int = 6

    teacher_steps: int = 10_000
    teacher_batch: int = 40  # singles; a batch of sheets is smaller, so that every step takes about as long
    pairs: int = 40_000
    student_steps: int = 6_000
    student_batch: int = 48

SMALL = Preset()
LARGE = replace(
    SMALL, panel=128, vae_widths=(32, 64, 128, 256), families=50_000, vae_steps=20_000, vae_batch=64,
    scorer_renders=200_000, scorer_steps=10_000, heads=6, head_width=64, double_blocks=4, single_blocks=8,
    clip_width=128, t5_width=192, teacher_steps=40_000, teacher_batch=512,
    pairs=200_000, student_steps=20_000, student_batch=256,
)  # fmt: skip
PRESETS = {"small": SMALL, "large": LARGE}
