"""Provenance of a generated image: settings and reference, written to its PNG and read back.

Each reference is stored losslessly in the file as the frame that the model saw (a PNG, base64 in one text
chunk). A file name or a hash alone could not reproduce the image once the upload is deleted. A 128 x 128
frame takes about 10 kB and a 512 x 512 frame about 0.5 MB.
"""

import base64
import contextlib
import glob
import hashlib
import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

import dsd
from dsd.files import intake, whole
from dsd.files.contact_sheet import MARK

SETTINGS = "dsd"  # name of an iTXt chunk with JSON in UTF-8
# Uncompressed tEXt, because Pillow rejects compressed text that unpacks to more than 1 MB.
REFERENCE = "dsd-reference"
FURTHER = "further_references_sha256"  # in the settings of an image with several references


def image_hash(image: Image.Image) -> str:
    """Return the SHA-256 of mode, size and pixels, which does not depend on the file format."""
    header = f"{image.mode} {image.width} {image.height}\n".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the pixels of an image."""
    return {"dsd": dsd.__version__, **{name: metadata.version(name) for name in ("torch", "diffusers")}}


def save(path: str | Path, image: Image.Image, settings: dict[str, Any], *references: Image.Image) -> Path:
    """Write a lossless PNG that contains `settings` and `references`."""
    text = _mark(settings["prompt"])
    text.add_itxt(SETTINGS, json.dumps(settings, ensure_ascii=False))
    for number, reference in enumerate(references):
        frame = io.BytesIO()
        reference.save(frame, format="PNG")
        text.add_text(_chunk(number), base64.b64encode(frame.getvalue()).decode())
    return _write(path, image, format="PNG", pnginfo=text)


def save_marked(path: str | Path, image: Image.Image, prompt: str) -> Path:
    """Write a lossless PNG that names the prompt and the software, but has no settings to reproduce it."""
    return _write(path, image, format="PNG", pnginfo=_mark(prompt))


def save_pdf(path: str | Path, image: Image.Image, settings: str, resolution: int) -> Path:
    """Write a PDF of one page that names the software and holds the mark and `settings` in its metadata."""
    marks = {"title": Path(path).stem, "subject": MARK, "keywords": settings}
    marks["creator"] = f"dsd {dsd.__version__}"
    return _write(path, image, format="PDF", quality=95, resolution=resolution, **marks)


def _write(path: str | Path, image: Image.Image, **options: Any) -> Path:
    for stale in Path(path).parent.glob(f".{glob.escape(Path(path).name)}.*.part"):  # of a killed command
        stale.unlink(missing_ok=True)
    with whole.replacing(Path(path)) as part:  # a full disk must not destroy the image that has the name
        image.save(part, **options)
    return Path(path)


def _mark(prompt: str) -> PngInfo:
    text = PngInfo()
    text.add_itxt("Description", prompt)
    text.add_text("Source", MARK)
    text.add_text("Software", f"dsd {dsd.__version__}")
    return text


def read_settings(source: str | Path | Image.Image) -> dict[str, Any]:
    """Return the settings that an image was made with; raise ValueError if it has no readable settings."""
    image = intake.open_image(source)
    if SETTINGS not in image.info:
        raise ValueError("this image has no settings: pass an unedited PNG file that this program saved")
    with contextlib.suppress(TypeError, ValueError, RecursionError):  # RecursionError: deeply nested brackets
        settings = json.loads(image.info[SETTINGS])
        if isinstance(settings, dict):
            return settings
    raise ValueError("the settings in this image are damaged: use the original PNG file")


def _chunk(number: int) -> str:
    return f"{REFERENCE}-{number + 1}" if number else REFERENCE


def read_reference(source: str | Path | Image.Image) -> Image.Image:
    """Return the one reference frame exactly as the model saw it; raise ValueError if that cannot be done."""
    frames = read_references(source)
    if len(frames) > 1:
        problem = f"this image was drawn from {len(frames)} references, and only one is read here"
        raise ValueError(f"{problem}: draw it again with python -m dsd.generate --from")
    return frames[0]


def read_references(source: str | Path | Image.Image) -> list[Image.Image]:
    """Return all reference frames exactly as the model saw them; raise ValueError if one cannot be read."""
    image = intake.open_image(source)
    further = None
    with contextlib.suppress(ValueError):  # it has no settings, or damaged ones
        further = read_settings(image).get(FURTHER)
    count = 1 + (len(further) if isinstance(further, list) else 0)
    return [_decode(image.info.get(_chunk(number))) for number in range(count)]


def _decode(text: str | None) -> Image.Image:
    try:
        frame = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        intake.open_image(frame).load()
    except Exception as error:  # decoding an untrusted file can raise any exception
        remedy = "pass an unedited PNG file that this program saved"
        raise ValueError(f"this image has no readable reference: {remedy}") from error
    return frame.convert("RGB")


def carries_settings(source: str | Path | Image.Image) -> bool:
    """Return whether an image contains settings, as written by `save`; False if it cannot be opened."""
    try:
        return SETTINGS in intake.open_image(source).info
    except ValueError:
        return False
