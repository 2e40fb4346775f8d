"""Checks of untrusted input: image files of any kind, prompts of any length.

Any problem with an upload raises a `ValueError` that says in one plain sentence what to do. The image is not
changed here: `dsd.files.rgb.to_rgb` rotates and flattens it.
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

MAX_PIXELS = 50_000_000  # allows 50-megapixel cameras; decoding takes 200 MB
MIN_SIDE = 16
MAX_PROMPT = 20_000  # characters; tokenizing longer prompts would delay other users
# Pillow also opens rare formats and formats that run other programs (EPS): fewer formats are safer.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NEEDS_HEIF = "is HEIC, which needs the package pillow-heif: pip install pillow-heif, or save it as JPEG"
READABLE = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"


def open_image(source: str | Path | Image.Image) -> Image.Image:
    """Open, check and decode an image; raise ValueError for any problem."""
    if isinstance(source, Image.Image):
        return _check_size(source, "the image")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the name")
    name = "".join(letter if letter.isprintable() else "?" for letter in path.name)
    name = f'"{name}"' if len(name) <= 80 else f'"{name[:38]} ... {name[-38:]}"'
    if path.stat().st_size == 0:
        raise ValueError(f"{name} is empty (0 bytes): save or upload it again")
    return _load(_check_size(_open(path, name), name), name)  # check the size before decoding


def decode(content: bytes) -> Image.Image:
    """Open and decode the bytes of an image file of any size, such as a dataset's; raise ValueError."""
    return _load(_open(io.BytesIO(content), "the image"), "the image")


def suffixes() -> set[str]:
    """Return the suffixes of accepted files, also of HEIC without its package."""
    Image.init()
    return {suffix for suffix, kind in Image.EXTENSION.items() if kind in FORMATS} | {".heic", ".heif"}


def _load(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # truncated or damaged data can raise anything
        raise ValueError(f"{name} is damaged or cut short: save or upload it again") from error
    return image


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    heif = _heif()
    formats = [kind for kind in (*FORMATS, *heif) if kind in Image.OPEN]  # Pillow can be built without AVIF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _check_size has a clearer message
        try:
            return Image.open(file, formats=formats)
        except Image.DecompressionBombError as error:
            raise ValueError(_too_large(name)) from error
        except PermissionError as error:
            raise ValueError(f"{name} may not be read: check its permissions") from error
        except Exception as error:  # decoders raise anything on invalid data, from OSError to IndexError
            if not heif and _is_heif(file):
                raise ValueError(f"{name} {NEEDS_HEIF}") from error
            raise ValueError(f"{name} is not an image that can be read: use a {READABLE} file") from error


def _heif() -> tuple[str, ...]:
    """Return Pillow's name of HEIC and HEIF if the optional package that reads them is installed."""
    Image.init()
    try:
        import pillow_heif
    except ImportError:
        return ()
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _is_heif(file: Path | io.BytesIO) -> bool:
    head = file.getvalue()[:12] if isinstance(file, io.BytesIO) else file.open("rb").read(12)
    return head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS


def _check_size(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(f"{name} ({width} x {height})"))
    if min(width, height) < MIN_SIDE:
        size, least = f"{width} x {height}", f"{MIN_SIDE} x {MIN_SIDE}"
        raise ValueError(f"{name} is only {size} pixels: at least {least} are needed")
    return image


def _too_large(what: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{what} is too large: at most {limit} megapixels are accepted, so make it smaller first"


def image_notice(image: Image.Image) -> str | None:
    """Return a notice about an accepted image of which only the first frame is used, or None."""
    if image.format == "MPO":  # a phone photo with depth data
        return None
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # damaged after the first frame, which is the only one used
        with contextlib.suppress(Exception):
            image.seek(0)
        return "This image moves, and not all of it can be read: only its first frame is used."
    return f"This image moves ({frames:,} frames): only its first frame is used." if frames > 1 else None


def check_prompt(prompt: str) -> str:
    """Return the prompt without surrounding whitespace; raise ValueError if it is no text or too long."""
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"the prompt must be text, got {prompt!r}")
    if not prompt or not prompt.strip():
        raise ValueError("the prompt is empty: say in a few words where the subject should be")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt):,} characters: at most {MAX_PROMPT:,} are accepted")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # a lone surrogate cannot be saved, shown or tokenized
        half = f"U+{ord(prompt[error.start]):04X}, number {error.start + 1}"
        raise ValueError(f"the prompt holds half a character ({half}): type it again") from error
    return prompt.strip()


def prompt_notice(pipe: Any, prompt: str, name: str = "The prompt") -> str | None:
    """Return a notice of the part of the prompt that the model cuts off, or None if it reads all of it.

    With two text encoders the second one (T5) decides; the first (CLIP) only adds one pooled vector.
    """
    tokenizer = getattr(pipe, "tokenizer_2", None) or getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return None
    limit = min(int(tokenizer.model_max_length), 512)
    options = {"return_offsets_mapping": True, "truncation": False, "verbose": False}
    offsets = tokenizer(prompt, **options)["offset_mapping"]
    if len(offsets) <= limit:
        return None
    # The last token read is the end token, so the first token lost is at limit - 1.
    cut = prompt[offsets[limit - 1][0] :].strip()
    quote = cut if len(cut) <= 80 else f"{cut[:80].rstrip()} ..."
    return (
        f"{name} is longer than this model reads: its last {len(cut):,} characters are cut, "
        f'from "{quote}" on.'
    )
