"""The pocket VAE, a stock `AutoencoderKL` (f8, 16 channels): `python -m train.pocket.vae RUN`.

The encoder is not trained but written down: the principal components of 8x8 blocks, in closed form, spelled in the
weights of the stock class. So latents are final before any training starts, each block's latents depend on that block
alone (a diptych's latents are its frames' latents side by side), and the teacher can be trained while the decoder,
the only part that is learnt, still improves. The variance is zero: sampling and taking the mode are the same thing.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from train.pocket import scenes
from train.pocket.loop import State, device, learning_rate, running_average, step_seed
from train.pocket.presets import PRESETS, Preset

PEAK, NOISE, BLACK = 1.5e-3, 0.05, -1.0
TRAIN_SEED, TEST_SEED = 1, 901
LATENTS = 16
CONSTANT = 100.0  # dwarfs every component, so that the last GroupNorm divides by nearly the same number everywhere


def build(preset: Preset) -> AutoencoderKL:
    levels = len(preset.vae_widths)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=preset.vae_widths,
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=2 * preset.panel,  # the side of a 2x2 sheet, as FLUX's 1024 is
        scaling_factor=1.0,  # the encoder's own scale is already one
        shift_factor=0.0,
    )
    _silence_residuals(vae)
    return vae


def _silence_residuals(vae: AutoencoderKL) -> None:
    """Every residual branch starts at zero: the encoder's stay so, the decoder's train faster from there."""
    for name, parameter in vae.named_parameters():
        if ".conv2." in name or ".to_out.0." in name:
            torch.nn.init.zeros_(parameter)


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [..., H, W, 3] -> float [B, 3, H, W] in -1..1."""
    flat = pictures.reshape(-1, *pictures.shape[-3:])
    return torch.from_numpy(np.ascontiguousarray(flat)).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---------------------------------------------------------------- the encoder, in closed form


def space_to_depth(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 4 C, H/2, W/2], channels ordered (row, column, C) as `_block_conv` writes them."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def principal(x: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `keep` strongest components of x [B, C, H, W] over all places: basis [keep, C], mean [C], deviation [keep]."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((rows - mean).T))
    return vectors.T.flip(0)[:keep].float(), mean.float(), values.flip(0)[:keep].clamp_min(0).sqrt().float()


def project(x: Tensor, basis: Tensor) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", basis, x)


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Spell the block PCA of `pictures` [B, 3, H, W] in the encoder's weights (pixels -> 2x2 -> 4x4 -> 8x8 blocks)."""
    encoder, widths = vae.encoder, vae.config.block_out_channels
    half = space_to_depth(pictures)  # [B, 12, H/2, W/2]
    quarter = space_to_depth(half)  # [B, 48, H/4, W/4]
    basis, _, _ = principal(quarter, min(widths[1], quarter.shape[1]))
    eighth = space_to_depth(project(quarter, basis))  # [B, 4 x kept, H/8, W/8]
    last, mean, deviation = principal(eighth, LATENTS)

    _identity_conv(encoder.conv_in, 3)
    _block_conv(_down(encoder, 0), torch.eye(12))
    _identity_conv(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)
    _block_conv(_down(encoder, 1), basis)
    _identity_conv(encoder.down_blocks[2].resnets[0].conv_shortcut, len(basis))
    _block_conv(_down(encoder, 2), last)
    _signed_pairs(encoder, widths[3])
    _read_out(encoder, last @ mean, deviation)


def _down(encoder: torch.nn.Module, level: int) -> torch.nn.Conv2d:
    return encoder.down_blocks[level].downsamplers[0].conv


def _identity_conv(conv: torch.nn.Conv2d, channels: int) -> None:
    conv.weight.zero_(), conv.bias.zero_()
    middle = conv.kernel_size[0] // 2
    conv.weight[range(channels), range(channels), middle, middle] = 1.0


def _block_conv(conv: torch.nn.Conv2d, basis: Tensor) -> None:
    """A stride-2 convolution that reads each 2x2 block once: `basis` [K, 4 C] over (row, column, C)."""
    conv.weight.zero_(), conv.bias.zero_()
    kept, channels = len(basis), basis.shape[1] // 4
    conv.weight[:kept, :channels, :2, :2] = basis.view(kept, 2, 2, channels).permute(0, 3, 1, 2)


