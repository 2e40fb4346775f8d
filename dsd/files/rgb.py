"""The one intake of images: any Pillow image as upright RGB in sRGB, for models, judges and datasets."""

import io

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

WHITE = (255, 255, 255)
STRIP = 256  # rows of a high-bit-depth image converted at a time
JUDGED = 1024  # longest side, in pixels, of an image that is sent to a judge
SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}  # color space of a profile that fits a mode
SRGB = ImageCms.createProfile("sRGB")


def to_rgb(image: Image.Image, limit: int | None = None) -> Image.Image:
    """Return the first frame as a viewer shows it, in RGB, with the longest side at most `limit` pixels.

    Deep grays are scaled to 8 bits (PIL would clip them), and transparency is put on white. The input is not
    changed, and the result has no metadata, so that nothing is applied twice. Raise ValueError for a mode
    that cannot be converted.
    """
    position = image.tell()
    if position:
        image.seek(0)
        frame = image.copy()
        image.seek(position)
        image = frame
    rgb = _flatten(_turn_upright(image))
    if limit and max(rgb.size) > limit:
        rgb.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    rgb.info = {}
    return rgb


def _turn_upright(image: Image.Image) -> Image.Image:
    """Return the image in its EXIF orientation, or unchanged if the EXIF data is missing or damaged."""
    try:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except Exception:  # on damaged data Pillow raises anything from SyntaxError to struct.error
        return image


def _flatten(image: Image.Image) -> Image.Image:
    """Return a new RGB image in sRGB without transparency."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith(("I", "F")):
        image = _scale_gray(image)
    if image.mode in ("P", "PA") and image.palette is None:
        raise ValueError("the image's colors are missing, it has no palette: save it as RGB first")
    if image.has_transparency_data:
        return _put_on_white(image, profile)
    if image.mode == "P":
        image = image.convert("RGB")
    try:
        return _to_srgb(image, profile).convert("RGB")
    except ValueError as error:
        raise ValueError(f"cannot read an image of mode {image.mode}; save it as RGB first") from error


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Apply the color profile; return the image unchanged if it is damaged, absent or of another mode."""
    if not profile or image.mode not in SPACES:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != SPACES[image.mode]:
            return image
        intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        return ImageCms.profileToProfile(image, source, SRGB, intent, "RGB", flags=flags)
    except Exception:  # viewers ignore a damaged profile, too
        return image


def _scale_gray(image: Image.Image) -> Image.Image:
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


def _put_on_white(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied: PIL only converts it to the straight-alpha mode
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    is_gray = image.mode in ("L", "LA")
    image = image if image.mode == "RGBA" else image.convert("RGBA")  # a copy of 50 megapixels is 200 MB
    if profile:
        alpha = image.getchannel("A")
        image = _to_srgb(image.convert("L" if is_gray else "RGB"), profile).convert("RGB")
        image.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image).convert("RGB")
