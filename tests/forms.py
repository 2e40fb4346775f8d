"""The values of the Generate tab's fields, by name, as a page sends them."""

from dsd.ui.generate.form import FIELDS
from tests import tiny

DEFAULTS = {
    "prompt": "a hat", "count": 1, "steps": 2, "image_guidance": 1.5, "text_guidance": 1.0, "guidance": None,
    "seed": 7, "width": tiny.FRAME, "height": tiny.FRAME, "fit": "crop", "quality": "best",
}  # fmt: skip
assert list(DEFAULTS) == list(FIELDS)


def form(image: str | None = None, *, new_seed: bool = False, **changes) -> dict:
    return {"image": image, "new_seed": new_seed, **DEFAULTS, **changes}
