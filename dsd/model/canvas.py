"""The 1x2 canvas `[reference | target]`: fit images to a frame, compose canvases and split them.

Sizes are in pixels of ONE frame; the canvas is twice as wide. Pixel values are in -1..1, so black is -1.
"""

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from dsd.files.rgb import to_rgb

if TYPE_CHECKING:  # torch is slow to import, and commands that only need sizes do without it
    from torch import Tensor

MULTIPLE = 16  # one VAE latent covers 8x8 pixels, and FLUX packs 2x2 latents into one token
LARGEST = 2048  # pixels of a side
LARGEST_DEFAULT = 512  # FLUX can draw larger, but the published weights were trained at 512
FITS = ("crop", "pad")
BLACK = -1.0
WHITE = (255, 255, 255)


def check_size(width: int, height: int) -> None:
    """Raise ValueError unless both sides of a frame are multiples of 16 from 16 to 2048."""
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, Integral) or isinstance(side, bool) or not MULTIPLE <= side <= LARGEST:
            raise ValueError(f"{name} must be a whole number from {MULTIPLE} to {LARGEST}, got {side!r}")
        low = side // MULTIPLE * MULTIPLE
        if side != low:
            raise ValueError(
                f"{name} must be a multiple of {MULTIPLE}, got {side}; try {low} or {low + MULTIPLE}"
            )


def default_frame(vae: Any) -> tuple[int, int]:
    """Return a square frame (width, height): half the image size of the VAE, if any, at most 512."""
    size = getattr(getattr(vae, "config", None), "sample_size", 2 * LARGEST_DEFAULT)
    side = min((size if isinstance(size, int) else min(size)) // 2, LARGEST_DEFAULT)
    side = max(MULTIPLE, side // MULTIPLE * MULTIPLE)
    return side, side


def fit(image: Image.Image, width: int, height: int, mode: str = "crop") -> Image.Image:
    """Return the image as the model sees it: an RGB frame of exactly `width` x `height`.

    "crop" cuts the center to the frame's shape; "pad" keeps the whole image on white. All PIL modes are
    accepted, as `to_rgb` reads them. The input is not changed.
    """
    check_size(width, height)
    if mode not in FITS:
        raise ValueError(f"fit must be one of {', '.join(FITS)}, got {mode!r}")
    if not isinstance(image, Image.Image):
        kind = type(image).__name__
        raise ValueError(f"image must be a PIL image, got {kind}; open it with PIL.Image.open")
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width} x {image.height} pixels")
    rgb = to_rgb(image)
    if mode == "pad":
        return _pad(rgb, width, height)
    return ImageOps.fit(rgb, (width, height), Image.Resampling.LANCZOS)


def _pad(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the whole image, resized and centered on white; `ImageOps.pad` fails for very thin images."""
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    frame = Image.new("RGB", (width, height), WHITE)
    corner = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    frame.paste(image.resize(inner, Image.Resampling.LANCZOS), corner)
    return frame


def to_tensor(images: list[Image.Image]) -> "Tensor":
    """Convert images of one size to float32 pixels [B, 3, H, W] in -1..1."""
    import torch

    stack = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])  # [B, H, W, 3]
    return torch.from_numpy(stack / 255.0 * 2.0 - 1.0).permute(0, 3, 1, 2).contiguous()  # [B, 3, H, W]


def compose(reference: "Tensor") -> "Tensor":
    """Compose references [B, 3, H, W] into condition canvases `[reference | black]` [B, 3, H, 2W]."""
    import torch

    return torch.cat([reference, torch.full_like(reference, BLACK)], dim=-1)  # [B, 3, H, 2W]


def split(canvas: "Tensor") -> "tuple[Tensor, Tensor]":
    """Split pixels [B, 3, H, 2W] or unpacked latents along the last axis into `(reference, target)`."""
    if canvas.shape[-1] % 2:
        raise ValueError(f"a canvas has two frames of one width, got a width of {canvas.shape[-1]}")
    reference, target = canvas.chunk(2, dim=-1)  # [..., 2W] -> 2 x [..., W]
    return reference, target
