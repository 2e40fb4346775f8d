"""Finish the VAE's decoder on latents that the teacher drew: `python -m train.pocket.vae.decoder RUN`.

Latents that a model drew are not noisy, as in `model.py`, but wrong in edges and small parts. So renders are
noised, the teacher denoises them, and the decoder learns to decode the result to the render. The encoder
stays as it is, so everything that was trained on its latents goes on with them.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dsd.model.latents import unpack
from dsd.pocket.words import caption
from train import command
from train.pocket import latents as grids
from train.pocket import scenes, text
from train.pocket.arrays import checksum, store
from train.pocket.loop import descend, device, mixed_precision, step_seed
from train.pocket.presets import PRESETS, Preset, build_parser, locked
from train.pocket.redraw import redraw
from train.pocket.teacher import Teacher, begin_with
from train.pocket.vae.linear import BLOCK, LATENTS
from train.pocket.vae.model import (
    TEST_SEED,
    TRAIN_SEED,
    build,
    build_state,
    sample_layout,
    save,
    tile,
    to_tensor,
    vae_psnr,
)

SEED, BATCH = 47, 24
PANELS = (0, 1)  # of each family: one critter in two contexts
NOISE, STEPS, GUIDANCE = (0.15, 0.75), 8, 2.0  # beyond, the teacher draws another image than the render
PLAIN = 0.25  # share of panels whose latents are the encoder's own
EDGES = 0.5  # weight of the error in the differences of neighboring pixels


@dataclass(frozen=True)
class Panels:
    """Renders, uint8 [N, H, W, 3], their latents [N, 16, h, w], and these redrawn by the teacher."""

    images: np.ndarray
    plain: Tensor
    redrawn: Tensor


def load_panels(run: Path, preset: Preset, vae: AutoencoderKL) -> Panels:
    count, panels = preset.decoder_families, list(PANELS)
    families = scenes.render(TRAIN_SEED, count, preset.panel, run / "renders")
    plain = grids.load(vae, TRAIN_SEED, count, preset.panel, run)[:, panels].flatten(0, 1)
    path = run / "renders" / f"decoder-{count}-{preset.panel}-{checksum(run / 'teacher' / 'transformer')}.npy"
    shape = (len(plain), LATENTS, preset.panel // BLOCK, preset.panel // BLOCK)
    redrawn = store(path, shape, np.float16, redraw_panels(run, preset, plain))
    return Panels(
        families[:, panels].reshape(-1, *families.shape[2:]), plain, torch.from_numpy(np.array(redrawn))
    )


def redraw_panels(run: Path, preset: Preset, plain: Tensor) -> Iterator[np.ndarray]:
    """Yield the redrawn latents in batches, float16 [B, 16, h, w]; a command that is stopped begins again."""
    teacher = Teacher(preset).to(device()).eval()
    begin_with(teacher, run / "teacher")
    shown = scenes.all_scenes(TRAIN_SEED, range(preset.decoder_families))
    prompts = [caption(*shown[first + p]) for first in range(0, len(shown), scenes.FAMILY) for p in PANELS]
    settings = {"noise": NOISE, "steps": STEPS, "guidance": GUIDANCE, "tokens": text.T5_TOKENS}
    for start in range(0, len(plain), BATCH):
        data = grids.pack(plain[start : start + BATCH], 1, 1)
        part, generator = prompts[start : start + BATCH], step_seed(SEED, start)
        drawn = redraw(teacher, data, part, preset.panel, **settings, generator=generator)
        yield unpack(drawn, preset.panel, preset.panel).cpu().numpy().astype(np.float16)


def error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean absolute error of images and, weighted, of their edges; a squared one blurs them."""
    edges = sum((decoded.diff(dim=axis) - pixels.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return (decoded - pixels).abs().mean() + EDGES * edges


def train(run: Path, preset: Preset, steps: int, minutes: float | None, test: Tensor) -> AutoencoderKL:
    """Return the averaged VAE."""
    vae = build(preset)  # as a new one, whose config does not name the folder
    vae.load_state_dict(AutoencoderKL.from_pretrained(run / "vae").state_dict())
    panels = load_panels(run, preset, vae)
    # Another encoder or a teacher that was trained further begins a training of its own.
    name = f"decoder-{checksum(run / 'teacher' / 'transformer')}-{grids.encoder_checksum(vae)}.pt"
    vae = vae.to(device(), memory_format=torch.channels_last)
    state = build_state(run / name, vae, steps=steps, minutes=minutes)

    def loss(step: int) -> Tensor:
        generator = step_seed(SEED, step)
        rows = torch.randint(len(panels.plain), (preset.vae_batch,), generator=generator)
        is_plain = torch.rand(len(rows), generator=generator) < PLAIN
        code = torch.where(is_plain[:, None, None, None], panels.plain[rows], panels.redrawn[rows])
        layout = sample_layout(generator)
        code, pixels = (
            tile(each, *layout).to(device()) for each in (code.float(), to_tensor(panels.images[rows]))
        )
        with mixed_precision():
            decoded = vae.decode(code.to(memory_format=torch.channels_last)).sample
        return error(decoded.float(), pixels)

    ema = state.ema.module
    descend(state, loss, decay=0.5, report=lambda: f"{vae_psnr(ema, test):.2f} dB")
    return ema


def main() -> None:
    parser = build_parser("decoder", "Finish the VAE's decoder on latents that the teacher drew.")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    with locked(args.run / "vae"), locked(args.run / "teacher"):
        torch.manual_seed(SEED)
        renders = scenes.render(TEST_SEED, 64, preset.panel, args.run / "renders")
        test = to_tensor(renders).to(device())
        vae = train(args.run, preset, args.steps or preset.decoder_steps, args.minutes, test[:128])
        save(vae, args.run / "vae", test)
        shutil.copytree(args.run / "vae", args.run / "teacher" / "vae", dirs_exist_ok=True)


if __name__ == "__main__":
    command.run(main)
