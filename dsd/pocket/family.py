"""Which drawn world the shipped pocket weights know; their own files tell.

Weights with panels of 64 pixels know three lights that only tint a panel, those with panels of 128 pixels six
that shade and cast shadows.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIGHTS = ("daylight", "overcast", "sunset left", "sunset right", "moonlight left", "moonlight right")
FLAT_LIGHTS = ("day", "sunset", "night")
SCORER = Path(__file__).parents[2] / "assets" / "pocket" / "scorer"


@dataclass(frozen=True, kw_only=True)
class Family:
    """Panels of `panel` pixels a side, in these lights."""

    panel: int = 128
    lights: tuple[str, ...] = LIGHTS


@cache
def shipped() -> Family:
    """Return the family that ships; in a copy without weights the one that the trainings make."""
    config = SCORER / "config.json"
    flat = config.exists() and json.loads(config.read_text(encoding="utf-8"))["size"] == 64
    return Family(panel=64, lights=FLAT_LIGHTS) if flat else Family()
