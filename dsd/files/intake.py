"""Opening what a stranger hands over: a picture file of any kind, a prompt of any length.

Everything that can be wrong with an upload ends here in a `ValueError` of one plain sentence that says what
to do about it. It does not change the picture: turning, flattening and fitting belong to
`dsd.model.canvas.fit`.
"""

import contextlib
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

MAX_PIXELS = 50_000_000  # a 50-megapixel camera still fits; decoding it takes 200 MB
MIN_SIDE = 16
MAX_PROMPT = 20_000  # characters; beyond it tokenizing alone would keep others waiting
# Pillow would also open formats that call other programs (EPS) or that nobody uploads: fewer means safer.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
READABLE = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"


def open_image(source: str | Path | Image.Image) -> Image.Image:
    """Open, check and decode a picture; whatever is wrong becomes one clear `ValueError`."""
    if isinstance(source, Image.Image):
        return _checked(source, "the picture")
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"there is no file {path}: check the name")
    if path.stat().st_size == 0:
        raise ValueError(f"{_shown(path.name)} is empty (0 bytes): save or upload it again")
    name = _shown(path.name)
    return _decoded(_checked(_opened(path, name), name), name)


def _shown(name: str) -> str:
    """A file's name as it fits into a sentence: of one line, of letters that can be shown, not too long."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f'"{name}"' if len(name) <= 80 else f'"{name[:38]} ... {name[-38:]}"'


def _opened(path: Path, name: str) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _checked says it better
        try:
            return Image.open(path, formats=_readers())
        except Image.DecompressionBombError as error:
            raise ValueError(_too_large(name)) from error
        except PermissionError as error:
            raise ValueError(f"{name} may not be read: check its permissions") from error
        except Exception as error:  # a decoder meeting garbage raises anything from OSError to IndexError
            raise ValueError(f"{name} is not a picture that can be read: use a {READABLE} file") from error


def _readers() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # Pillow can be built without AVIF


def _checked(image: Image.Image, name: str) -> Image.Image:
    """Judge by the header alone, before anything is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(f"{name} ({width} x {height})"))
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"{name} is only {width} x {height} pixels: at least {MIN_SIDE} x {MIN_SIDE} are needed"
        )
    return image


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as in _opened: truncated or damaged data raises anything
        raise ValueError(f"{name} is damaged or cut short: save or upload it again") from error
    return image


def _too_large(what: str) -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{what} is too large: at most {limit} megapixels are accepted, so make it smaller first"


def image_notice(image: Image.Image) -> str | None:
    """What a person should know about a picture that is accepted all the same."""
    if image.format == "MPO":  # a phone's photograph with its depth
        return None
    try:
        frames = getattr(image, "n_frames", 1)
    except Exception:  # it is damaged after its first frame, which is all that is used
        with contextlib.suppress(Exception):
            image.seek(0)
        return "This picture moves, and not all of it can be read: only its first frame is used."
    return f"This picture moves ({frames:,} frames): only its first frame is used." if frames > 1 else None


def check_prompt(prompt: str) -> str:
    """The prompt without blanks around it; empty or absurdly long ones are refused."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("the prompt is empty: say in a few words where the subject should be")
    if len(prompt) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(prompt):,} characters: at most {MAX_PROMPT:,} are accepted")
    _check_whole(prompt)
    return prompt.strip()


def _check_whole(prompt: str) -> None:
    """Half a character cannot be saved, shown or read by any tokenizer."""
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(prompt[error.start]):04X}"
        raise ValueError(
            f"the prompt holds half a character ({half}, number {error.start + 1}): type it again"
        ) from error


def prompt_notice(pipe: Any, prompt: str) -> str | None:
    """Say which words of a prompt the model never reads, or None when it reads them all."""
    tokenizer, limit = _reader(pipe)
    if tokenizer is None:
        return None
    offsets = tokenizer(prompt, return_offsets_mapping=True, truncation=False, verbose=False)[
        "offset_mapping"
    ]
    if len(offsets) <= limit:
        return None
    # The last token read is the end mark, so the first one lost stands at limit - 1.
    cut = prompt[offsets[limit - 1][0] :].strip()
    shown = cut if len(cut) <= 80 else f"{cut[:80].rstrip()} ..."
    return (
        f"The prompt is longer than the {limit} tokens this model reads: "
        f'its last {len(cut):,} characters are cut, from "{shown}" on.'
    )


def _reader(pipe: Any) -> tuple[Any, int]:
    """The tokenizer whose tokens the model reads one by one, and how many of them.

    With two text encoders that is the second (T5); the first (CLIP) adds only one pooled vector.
    """
    tokenizer = getattr(pipe, "tokenizer_2", None) or getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        return None, 0
    return tokenizer, min(int(tokenizer.model_max_length), 512)
