"""The models that the tabs use, opened when needed, and the run that the tabs show."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from PIL import Image

from dsd.files.hub import LoadError
from dsd.generate.drawing import public_name
from dsd.grids.recipes import IDENTITY, Recipe
from dsd.vlm.base import VLM

T = TypeVar("T")


class Lazy(Generic[T]):
    """A callable that opens an object on the first call and returns the same object on later calls."""

    def __init__(self, name: str, opener: Callable[[], T], *, missing: str | None = None) -> None:
        """Store the opener; `missing` is a sentence for visitors that says why there is nothing to open."""
        self.name = name
        self.missing = missing
        self._opener = opener
        self._lock = Lock()
        self._value: T | None = None

    @property
    def is_open(self) -> bool:
        return self._value is not None

    def __call__(self) -> T:
        """Return the object, opened if needed; raise LoadError if it is missing.

        If the opener raises an error, the next call tries again.
        """
        if self.missing:
            raise LoadError(self.missing)
        with self._lock:  # two visitors at the same time must not load it twice
            if self._value is None:
                self._value = self._opener()
            return self._value


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A pipeline and its description on the page."""

    pipe: Any
    name: str  # the argument of `load_pipeline`
    weights: str | None = None
    description: str = ""  # one or two sentences on what the model is good for
    license: str = ""
    missing: str | None = None  # why the requested model does not run here
    warn: Callable[[Image.Image], str | None] | None = None  # why an image does not suit the model, or None
    describer: Lazy[VLM] | None = None  # describes, in words, images like those that this model draws
    recipe: Recipe = IDENTITY  # the questions for the describer

    @property
    def side_range(self) -> tuple[int, int]:
        """Return the smallest and largest frame side on the page: half and twice the model's frame size."""
        best = self.pipe.frame_size
        return max(32, best // 2), 2 * best


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The models and the run of the Grids and Curate tabs."""

    teacher: Lazy[Any]  # a `dsd.grids.teacher.Teacher`
    recipe: Recipe  # the wording of the teacher's and the judge's prompts
    judge: Lazy[VLM] | None = None  # None if there is no judge for this teacher's grids
    about: str = ""  # tells visitors which models draw and judge
    run: Path | None = None  # the folder of the run to review
    own: bool = False  # the run belongs to the user who started the app, so labels are saved in it


def shown_name(source: str) -> str:
    """Return a model's or weights' name for visitors: the last part of a local path, other names in full."""
    return public_name(os.path.abspath(source) if Path(source).exists() else source)
