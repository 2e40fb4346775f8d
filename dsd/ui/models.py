"""The models that the tabs use, most of them opened on first use, and the run that the tabs show."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from PIL import Image

from dsd.files.hub import LoadError
from dsd.generate.drawing import public_name
from dsd.generate.ranking import Ranker
from dsd.grids.recipes import IDENTITY, RECIPES, Recipe, recipe_of
from dsd.model.checkpoint import resolve
from dsd.model.presets import DEFAULT, PRESETS, SOMEWHERE, TEACHERS, Preset, Task, family_with_words
from dsd.vlm.base import VLM

T = TypeVar("T")
# Visitors wait in a queue, so an unreachable server must fail quickly.
SERVER = {"timeout": 60, "retries": 1, "patience": 60}
OWN_WEIGHTS = "What it draws well depends on these weights."


class Lazy(Generic[T]):
    """A callable that opens an object on the first call and returns the same object on later calls."""

    def __init__(self, name: str, opener: Callable[[], T], *, missing: str | None = None) -> None:
        self.name, self.missing = name, missing  # `missing` tells visitors why there is nothing to open
        self._opener, self._lock = opener, Lock()
        self._value: T | None = None

    @property
    def host(self) -> str | None:
        """Return the host of a model behind an address, without password; None for one on this machine."""
        return urlsplit(self.name).hostname if "://" in self.name else None

    @property
    def is_open(self) -> bool:
        return self._value is not None

    def __call__(self) -> T:
        """Return the object; raise LoadError if it is missing. After an error, the next call tries again."""
        if self.missing:
            raise LoadError(self.missing)
        with self._lock:  # two visitors at the same time must not load it twice
            if self._value is None:
                self._value = self._opener()
            return self._value


@dataclass(frozen=True, kw_only=True)
class Loaded:
    pipe: Any
    name: str  # the argument of `load_pipeline`
    weights: str | None = None
    description: str = ""  # one or two sentences on what the model is good for
    license: str = ""
    more: str | None = None  # address of a page that says more about it
    tasks: tuple[Task, ...] = (SOMEWHERE,)  # that the weights were trained for, in the family's words
    story: tuple[str, ...] = ()  # example lines of the family's preset
    aspects: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of the family's preset
    missing: str | None = None  # why the requested model does not run here
    warn: Callable[[Image.Image], str | None] | None = None  # why an image does not suit the model, or None
    describer: Lazy[VLM] | None = None  # describes, in words, images like those that this model draws
    recipe: Recipe = IDENTITY  # the questions for the describer
    ranker: Lazy[Ranker] | None = None  # scores images of one request; None if nothing knows such images

    @property
    def side_range(self) -> tuple[int, int]:
        """Return the smallest and largest frame side on the page: half and twice the model's longer side."""
        best = self.pipe.frame_size
        return min(max(32, best // 2), *self.pipe.frame), 2 * best


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """The models and the run of the Grids and Curate tabs."""

    teacher: Lazy[Any]  # a `dsd.grids.teacher.Teacher`
    recipe: Recipe  # the wording of the teacher's and the judge's prompts
    judge: Lazy[VLM] | None = None  # None if there is no judge for this teacher's grids
    about: str = ""  # tells visitors which models draw and judge
    run: Path | None = None  # the folder of the run to review
    own: bool = False  # the run belongs to the user who started the app, so labels are saved in it


def named(what: str, name: str) -> str:
    """Return the role and the name of a model, or nothing for an embedded one, whose name says nothing."""
    return "" if name in PRESETS and PRESETS[name].embedded else f"{what} {name}"


def display_name(source: str) -> str:
    """Return a model's or weights' name for visitors: the last part of a local path, other names in full."""
    return public_name(os.path.abspath(source) if Path(source).exists() else source)


def lazy_judge(name: str | None, *, device: str | None, model: str | None = None) -> Lazy[VLM]:
    """Return the named judge, or the embedded one; all tabs share it, so it is opened once.

    `model` is its name on a server that has several.
    """
    name, missing = name or DEFAULT.name, None
    if name in PRESETS and not Path(PRESETS[name].judge or "").is_dir():
        missing = "the judge is not in this copy yet: python -m train.pocket.judge makes it"

    def open_judge() -> VLM:
        from dsd.vlm.open import open_vlm

        return open_vlm(name, model=model, **(SERVER if "://" in name else {"device": device}))

    return Lazy(name, open_judge, missing=missing)


def judge_knows(judge: str | None, model: str) -> bool:
    """Return whether a judge (None: the embedded one) can assess this model's images.

    The embedded judge knows only its own family's world. A custom model may belong to it: naming the judge
    together with the model means that it does.
    """
    if judge is not None and judge not in TEACHERS:
        return True
    return model == (judge or DEFAULT.name) or (judge is not None and model not in TEACHERS)


def lazy_ranker(
    model: str, *, embedder: str | None, judge: Lazy[VLM] | None, device: str | None
) -> Lazy[Ranker] | None:
    """Return what ranks a model's images, or None without an image encoder that knows them."""
    preset = resolve(model)
    family = PRESETS.get(preset.like, preset)
    if not (embedder or family.ranker or family.embedder):
        return None

    def open_here() -> Ranker:
        from dsd.evaluation.rankers import open_ranker

        return open_ranker(preset, embedder=embedder, judge=judge and judge(), device=device)

    return Lazy(embedder or family.ranker or family.embedder, open_here)


def describe_model(
    pipe: Any,
    name: str,
    *,
    weights: str | None,
    describer: Lazy[VLM] | None,
    ranker: Lazy[Ranker] | None = None,
) -> Loaded:
    """Return a loaded pipeline with what its preset says about it."""
    preset, warn = resolve(name), None
    family = PRESETS.get(preset.like, preset)
    if preset.knows_world:
        from dsd.pocket.scorer import warning as warn
    tasks = family_with_words(preset).tasks_of(pipe.trained_tasks)
    styles = "".join(f" Style: {style.report}." for style in pipe.styles)
    return Loaded(
        pipe=pipe, name=name, weights=weights, warn=warn, describer=describer, ranker=ranker,
        description=(OWN_WEIGHTS if weights else preset.description) + styles,
        more=family.more, tasks=tasks, story=family.story, aspects=family.aspects,
        license="" if pipe.license == Preset.license else pipe.license,  # an unknown license is not shown
        recipe=recipe_of(describer.name if describer else name),
    )  # fmt: skip


def lazy_wheel(
    teacher: str, *, judge: Lazy[VLM] | None, run: Path | None, device: str | None, **large: Any
) -> Wheel:
    """Return what the Grids and Curate tabs work with.

    `large` holds `offload` and `quantize`, which only a large teacher needs.
    """
    preset, sample = TEACHERS[teacher], Path(PRESETS[DEFAULT.name].run or "none")

    def open_teacher() -> Any:
        from dsd.grids.teacher import load_teacher

        return load_teacher(teacher, device=device, **({} if preset.embedded else large))

    return Wheel(
        teacher=Lazy(teacher, open_teacher), recipe=RECIPES[preset.recipe], judge=judge,
        about=preset.about_grids or f"{teacher} draws them here.",
        run=run or (sample if sample.is_dir() else None), own=run is not None,
    )  # fmt: skip
