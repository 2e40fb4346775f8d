"""What the tabs need to know about the models that run, and about the run that is shown."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.generate.drawing import public_name
from dsd.grids.recipes import IDENTITY, Recipe
from dsd.ui.late import Late
from dsd.vlm.base import VLM


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline and the words that go with it."""

    pipe: Any
    name: str  # what `load_pipeline` was called with
    weights: str | None = None
    description: str = ""  # what it is good for, one or two sentences
    licence: str = ""
    missing: str | None = None  # why the model that was asked for does not run here
    warn: Callable[[Image.Image], str | None] | None = None  # says why a picture will not suit this model
    describer: Late[VLM] | None = None  # puts pictures of this model's world into words
    recipe: Recipe = IDENTITY  # how it is asked to

    @property
    def side_range(self) -> tuple[int, int]:
        """Sides of a frame that the page offers: from half to twice what the model likes best."""
        best = self.pipe.frame_size
        return max(32, best // 2), 2 * best


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """What the Grids and the Curate tab work with."""

    teacher: Late[Any]  # a `dsd.grids.teacher.Teacher`
    recipe: Recipe  # how it is asked
    judge: Late[VLM] | None = None  # None: nobody can judge this teacher's sheets
    about: str = ""  # what a visitor should know of who draws and who judges
    run: Path | None = None  # the folder to look through
    own: bool = False  # it belongs to who started the app, so that labels are saved in it


def shown_name(source: str) -> str:
    """A model's or weights' name for visitors: of what lies on this machine the last name, never the path."""
    return public_name(os.path.abspath(source) if Path(source).exists() else source)
