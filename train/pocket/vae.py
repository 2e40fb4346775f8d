"""Train the pocket VAE, a stock `AutoencoderKL` (f8, 16 channels): `python -m train.pocket.vae RUN`.

First its linear part is trained (see `linear.py`), in minutes, then the decoder's residual branches. The
encoder stays linear and reads each 8x8 block alone, so latents are final after the first phase (the teacher
can start) and the latents of a diptych are its frames' latents side by side. The variance is zero: a sample
equals the mode.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from train.pocket import scenes
from train.pocket.linear import LATENTS, LinearAutoencoder, spell
from train.pocket.loop import (
    State,
    device,
    learning_rate,
    mixed_precision,
    running_average,
    set_rate,
    step_seed,
)
from train.pocket.presets import PRESETS, Preset

LINEAR_PEAK, PEAK, BLACK = 3e-3, 5e-4, -1.0
LINEAR_NOISE, NOISE = 0.03, 0.1  # on the latents, as a sampler's latents are never exact
TRAIN_SEED, TEST_SEED = 1, 901


def build(preset: Preset) -> AutoencoderKL:
    levels = len(preset.vae_widths)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=preset.vae_widths,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=2 * preset.panel,  # the side of a 2x2 grid, as 1024 is for FLUX
        scaling_factor=1.0,  # the linear code is already normalized
        shift_factor=0.0,
    )


def to_tensor(images: np.ndarray, where: str | torch.device = "cpu") -> Tensor:
    """Convert uint8 [..., H, W, 3] to float [B, 3, H, W] in -1..1."""
    flat = np.array(images.reshape(-1, *images.shape[-3:]))
    return torch.from_numpy(flat).to(where).permute(0, 3, 1, 2).float() / 127.5 - 1


def tile(panels: Tensor, rows: int, columns: int) -> Tensor:
    """Tile panels [B rows columns, C, S, S] into grids [B, C, rows S, columns S]."""
    channels, size = panels.shape[1], panels.shape[-1]
    grid = panels.view(-1, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, rows * size, columns * size)


def sample_batch(images: np.ndarray, batch: int, generator: torch.Generator, where: str = "cpu") -> Tensor:
    """Sample `batch` panels as singles, diptychs (some half black) or 2x2 grids, all of one layout."""
    chosen = torch.randint(len(images), (batch,), generator=generator).numpy()
    panels = to_tensor(images[chosen], where)
    rows, columns = ((1, 1), (1, 2), (2, 2))[int(torch.randint(3, (1,), generator=generator))]
    if columns == 2 and rows == 1:
        panels[1::8] = BLACK
    return tile(panels, rows, columns)


@torch.no_grad()
def psnr(encode, decode, images: Tensor) -> float:
    """Return the mean PSNR, in dB, of images [B, 3, H, W] after encoding and decoding, in 8-bit colors."""
    total = 0.0
    for batch in images.split(64):
        drawn = decode(encode(batch)).clamp(-1, 1)
        drawn = ((drawn + 1) * 127.5).round() / 127.5 - 1
        total += (10 * torch.log10(4 / (drawn - batch).square().mean((1, 2, 3)))).sum().item()
    return total / len(images)


def vae_psnr(vae: AutoencoderKL, images: Tensor) -> float:
    return psnr(lambda x: vae.encode(x).latent_dist.mode(), lambda z: vae.decode(z).sample, images)


def reconstruction_loss(encode, decode, images: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Return the mean squared error after decoding a code with noise of a random level up to `most`."""
    code = encode(images)
    level = most * torch.rand(len(code), 1, 1, 1, generator=generator)
    noise = (level * torch.randn(code.shape, generator=generator)).to(code.device)
    with mixed_precision():
        decoded = decode(code + noise)
    return (decoded.float() - images).square().mean()


def train_linear(
    images: np.ndarray, test: Tensor, run: Path, preset: Preset, steps: int
) -> LinearAutoencoder:
    where = device()
    linear = LinearAutoencoder(preset.vae_widths)
    sample = to_tensor(images[:3000])
    linear.start_at_principal_components(sample)
    linear = linear.to(where, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(linear.parameters(), LINEAR_PEAK, betas=(0.9, 0.95))
    state = State(run / "linear.pt", steps, linear=linear, optimizer=optimizer).load()

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        return reconstruction_loss(linear.encode, linear.decode, batch, LINEAR_NOISE, generator)

    def report() -> str:
        return f"linear {psnr(linear.encode, linear.decode, test):.2f} dB"

    _loop(state, optimizer, images, preset.vae_batch, loss, report)
    linear.normalize(sample.to(where))
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
    vae.encoder.requires_grad_(False)
    for spelled in last_layers(vae.decoder):
        spelled.requires_grad_(False)
    average = running_average(vae)
    learning = [parameter for parameter in vae.decoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, PEAK, betas=(0.9, 0.95), weight_decay=0.0)
    state = State(run / "vae.pt", steps, minutes, vae=vae, average=average, optimizer=optimizer).load()

    def encode(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return vae.encode(batch).latent_dist.mode()

    def loss(batch: Tensor, generator: torch.Generator) -> Tensor:
        value = reconstruction_loss(encode, lambda z: vae.decode(z).sample, batch, NOISE, generator)
        average.update_parameters(vae)
        return value

    _loop(state, optimizer, images, preset.vae_batch, loss,
          lambda: f"vae {vae_psnr(average.module, test):.2f} dB")  # fmt: skip
    return average.module


def last_layers(decoder: torch.nn.Module) -> tuple[torch.nn.Module, ...]:
    """Return the layers that pass the linear code through the last norm; their large constants must not move.

    Training them with the rest cost 10 dB within 60 steps.
    """
    return decoder.conv_norm_out, decoder.conv_out, decoder.up_blocks[-1].resnets[0].conv_shortcut


def _loop(state: State, optimizer, images: np.ndarray, batch: int, loss, report) -> None:
    where = device()
    while (passed := state.passed) < 1:
        generator = step_seed(TRAIN_SEED, state.step)
        pixels = sample_batch(images, batch, generator, where).to(memory_format=torch.channels_last)
        set_rate(optimizer, learning_rate(state.step, passed, decay=0.5))
        loss(pixels, generator).backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state.tick()
        if state.step % 100 == 0:
            print(f"{state.step} ({passed:.1%})  {report()}", flush=True)
    state.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--linear-steps", type=int, help="default: the preset's")
    parser.add_argument("--steps", type=int, help="of the decoder's branches; default: the preset's")
    parser.add_argument("--minutes", type=float, help="of the same: end after these")
    args = parser.parse_args()
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


if __name__ == "__main__":
    main()
