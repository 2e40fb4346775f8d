"""From the names that the app's flags give to the models behind the page; most are opened on first use."""

from pathlib import Path
from typing import Any

from dsd.grids.recipes import IDENTITY, RECIPES, Recipe
from dsd.model.checkpoint import resolve
from dsd.model.presets import DEFAULT, PRESETS, Preset
from dsd.ui.loaded import Lazy, Loaded, Wheel
from dsd.vlm.base import VLM

# Visitors wait in a queue, so an unreachable server must fail quickly.
SERVER = {"timeout": 60, "retries": 1, "patience": 60}
OWN_WEIGHTS = "What it draws well depends on these weights."


def lazy_judge(name: str | None, *, device: str | None) -> Lazy[VLM]:
    """Return the named judge, or the embedded one; all tabs share it, so it is opened once."""
    name, missing = name or DEFAULT.name, None
    if name in PRESETS and not Path(PRESETS[name].judge or "").is_dir():
        missing = "the embedded judge is not in this copy yet: python -m train.pocket.judge makes it"

    def open_judge() -> VLM:
        from dsd.vlm.open import open_vlm

        return open_vlm(name, **(SERVER if "://" in name else {"device": device}))

    return Lazy(name, open_judge, missing=missing)


def judge_knows(judge: str | None, model: str) -> bool:
    """Return whether a judge (None: the embedded one) can assess this model's images.

    The embedded judge knows only its own family's world. A custom model may belong to it: naming the judge
    together with the model means that it does.
    """
    if judge is not None and judge not in PRESETS:
        return True
    return model == (judge or DEFAULT.name) or (judge is not None and model not in PRESETS)


def describe_model(pipe: Any, name: str, *, weights: str | None, describer: Lazy[VLM] | None) -> Loaded:
    """Return a loaded pipeline with what its preset says about it."""
    preset, warn = resolve(name), None
    if preset.knows_world:
        from dsd.pocket.scorer import warning as warn
    is_licensed = pipe.license != Preset.license  # an unknown license is not shown
    styles = "".join(f" Style: {style.report}." for style in pipe.styles)
    return Loaded(
        pipe=pipe,
        name=name,
        weights=weights,
        description=(OWN_WEIGHTS if weights else preset.description) + styles,
        license=pipe.license if is_licensed else "",
        warn=warn,
        describer=describer,
        recipe=recipe_of(name if describer is None or describer.name not in PRESETS else describer.name),
    )


def lazy_wheel(
    teacher: str,
    *,
    judge: Lazy[VLM] | None,
    model: str,
    run: Path | None,
    device: str | None,
    offload: str,
    quantize: str | None = None,
) -> Wheel:
    """Return what the Grids and Curate tabs work with, beside a Generate tab that draws with `model`."""

    def open_teacher() -> Any:
        from dsd.grids.teacher import load_teacher

        large = {} if PRESETS[teacher].embedded else {"offload": offload, "quantize": quantize}
        return load_teacher(teacher, device=device, **large)

    about = PRESETS[teacher].about_grids or f"{teacher} draws them here."
    if model in PRESETS and model != teacher and not PRESETS[model].embedded:
        about += f" python app.py --teacher {model} loads a large one, which needs another 34 GB."
    sample = Path(PRESETS[DEFAULT.name].run or "none")
    return Wheel(
        teacher=Lazy(teacher, open_teacher),
        recipe=recipe_of(teacher),
        judge=judge,
        about=about,
        run=run or (sample if sample.is_dir() else None),
        own=run is not None,
    )


def recipe_of(model: str) -> Recipe:
    """Return the recipe of a preset, or the usual one for any other model."""
    return RECIPES[PRESETS[model].recipe] if model in PRESETS else IDENTITY
