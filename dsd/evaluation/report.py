"""One HTML file with every image, score and reason, which opens from disk and loads nothing from elsewhere.

Its data are JSON in the page, so that `read` and `write` can add to a page that exists. Images are WebP of at
most 256 pixels a side; the lossless ones are in the folder beside it.
"""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any, TypedDict

from PIL import Image

from dsd.files import jsonl

NAME = "report.html"
TEMPLATE = Path(__file__).with_name("report.html")
SIDE, QUALITY = 256, 85
BEGIN, END = '<script id="data" type="application/json">', "</script>"


class PageAbout(TypedDict):
    """What is read of the description on a page."""

    id: str


class Page(TypedDict):
    """What is read of a page's data."""

    about: PageAbout


def write(folder: Path, data: dict[str, Any]) -> None:
    """Write the page into the folder."""
    before, after = TEMPLATE.read_text(encoding="utf-8").split("{data}")
    page = before + _to_script(data) + after
    jsonl.write_atomic(folder / NAME, page.encode())


def read(folder: Path) -> dict[str, Any]:
    """Return the data of a page; raise ValueError if the folder has none."""
    file = folder / NAME
    if not file.is_file():
        raise ValueError(f"there is no {file}: run train.evaluate CHECKPOINT... --out {folder} first")
    match = re.search(f"{re.escape(BEGIN)}(.*?){END}", file.read_text(encoding="utf-8"), re.DOTALL)
    if match is None:
        raise ValueError(f"{file} is damaged: run the command again that made it")
    return jsonl.parse_object(match[1], Page, str(file))


def _to_script(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element, whatever its texts hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def data_url(image: Image.Image) -> str:
    """Return the image for the page."""
    small, stream = image.convert("RGB"), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.save(stream, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
