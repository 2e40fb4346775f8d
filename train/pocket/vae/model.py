"""Train the pocket VAE, a stock `AutoencoderKL` (f8, 16 channels): `python -m train.pocket.vae RUN`.

First its linear part is trained (see `linear.py`), in minutes, then the decoder's residual branches. The
encoder stays linear and reads each 8x8 block alone, so latents are final after the first phase, and those of
a diptych are its frames' latents side by side. The variance is zero: a sample equals the mode.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from train.pocket import scenes
from train.pocket.loop import TrainState, build_ema, descend, device, mixed_precision, step_seed
from train.pocket.presets import PRESETS, Preset, build_parser, locked
from train.pocket.vae.linear import LATENTS, LinearAutoencoder, spell

LINEAR_PEAK, PEAK, BLACK = 3e-3, 5e-4, -1.0
LINEAR_NOISE, NOISE = 0.03, 0.1  # on the latents, as a sampler's latents are never exact
TRAIN_SEED, TEST_SEED = 1, 901
Measure = Callable[[], float]  # PSNR in dB


def build(preset: Preset) -> AutoencoderKL:
    levels = len(preset.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=preset.vae_widths, layers_per_block=1, latent_channels=LATENTS, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False,
        sample_size=2 * preset.panel,  # the side of a 2x2 grid, as 1024 is for FLUX
        scaling_factor=1.0, shift_factor=0.0,  # the linear code is already normalized
    )  # fmt: skip


def to_tensor(images: np.ndarray, where: str | torch.device = "cpu") -> Tensor:
    """Convert images, uint8 [..., H, W, 3], to float [B, 3, H, W] in -1..1."""
    return to_bytes(images, where).float() / 127.5 - 1


def to_bytes(images: np.ndarray, where: str | torch.device = "cpu") -> Tensor:
    """Copy images, uint8 [..., H, W, 3], to a device as uint8 [B, 3, H, W]."""
    return torch.from_numpy(np.array(images.reshape(-1, *images.shape[-3:]))).permute(0, 3, 1, 2).to(where)


def tile(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Tile panels [B rows columns, C, S, S] into grids [B, C, rows S, columns S]."""
    channels, size = panels.shape[1], panels.shape[-1]
    grid = panels.view(-1, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, rows * size, columns * size)


def sample_layout(generator: torch.Generator) -> tuple[int, int]:
    """Return the rows and columns of singles, diptychs or 2x2 grids."""
    return ((1, 1), (1, 2), (2, 2))[int(torch.randint(3, (1,), generator=generator))]


def sample_batch(images: np.ndarray, batch: int, generator: torch.Generator, where: str = "cpu") -> Tensor:
    """Sample `batch` panels as singles, diptychs (some half black) or 2x2 grids, all in one layout."""
    indices = torch.randint(len(images), (batch,), generator=generator).numpy()
    panels = to_tensor(images[indices], where)
    rows, columns = sample_layout(generator)
    if columns == 2 and rows == 1:
        panels[1::8] = BLACK
    return tile(panels, rows, columns)


@torch.no_grad()
def psnr(encode, decode, images: Tensor) -> float:
    """Return the mean PSNR, in dB, of images [B, 3, H, W], encoded and decoded to 8-bit colors."""
    total = 0.0
    for batch in images.split(64):
        decoded = decode(encode(batch)).clamp(-1, 1)
        decoded = ((decoded + 1) * 127.5).round() / 127.5 - 1
        total += (10 * torch.log10(4 / (decoded - batch).square().mean((1, 2, 3)))).sum().item()
    return total / len(images)


def vae_psnr(vae: AutoencoderKL, images: Tensor) -> float:
    return psnr(lambda x: vae.encode(x).latent_dist.mode(), lambda z: vae.decode(z).sample, images)


