"""Contact sheets for visual comparison, a row per case and a column per method, as PNG or WebP."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from dsd.files.rgb import to_rgb

CELL, HEADER, GAP = 128, 24, 2  # pixels
PROMPT_WIDTH, PROMPT_LETTERS = 330, 44  # of the column of prompts, in pixels and in characters per line
INK = (50, 50, 50)
MARK = "AI-generated image"  # "Source" in the text of a PNG


def compose(columns: dict[str, Sequence[Image.Image]], prompts: Sequence[str]) -> Image.Image:
    """Lay out the first `len(prompts)` images of each column under its title, with prompts on the right.

    Images are resized with interpolation, so that small ones do not look blocky.
    """
    step = CELL + GAP
    page = Image.new("RGB", (step * len(columns) + PROMPT_WIDTH, HEADER + step * len(prompts)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(size=13)
    for column, (title, images) in enumerate(columns.items()):
        pen.text((column * step + 2, 4), title[: CELL // 7], fill=INK, font=font)
        for row in range(len(prompts)):
            image = ImageOps.pad(images[row].convert("RGB"), (CELL, CELL), color="white")
            page.paste(image, (column * step, HEADER + row * step))
    for row, prompt in enumerate(prompts):
        position = (step * len(columns) + 12, HEADER + row * step + CELL // 2)
        lines = textwrap.fill(prompt, PROMPT_LETTERS)
        pen.multiline_text(position, lines, fill=INK, font=font, anchor="lm")
    return page


def read_png_in(folder: Path, name: str) -> Image.Image:
    """Return an image of a folder as `read_png` does; raise ValueError for a name that leads out of it."""
    if not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the image {name!r} is not in {folder}: delete the row that names it")
    return read_png(folder / name)


def read_png(path: Path) -> Image.Image:
    """Return an image that `png` wrote, in RGB; raise ValueError if any byte of its pixels is damaged."""
    try:
        with Image.open(path) as image:
            image.verify()  # the checksum of each chunk, which decoding ignores
        with Image.open(path) as image:
            return to_rgb(image)
    except Exception as error:  # on damaged data Pillow raises anything from SyntaxError to struct.error
        raise ValueError(f"{path} cannot be read ({error})") from error


def is_whole(path: Path) -> bool:
    """Return whether there is a PNG, and the checksums of all its parts are right; decode no pixels."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.verify()
    except Exception:  # as in `read_png`
        return False
    return True


def png(image: Image.Image, text: PngInfo | None = None) -> bytes:
    """Return an image as a PNG that contains `text`."""
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=text)
    return stream.getvalue()


def marked_png(image: Image.Image) -> bytes:
    """Return a generated image, or a sheet of such images, as a PNG that says so."""
    text = PngInfo()
    text.add_text("Source", MARK)
    return png(image, text)


def marked_webp(image: Image.Image) -> bytes:
    """Return a sheet of images as a WebP whose EXIF says that they are generated; a fifth of a PNG's size."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.ImageDescription] = MARK
    image.save(stream, "WEBP", quality=92, method=6, exif=exif)
    return stream.getvalue()
