"""Sizes and step counts of the pocket training runs, for the same models on two CPU cores or one GPU."""

import argparse
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from dsd.files import whole


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One set of sizes. Counts are families, images or grids; steps are optimizer steps."""

    panel: int = 128  # side of one panel and of the student's frame, in pixels
    vae_widths: tuple[int, ...] = (16, 32, 48, 96)  # the second is at most 48, the size of a 4x4 RGB block
    families: int = 12_000
    vae_families: int = 2_000
    linear_steps: int = 1_000
    vae_steps: int = 14_000
    vae_batch: int = 8  # panels
    decoder_families: int = 768  # families of which the teacher redraws two panels for the decoder
    decoder_steps: int = 1_500
    rendered: int = 6_000  # families whose images are kept for the scorer and the judge
    scorer_batch: int = 64  # drawn images; a third as many strangers are added
    strangers: int = 6_000
    scorer_steps: int = 4_000
    clip_width: int = 64
    t5_width: int = 96
    heads: int = 8
    head_width: int = 32
    double_blocks: int = 1
    single_blocks: int = 6
    teacher_steps: int = 40_000
    teacher_rate: float = 1e-3  # learning rate of AdamW; see `loop.MUON` for the blocks' matrices
    teacher_batch: int = 28  # single images per process; grid batches are smaller and take about as long
    judge_redrawn: int = 1_000  # families that the judge also sees redrawn by the VAE
    judge_taught: int = 300  # families that the judge also sees redrawn by the teacher
    judge_width: int = 128
    judge_eye_blocks: int = 4
    judge_blocks: int = 3
    judge_eye_batch: int = 64  # images per process
    judge_eye_steps: int = 1_500
    judge_batch: int = 24  # pairs per process
    judge_steps: int = 10_000


CPU = Preset()
GPU = replace(
    CPU, families=20_000,  # 220,000 images, a few milliseconds of one core each
    vae_families=3_000, vae_batch=64, decoder_families=8_000, rendered=12_000, scorer_batch=256,
    teacher_batch=2048, judge_redrawn=8_000, judge_taught=8_000, judge_eye_batch=256,
    judge_eye_steps=4_000, judge_batch=128,
)  # fmt: skip
PRESETS = {"cpu": CPU, "gpu": GPU}


def locked(path: Path) -> AbstractContextManager[None]:
    """Lock what a command is to write, as `whole.locked` does; under `torchrun`, its first process does."""
    return whole.locked(path) if os.environ.get("RANK", "0") == "0" else nullcontext()


def build_parser(module: str, about: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all these commands share, for `python -m train.pocket.MODULE`."""
    parser = argparse.ArgumentParser(f"python -m train.pocket.{module}", description=about)
    parser.add_argument("run", type=Path, help="folder of the run: its files, states and models")
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="sizes for a CPU or a GPU (cpu)")
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the preset's)")
    parser.add_argument("--minutes", type=float, help="stop after this many minutes if steps remain")
    return parser
