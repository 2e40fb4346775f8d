"""A linear autoencoder, and its exact conversion to a stock `AutoencoderKL`.

On two CPU cores an `AutoencoderKL` learns slowly from scratch, but its linear part alone learns in minutes.
So the linear part is trained first and written into the stock weights with every residual branch at zero;
then the branches learn the rest. The only obstacle is the last norm and SiLU of encoder and decoder; see
`_spell_last`.
"""

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

BLOCK, HALF, LATENTS = 8, 4, 16
LAST = 4  # channels before the last convolution of the decoder
CONSTANT = 100.0  # far above every signal, so that the last norm divides by nearly the same number everywhere


class LinearAutoencoder(nn.Module):
    """A linear encoder, of 4x4 and then 8x8 blocks, and a decoder with only the stock upsampling layers."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        c0, c1, c2, c3 = widths
        self.fine = nn.Conv2d(3, c1, HALF, stride=HALF, bias=False)
        self.coarse = nn.Conv2d(c1, LATENTS, 2, stride=2)
        self.conv_in = nn.Conv2d(LATENTS, c3, 3, padding=1)
        self.ups = nn.ModuleList([nn.Conv2d(c, c, 3, padding=1) for c in (c3, c2, c1)])
        self.narrow = nn.ModuleList([nn.Conv2d(c3, c2, 1), nn.Conv2d(c2, c1, 1), nn.Conv2d(c1, LAST, 1)])
        self.conv_out = nn.Conv2d(LAST, 3, 3, padding=1)
        for module in (self.conv_in, *self.ups, *self.narrow, self.conv_out):
            nn.init.orthogonal_(module.weight)
            nn.init.zeros_(module.bias)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.coarse(self.fine(pixels))  # [B, 3, H, W] -> [B, 16, H/8, W/8]

    def decode(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for up, narrow in zip(self.ups, self.narrow, strict=True):
            x = narrow(up(functional.interpolate(x, scale_factor=2.0)))
        return self.conv_out(x)

    @torch.no_grad()
    def start_at_principal_components(self, pixels: Tensor) -> None:
        """Set the encoder to the best linear code of blocks, half whitened: more weight for details."""
        basis, _, _ = principal(blocks(pixels, HALF), self.fine.out_channels)
        self.fine.weight.copy_(basis.view_as(self.fine.weight))
        last, mean, deviation = principal(blocks(self.fine(pixels), 2), LATENTS)
        scale = (deviation * deviation.mean()).sqrt()[:, None]
        self.coarse.weight.copy_((last / scale).view_as(self.coarse.weight))
        self.coarse.bias.copy_(-(last @ mean) / scale[:, 0])

    @torch.no_grad()
    def normalize(self, pixels: Tensor) -> None:
        """Bring each channel of the code to mean 0 and all to deviation 1, with the same decoded images."""
        code = self.encode(pixels)
        shift, scale = code.mean((0, 2, 3)), code.std()
        offset = (self.conv_in.weight * shift[:, None, None]).sum((1, 2, 3))
        self.conv_in.bias += offset  # exact except at the border
        self.conv_in.weight *= scale
        self.coarse.bias.copy_((self.coarse.bias - shift) / scale)
        self.coarse.weight /= scale


def blocks(x: Tensor, side: int) -> Tensor:
    """Cut [B, C, H, W] into rows of single blocks [n, C side side]."""
    return functional.unfold(x, side, stride=side).transpose(1, 2).reshape(-1, x.shape[1] * side * side)


def principal(rows: Tensor, keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the `keep` strongest components of rows [n, C]: basis [keep, C], mean [C], deviation [keep]."""
    rows = rows.double()
    values, vectors = torch.linalg.eigh(torch.cov((rows - rows.mean(0)).T))
    basis, deviation = vectors.T.flip(0)[:keep], values.flip(0)[:keep].clamp_min(0).sqrt()
    return basis.float(), rows.mean(0).float(), deviation.float()


@torch.no_grad()
def spell(linear: LinearAutoencoder, vae: AutoencoderKL) -> None:
    """Write `linear` into `vae`, and silence its residual branches by zeroing their last convolutions."""
    for name, parameter in vae.named_parameters():
        if ".conv2." in name or ".to_out.0." in name:
            nn.init.zeros_(parameter)
    _spell_encoder(linear, vae.encoder)
    _spell_decoder(linear, vae.decoder)


