"""Provenance of a generated image: settings and reference, written to its PNG and read back.

The reference is stored losslessly in the file as the frame that the model saw (a PNG, base64 in one text
chunk). A file name or a hash alone could not reproduce the image once the upload is deleted. A frame of 64
pixels takes 10 kB, one of 512 pixels about half a megabyte.
"""

import base64
import hashlib
import importlib.metadata
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import dsd
from dsd.files import intake

SETTINGS = "dsd"  # iTXt, JSON in UTF-8
REFERENCE = (
    "dsd-reference"  # uncompressed tEXt: Pillow rejects compressed text that unpacks to more than 1 MB
)
MARK = "AI-generated image"


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of mode, size and pixels, which does not depend on the file format."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the pixels of an image."""
    return {"dsd": dsd.__version__} | {
        name: importlib.metadata.version(name) for name in ("torch", "diffusers")
    }


def save(path: str | Path, image: Image.Image, settings: dict[str, Any], reference: Image.Image) -> Path:
    """Write a lossless PNG that contains `settings` and `reference`."""
    image.save(path, format="PNG", pnginfo=_text(settings, reference))
    return Path(path)


def _text(settings: dict[str, Any], reference: Image.Image) -> PngInfo:
    text = _marked(settings["prompt"])
    text.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    frame = io.BytesIO()
    reference.save(frame, format="PNG")
    text.add_text(REFERENCE, base64.b64encode(frame.getvalue()).decode())
    return text


def save_marked(path: str | Path, image: Image.Image, prompt: str) -> Path:
    """Write a lossless PNG that names the prompt and the software, but has no settings to reproduce it."""
    image.save(path, format="PNG", pnginfo=_marked(prompt))
    return Path(path)


def _marked(prompt: str) -> PngInfo:
    text = PngInfo()
    text.add_itxt("Description", prompt)
    text.add_text("Source", MARK)
    text.add_text("Software", f"dsd {dsd.__version__}")
    return text


def read_settings(source: str | Path | Image.Image) -> dict[str, Any]:
    """Return the settings that an image was made with; raise ValueError if it has no readable settings."""
    image = intake.open_image(source)
    if SETTINGS not in image.info:
        raise ValueError("this image carries no settings: only PNG files saved by this program do, unedited")
    try:
        settings = json.loads(image.info[SETTINGS])
    except (TypeError, ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        raise ValueError("the settings in this image are damaged and cannot be read") from error
    if not isinstance(settings, dict):
        raise ValueError("the settings in this image are damaged and cannot be read")
    return settings


def read_reference(source: str | Path | Image.Image) -> Image.Image:
    """Return the reference frame that an image was made from, exactly as the model saw it."""
    text = intake.open_image(source).info.get(REFERENCE)
    try:
        frame = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        intake.open_image(frame).load()
    except Exception as error:  # an untrusted file can raise anything
        raise ValueError("this image does not carry the reference it was made from") from error
    return frame.convert("RGB")


def carries_settings(source: str | Path | Image.Image) -> bool:
    """Return whether an image contains settings, as written by `save`; False if it cannot be opened."""
    try:
        return SETTINGS in intake.open_image(source).info
    except ValueError:
        return False
