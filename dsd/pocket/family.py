"""The version of the drawn world that the shipped pocket weights know, read from their config.

Weights with 64-pixel panels know three lights that only tint a panel; weights with 128-pixel panels know six
lights that shade and cast shadows.
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
    """A version of the drawn world: panels of `panel` x `panel` pixels in these lights."""

    panel: int = 128
    lights: tuple[str, ...] = LIGHTS


@cache
def shipped() -> Family:
    """Return the family of the shipped weights, or, without weights, the one that training produces."""
    config = SCORER / "config.json"
    flat = config.exists() and json.loads(config.read_text(encoding="utf-8"))["size"] == 64
    return Family(panel=64, lights=FLAT_LIGHTS) if flat else Family()