def _signed_pairs(encoder: torch.nn.Module, width: int) -> None:
    """Channels of each norm group: its components as (+p, -p), the rest constants (+K, -K)."""
    conv, norm = encoder.down_blocks[3].resnets[0].conv_shortcut, encoder.conv_norm_out
    conv.weight.zero_(), conv.bias.zero_()
    size, per_group = width // norm.num_groups, LATENTS // norm.num_groups
    for channel in range(width):
        group, place = divmod(channel, size)
        sign = 1.0 if place % 2 == 0 else -1.0
        if place < 2 * per_group:
            conv.weight[channel, group * per_group + place // 2, 0, 0] = sign
        else:
            conv.bias[channel] = sign * CONSTANT
    norm.weight.fill_(CONSTANT * ((size - 2 * per_group) / size) ** 0.5)  # undoes the division by the deviation
    norm.bias.zero_()


def _read_out(encoder: torch.nn.Module, mean: Tensor, deviation: Tensor) -> None:
    """latent = (silu(p) - silu(-p) - mean) / scale, and silu(p) - silu(-p) = p. The log-variance is -30."""
    scale = deviation.sqrt() * (deviation.mean()).sqrt()  # half-way to whitening: details count, noise does not
    conv, norm = encoder.conv_out, encoder.conv_norm_out
    conv.weight.zero_(), conv.bias.zero_()
    size, per_group = conv.in_channels // norm.num_groups, LATENTS // norm.num_groups
    for k in range(LATENTS):
        channel = (k // per_group) * size + 2 * (k % per_group)
        conv.weight[k, channel, 1, 1], conv.weight[k, channel + 1, 1, 1] = 1 / scale[k], -1 / scale[k]
        conv.bias[k] = -mean[k] / scale[k]
    conv.bias[LATENTS:] = -30.0


# ---------------------------------------------------------------- the decoder, learnt


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, batch: int = 256) -> Tensor:
    """[B, 3, H, W] -> latents [B, 16, H/8, W/8], shifted and scaled as the pipelines do."""
    means = [vae.encode(part.to(vae.device)).latent_dist.mode() for part in pictures.split(batch)]
    return (torch.cat(means) - vae.config.shift_factor) * vae.config.scaling_factor


def tile(panels: Tensor, rows: int, columns: int) -> Tensor:
    """[B rows columns, C, S, S] -> [B, C, rows S, columns S]."""
    channels, size = panels.shape[1], panels.shape[-1]
    grid = panels.view(-1, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(-1, channels, rows * size, columns * size)


def sample_batch(pictures: np.ndarray, batch: int, generator: torch.Generator) -> Tensor:
    """`batch` panels as singles, diptychs (some half black) or 2x2 sheets, all of one layout."""
    chosen = torch.randint(len(pictures), (batch,), generator=generator).sort().values.numpy()
    panels = to_tensor(pictures[chosen])[torch.randperm(batch, generator=generator)]
    rows, columns = ((1, 1), (1, 2), (2, 2))[int(torch.randint(3, (1,), generator=generator))]
    if columns == 2 and rows == 1:
        panels[1::8] = BLACK
    return tile(panels, rows, columns)


def loss(vae: torch.nn.Module, pictures: Tensor, generator: torch.Generator) -> Tensor:
    with torch.no_grad():
        mean = vae.encode(pictures).latent_dist.mode()
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    error = vae.decode(mean + NOISE * noise).sample - pictures
    return error.square().mean() + 0.05 * error.abs().mean()


@torch.no_grad()
def psnr(vae: AutoencoderKL, pictures: Tensor) -> float:
    """Mean over pictures [B, 3, H, W], in dB, of what encoding and decoding returns, in 8-bit colours."""
    total = 0.0
    for batch in pictures.split(64):
        drawn = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        drawn = ((drawn + 1) * 127.5).round() / 127.5 - 1
        total += (10 * torch.log10(4 / (drawn - batch).square().mean((1, 2, 3)))).sum().item()
    return total / len(pictures)


def train(vae: AutoencoderKL, pictures: np.ndarray, test: Tensor, run: Path, preset: Preset, steps: int) -> AutoencoderKL:
    where = device()
    vae = vae.to(where, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(False)
    average = running_average(vae)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), PEAK, betas=(0.9, 0.95), weight_decay=1e-2)
    state = State(run / "vae.pt", vae=vae, average=average, optimizer=optimizer).load()
    while state.step < steps:
        generator = step_seed(TRAIN_SEED, state.step)
        batch = sample_batch(pictures, preset.vae_batch, generator).to(where, memory_format=torch.channels_last)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(state.step, steps, PEAK)
        loss(vae, batch, generator).backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(vae)
        state.tick()
        if state.step % 250 == 0:
            print(f"vae {state.step}/{steps}  {psnr(average.module, test.to(where)):.2f} dB", flush=True)
    state.save()
    return average.module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--steps", type=int, help="default: the preset's; 0 writes the encoder and stops")
    args = parser.parse_args()
    preset = PRESETS[args.preset]
    steps = preset.vae_steps if args.steps is None else args.steps
    torch.manual_seed(0)
    families = scenes.render(TRAIN_SEED, preset.families, preset.panel, args.run / "renders")
    test = to_tensor(scenes.render(TEST_SEED, 64, preset.panel, args.run / "renders"))
    vae = build(preset)
    write_encoder(vae, to_tensor(families[:400]))
    vae = train(vae, families.reshape(-1, *families.shape[2:]), test[:128], args.run, preset, steps)
    vae.half().save_pretrained(args.run / "vae")
    print(f"vae: {psnr(vae.float(), test.to(vae.device)):.2f} dB on {len(test)} unseen renders", flush=True)


if __name__ == "__main__":
    main()