def train_phase(
    state: TrainState, encode, decode, images: np.ndarray, batch: int, noise: float, measure: Measure
) -> None:
    """Minimize the squared error of images decoded from noisy codes, at random levels up to `noise`."""
    where = device()

    def loss(step: int) -> Tensor:
        generator = step_seed(TRAIN_SEED, step)
        pixels = sample_batch(images, batch, generator, where).to(memory_format=torch.channels_last)
        code = encode(pixels)
        level = noise * torch.rand(len(code), 1, 1, 1, generator=generator)
        noisy = code + (level * torch.randn(code.shape, generator=generator)).to(where)
        with mixed_precision():
            decoded = decode(noisy)
        return (decoded.float() - pixels).square().mean()

    descend(state, loss, decay=0.5, report=lambda: f"{measure():.2f} dB")


def train_linear(
    images: np.ndarray, test: Tensor, run: Path, preset: Preset, steps: int
) -> LinearAutoencoder:
    linear, sample = LinearAutoencoder(preset.vae_widths), to_tensor(images[:3000])
    linear.start_at_principal_components(sample)
    linear = linear.to(device(), memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(linear.parameters(), LINEAR_PEAK, betas=(0.9, 0.95))
    state = TrainState(run / "linear.pt", linear, optimizer=optimizer, steps=steps, name="linear")
    coder = linear.encode, linear.decode
    train_phase(state, *coder, images, preset.vae_batch, LINEAR_NOISE, lambda: psnr(*coder, test))
    linear.normalize(sample.to(device()))
    return linear


def train_branches(
    vae: AutoencoderKL,
    images: np.ndarray,
    test: Tensor,
    run: Path,
    preset: Preset,
    steps: int,
    minutes: float | None,
) -> AutoencoderKL:
    """Train the decoder's residual branches and return the EMA of the VAE."""
    vae = vae.to(device(), memory_format=torch.channels_last)
    state = build_state(run / "vae.pt", vae, steps=steps, minutes=minutes)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return vae.encode(pixels).latent_dist.mode()

    def decode(code: Tensor) -> Tensor:
        return vae.decode(code).sample

    ema = state.ema.module
    train_phase(state, encode, decode, images, preset.vae_batch, NOISE, lambda: vae_psnr(ema, test))
    return ema


def build_state(path: Path, vae: AutoencoderKL, *, steps: int, minutes: float | None) -> TrainState:
    """Return the state of a training of the decoder's residual branches; freeze all else."""
    # The layers that pass the linear code through the last norm have large constants that must not move:
    # training them with the rest cost 10 dB within 60 steps.
    decoder = vae.decoder
    last = (decoder.conv_norm_out, decoder.conv_out, decoder.up_blocks[-1].resnets[0].conv_shortcut)
    for module in (vae.encoder, *last):
        module.requires_grad_(False)
    weights = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, PEAK, betas=(0.9, 0.95), weight_decay=0.0)
    settings = {"optimizer": optimizer, "ema": build_ema(vae), "steps": steps, "minutes": minutes}
    return TrainState(path, vae, name="vae", **settings)


def main() -> None:
    parser = build_parser("vae", "Train the VAE: pixels to latents and back.")
    text = "training steps of the linear autoencoder (default: the preset's)"
    parser.add_argument("--linear-steps", type=int, help=text)
    args = parser.parse_args()
    with locked(args.run / "vae"):
        train(args)


def train(args: argparse.Namespace) -> None:
    """Train the linear autoencoder, then the branches, and save the VAE after each."""
    preset = PRESETS[args.preset]
    torch.manual_seed(0)
    families = scenes.render(TRAIN_SEED, preset.vae_families, preset.panel, args.run / "renders")
    images = families.reshape(-1, *families.shape[2:])
    test = to_tensor(scenes.render(TEST_SEED, 64, preset.panel, args.run / "renders")).to(device())
    linear = train_linear(images, test[:128], args.run, preset, args.linear_steps or preset.linear_steps)
    vae = build(preset)
    spell(linear.cpu(), vae)
    save(vae, args.run / "vae", test)
    steps = preset.vae_steps if args.steps is None else args.steps
    vae = train_branches(vae, images, test[:128], args.run, preset, steps, args.minutes)
    save(vae, args.run / "vae", test)


def save(vae: AutoencoderKL, folder: Path, test: Tensor) -> None:
    vae.half().save_pretrained(folder)
    vae = vae.float().to(test.device)
    print(f"vae: {vae_psnr(vae, test):.2f} dB on {len(test)} unseen renders", flush=True)
