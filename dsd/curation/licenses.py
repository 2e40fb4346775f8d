"""The license of a dataset's row: the strictest of all that made it.

Nobody can know the license of every model. A name that is in no line of the table has the license `unknown`.
"""

import re
from collections.abc import Iterable

from dsd.grids.task_writers import WITHOUT_MODEL
from dsd.model.origin import FREE
from dsd.model.presets import FLUX_DEV

UNKNOWN = "unknown"
OWN = {"grid", "", *(writer.__name__ for writer in WITHOUT_MODEL.values())}  # this project's own texts
MODELS = {  # pattern of a model's name, in lower case -> license on its card
    r"pocket": FREE,
    r"flux.*schnell": FREE,
    r"flux.*dev": FLUX_DEV.license,
    r"qwen2\.5-vl-3b": "Qwen Research License (Non-Commercial)",
    r"qwen2(\.5)?-vl-72b": "Qwen License",
    r"qwen2-vl-[27]b|qwen2\.5-vl-(7b|32b)|qwen3-vl": FREE,
    r"smolvlm|idefics3": FREE,
    r"gemma-3": "Gemma Terms of Use",
}


def license_of(model: str) -> str:
    """Return the license of a model's images or texts by its name, or `unknown`."""
    if model in OWN:
        return FREE
    name = model.lower()
    return next(
        (license for pattern, license in MODELS.items() if re.search(rf"\b({pattern})", name)), UNKNOWN
    )


def is_unknown(license: str) -> bool:
    return license.startswith(UNKNOWN)


def strictest(licenses: Iterable[str]) -> str:
    """Return the strictest license: a non-commercial one, then an unknown one, then any that is not free."""
    return min(
        licenses, key=lambda name: ("on-commercial" not in name.lower(), not is_unknown(name), name == FREE)
    )
