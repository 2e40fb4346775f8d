"""Settings that come back: from a picture that was made here to the fields of the page.

They come from a stranger's file, so what the page does not offer is refused with the value and the reason.
"""

import html
from dataclasses import replace
from typing import Any

import gradio as gr

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.model import checkpoint
from dsd.model.sampling import QUALITIES
from dsd.ui.loaded import Loaded
from dsd.ui.messages import explained, notice

OFFERED = {"steps": (1, 100), "image_guidance": (0, 10), "text_guidance": (0, 10), "guidance": (0, 10)}


def restore(image: str | None, loaded: Loaded, model_hash: str) -> tuple[Any, ...]:
    """Settings from a picture that was made here, and the reference it was made from.

    Returns (image, prompt, count, steps, image, text and embedded guidance, seed, width, height, fit,
    quality, new seed, box, note, own path). `model_hash` names the model that runs.
    """
    # The picture itself, not gr.skip(): an update would rebuild the component and lose its `preprocess`.
    keep = (image, *[gr.skip()] * 12, gr.Group(visible=False), "", None)
    if not image or not provenance.carries_settings(image):
        return keep
    try:
        settings = provenance.read_settings(image)
        options, frame = drawing.options_from(settings), provenance.read_reference(image)
        values = fields(options, loaded)
    except Exception as error:  # a stranger's file: anything may be wrong with it
        gr.Warning(html.escape(explained(error)), title="Its settings were not taken over")
        return keep
    said = notice(_said(settings, model_hash))
    return frame, options.prompt, *values, False, gr.Group(visible=True), said, image


def fields(options: Options, loaded: Loaded) -> tuple[Any, ...]:
    """What the page's fields have to show for these options; ValueError for what it does not offer.

    Returns (count, steps, image, text and embedded guidance, seed, width, height, fit, quality). One picture:
    the options that a file carries are those of that picture alone.
    """
    check_offered(options, loaded)
    quality = offered_quality(options)
    has_guidance = checkpoint.has_embedded_guidance(loaded.pipe)
    return (
        1,
        options.steps,
        options.image_guidance,
        options.text_guidance,
        gr.skip() if options.guidance is None or not has_guidance else options.guidance,
        options.seed,
        options.width,
        options.height,
        options.fit,
        quality,
    )


def check_offered(options: Options, loaded: Loaded) -> None:
    """ValueError for a size or a number that the page has no place for."""
    check_size(loaded, options.width, options.height)
    for name, (low, high) in OFFERED.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise ValueError(
                f"it was made with {name.replace('_', ' ')} {value}; the page offers {low} to {high}"
            )


def check_size(loaded: Loaded, width: int, height: int) -> None:
    """ValueError for a frame that this model is not offered for."""
    low, high = loaded.side_range
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, int | float) or not low <= side <= high:
            raise ValueError(f"{name} must be from {low} to {high} with this model, got {side}")


def offered_quality(options: Options) -> str:
    """The quality on the page that draws as these options did, whatever it was called then."""
    plan = options.plan
    for name, quality in QUALITIES.items():
        if replace(quality, name=plan.name, steps=plan.steps) == plan:
            return name
    raise ValueError(
        f"it was drawn in a way of its own ({plan.solver}, shift {plan.shift}, guidance from step "
        f"{plan.guidance_start} to {plan.guidance_stop:.0%}); the page offers {', '.join(QUALITIES)}"
    )


def _said(settings: dict[str, Any], model_hash: str) -> str:
    text = "This picture was made here: its settings and the picture it was made from are back."
    if settings.get("model_hash") != model_hash:
        text += " It was made by another model, so this one will draw it differently."
    return text
