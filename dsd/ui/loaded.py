"""What every tab needs to know about the model that runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline and the words that go with it."""

    pipe: Any
    name: str  # what `load_pipeline` was called with
    weights: str | None = None
    description: str = ""  # what it is good for, one or two sentences
    licence: str = ""
    warn: Callable[[Image.Image], str | None] | None = None  # says why a picture will not suit this model

    @property
    def side_range(self) -> tuple[int, int]:
        """Sides of a frame that the page offers: from half to twice what the model likes best."""
        best = self.pipe.frame_size
        return max(32, best // 2), 2 * best
