"""Restoring of settings: from an image that was made here to the fields of the page.

The file is untrusted, so settings that the page does not offer are refused with the value and the reason.
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
    """Return the settings of an image that was made here, and the reference it was made from.

    Returns (image, prompt, count, steps, image, text and embedded guidance, seed, width, height, fit,
    quality, new seed, box, note, own path). `model_hash` identifies the loaded model.
    """
    # The image itself, not gr.skip(): an update would rebuild the component and lose its `preprocess`.
    keep = (image, *[gr.skip()] * 12, gr.Group(visible=False), "", None)
    if not image or not provenance.carries_settings(image):
        return keep
    try:
        settings = provenance.read_settings(image)
        options, frame = drawing.options_from(settings), provenance.read_reference(image)
        values = fields(options, loaded)
    except Exception as error:  # an untrusted file can cause any error
        gr.Warning(html.escape(explained(error)), title="Its settings were not taken over")
        return keep
    said = notice(_said(settings, model_hash))
    return frame, options.prompt, *values, False, gr.Group(visible=True), said, image


def fields(options: Options, loaded: Loaded) -> tuple[Any, ...]:
    """Return these options as values of the page's fields; raise ValueError for values it does not offer.

    Returns (count, steps, image, text and embedded guidance, seed, width, height, fit, quality). The count is
    1, because a file carries the options of its own image only.
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
    """Raise ValueError for a size or a number that the page does not offer."""
    check_size(loaded, options.width, options.height)
    for name, (low, high) in OFFERED.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise ValueError(
                f"it was made with {name.replace('_', ' ')} {value}; the page offers {low} to {high}"
            )


def check_size(loaded: Loaded, width: int, height: int) -> None:
    """Raise ValueError for a frame size that the page does not offer with this model."""
    low, high = loaded.side_range
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, int | float) or not low <= side <= high:
            raise ValueError(f"{name} must be from {low} to {high} with this model, got {side}")


def offered_quality(options: Options) -> str:
    """Return the name of the page's quality that draws as these options did, even if it was renamed since."""
    plan = options.plan
    for name, quality in QUALITIES.items():
        if replace(quality, name=plan.name, steps=plan.steps) == plan:
            return name
    raise ValueError(
        f"it was drawn in a way of its own ({plan.solver}, guidance from step "
        f"{plan.guidance_start} to {plan.guidance_stop:.0%}); the page offers {', '.join(QUALITIES)}"
    )


def _said(settings: dict[str, Any], model_hash: str) -> str:
    text = "This image was made here: its settings and the image it was made from are back."
    if settings.get("model_hash") != model_hash:
        text += " It was made by another model, so this one will draw it differently."
    return text
