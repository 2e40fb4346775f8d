"""The values of the Create tab's fields, by name, as a page sends them."""

from dsd.ui.generate.form import FIELDS
from tests import tiny

DEFAULTS = {
    "prompt": "a hat", "count": 1, "steps": 2, "image_guidance": 1.5, "text_guidance": 1.0, "guidance": None,
    "seed": 7, "width": tiny.FRAME, "height": tiny.FRAME, "fit": "crop", "quality": "best",
}  # fmt: skip
assert list(DEFAULTS) == list(FIELDS)


def form(image: str | None = None, **changes) -> dict:
    return {"image": image, **DEFAULTS, **changes}