def _spell_encoder(linear: LinearAutoencoder, encoder: nn.Module) -> None:
    downs = [block.downsamplers[0].conv for block in encoder.down_blocks[:3]]
    wider = [block.resnets[0].conv_shortcut for block in encoder.down_blocks[1:]]
    _identity(encoder.conv_in, 3)
    # 2x2 pixels to 12 channels in the order (row, column, color), kernel [12, 3, 2, 2]
    _write(downs[0], torch.eye(12).view(12, 2, 2, 3).permute(0, 3, 1, 2))
    _identity(wider[0], 12)
    _write(downs[1], _regroup(linear.fine.weight))
    _identity(wider[1], linear.fine.out_channels)
    _write(downs[2], linear.coarse.weight, linear.coarse.bias)
    signals = nn.Conv2d(wider[2].in_channels, LATENTS, 1)
    _identity(signals, LATENTS)
    readout = torch.eye(2 * LATENTS, LATENTS)[..., None, None]  # zero weights for the log-variance half
    bias = torch.cat([torch.zeros(LATENTS), torch.full((LATENTS,), -30.0)])
    _spell_last(signals, readout, bias, wider[2], encoder.conv_norm_out, encoder.conv_out)


def _regroup(weight: Tensor) -> Tensor:
    """Convert a 4x4 kernel over pixels [K, 3, 4, 4] to one over 2x2 blocks as 12 channels [K, 12, 2, 2]."""
    split = weight.view(-1, 3, 2, 2, 2, 2)  # [K, color, block row, row, block column, column]
    return split.permute(0, 3, 5, 1, 2, 4).reshape(-1, 12, 2, 2)


def _spell_decoder(linear: LinearAutoencoder, decoder: nn.Module) -> None:
    _write(decoder.conv_in, linear.conv_in.weight, linear.conv_in.bias)
    for up, block in zip(linear.ups, decoder.up_blocks[:3], strict=True):
        _write(block.upsamplers[0].conv, up.weight, up.bias)
    shortcuts = [block.resnets[0].conv_shortcut for block in decoder.up_blocks[1:]]
    for narrow, shortcut in zip(linear.narrow[:2], shortcuts[:2], strict=True):
        _write(shortcut, narrow.weight, narrow.bias)
    out = linear.conv_out
    _spell_last(linear.narrow[2], out.weight, out.bias, shortcuts[2], decoder.conv_norm_out, decoder.conv_out)


def _spell_last(
    signal: nn.Conv2d, readout: Tensor, bias: Tensor, into: nn.Conv2d, norm: nn.GroupNorm, out: nn.Conv2d
):
    """Write `readout(signal(x))` into layers with a GroupNorm and a SiLU between them.

    Each signal p is carried twice, as +p and -p: then a group's mean is 0, and silu(p) - silu(-p) = p. The
    other channels of a group hold +K and -K, so large that the group's deviation is the same everywhere, and
    the norm's weight cancels it.
    """
    _clear(into, out, norm)
    size, per_group = norm.num_channels // norm.num_groups, signal.out_channels // norm.num_groups
    middle = (out.kernel_size[0] - readout.shape[-1]) // 2
    taps = slice(middle, middle + readout.shape[-1])
    for channel in range(norm.num_channels):
        group, place = divmod(channel, size)
        sign = 1.0 if place % 2 == 0 else -1.0
        if place >= 2 * per_group:
            into.bias[channel] = sign * CONSTANT
            continue
        k = group * per_group + place // 2
        into.weight[channel, : signal.in_channels] = sign * signal.weight[k]
        into.bias[channel] = sign * signal.bias[k]
        out.weight[:, channel, taps, taps] = sign * readout[:, k]
    out.bias.copy_(bias)
    norm.weight.fill_(CONSTANT * ((size - 2 * per_group) / size) ** 0.5)


def _clear(*layers: nn.Module) -> None:
    for layer in layers:
        for parameter in layer.parameters():
            parameter.zero_()


def _identity(conv: nn.Conv2d, channels: int) -> None:
    _clear(conv)
    middle = conv.kernel_size[0] // 2
    conv.weight[range(channels), range(channels), middle, middle] = 1.0


def _write(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """Write a kernel into a larger one, whose other weights become zero."""
    _clear(conv)
    outputs, inputs, height, width = weight.shape
    # In the upper left corner: a stride-2 convolution of the stock class pads only on the right and below.
    conv.weight[:outputs, :inputs, :height, :width] = weight
    if bias is not None:
        conv.bias[:outputs] = bias
