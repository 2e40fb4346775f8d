"""Conversion of any Pillow image to RGB."""

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)
STRIP = 256  # rows of a high-bit-depth image converted at a time


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any PIL mode to RGB: scale deep grays (PIL would clip them), put transparency on white."""
    if image.mode.startswith(("I", "F")):
        return _deep_gray(image).convert("RGB")
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("the image's colors are missing, it has no palette: save it as RGB first")
    if image.has_transparency_data:
        return _on_white(image)
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ValueError(f"cannot read an image of mode {image.mode}; save it as RGB first") from error


def _deep_gray(image: Image.Image) -> Image.Image:
    """Convert modes I;16, I and F to 8 bits; infer the range of I and F from the largest value."""
    values = np.asarray(image)  # [H, W]
    largest, gray = np.fmax.reduce(values, axis=None), np.empty(values.shape, np.uint8)
    if image.mode.startswith("I;16") or largest > 255:
        scale = 1 / 257  # 65535 -> 255
    else:
        scale = 255 if image.mode == "F" and largest <= 1 else 1
    for top in range(0, len(values), STRIP):  # 50 megapixels in float64 take 400 MB
        part = np.nan_to_num(values[top : top + STRIP].astype(np.float64) * scale, posinf=255, neginf=0)
        gray[top : top + STRIP] = np.clip(part.round(), 0, 255)
    return Image.fromarray(gray)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied: PIL only converts it to the straight-alpha mode
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = image if image.mode == "RGBA" else image.convert("RGBA")  # a copy of 50 megapixels is 200 MB
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image).convert("RGB")
