"""Tools for the reference: cropped to the subject, on white, back to the original, as the model sees it."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gradio as gr
from PIL import Image

from dsd.files import intake
from dsd.files.rgb import to_rgb
from dsd.generate import drawing
from dsd.ui import uploads
from dsd.ui.generate.form import NO_PROMPT, Form
from dsd.ui.messages import explain, notice, problem, show
from dsd.ui.models import Loaded

NO_BACKGROUNDS = "Removing backgrounds needs an extra that is missing here: pip install rembg"
VISIBLE = {"PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "AVIF"}  # formats that browsers show
NO_BOX = "the box is too small: drag one of at least {0} x {0} pixels of your image"


def can_remove_background() -> bool:
    """Return whether the optional package that removes backgrounds is installed."""
    return find_spec("rembg") is not None


class References:
    """Event handlers of the reference; `original` is the file that the visitor gave, if it was changed."""

    def __init__(self, loaded: Loaded, form: Form) -> None:
        self.loaded, self.form = loaded, form

    def see(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the reference as the model will see it, and the remarks on it."""
        if not values["image"]:
            return {"seen": None, "tools": gr.Row(visible=False), "remarks": show()}
        try:
            reference = uploads.open_upload(values["image"])
            options = self.form.options({"prompt": NO_PROMPT, **values})
            frame = drawing.fit_reference(self.loaded.pipe, reference, options)
            said = remarks(reference, self.loaded)
        except Exception as error:  # the page must always get an answer
            return {"seen": None, "tools": gr.Row(visible=False), "remarks": show(problem(explain(error)))}
        return {"seen": frame, "tools": gr.Row(visible=True), "remarks": said}

    def make_visible(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return an upload that browsers cannot show, such as TIFF or HEIC, as an image that they can."""
        try:
            image = uploads.open_upload(values["image"])
            if image.format in VISIBLE:
                return {}
            shown = to_rgb(image)
        except ValueError:  # `see` says what is wrong
            return {}
        if text := intake.image_notice(image):
            gr.Info(text)  # the PNG has one frame
        return {"image": shown}

    def crop(self, values: dict[str, Any]) -> dict[str, Any]:
        """Crop the image to `box`: left, top, right and bottom as shares of its sides, or "" for none."""
        return self._change(values, lambda image: crop(image, values["box"])) if values["box"] else {}

    def remove_background(self, values: dict[str, Any]) -> dict[str, Any]:
        """Put the subject on white."""
        return self._change(values, remove_background)

    def _change(self, values: dict[str, Any], change: Callable[[Image.Image], Image.Image]) -> dict[str, Any]:
        try:
            image = to_rgb(uploads.open_upload(values["image"]))
            changed = to_rgb(change(image))
        except Exception as error:  # the page must always get an answer
            return {"remarks": show(problem(explain(error)))}
        original = values["original"] or values["image"]
        return {"image": changed, "original": original, "restore": gr.Button(visible=True)}

    def restore(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the image as the visitor gave it."""
        return {"image": values["original"], "original": None, "restore": gr.Button(visible=False)}

    def forget(self) -> dict[str, Any]:
        """Forget the original when another image takes its place."""
        return {"original": None, "restore": gr.Button(visible=False)}


def remarks(image: Image.Image, loaded: Loaded) -> gr.HTML:
    """Return the notices on an image that this model is to see."""
    warning = loaded.warn(image) if loaded.warn else None
    return show(*map(notice, filter(None, (intake.image_notice(image), warning))))


def crop(image: Image.Image, box: str) -> Image.Image:
    """Return the part of an image in a box; raise ValueError if it is too small or not a box."""
    try:
        left, top, right, bottom = (min(1.0, max(0.0, float(share))) for share in box.split())
    except ValueError as error:
        raise ValueError(f"the box must be four numbers, got {box[:40]!r}") from error
    corners = (left * image.width, top * image.height, right * image.width, bottom * image.height)
    left, top, right, bottom = map(round, corners)
    if min(right - left, bottom - top) < intake.MIN_SIDE:
        raise ValueError(NO_BOX.format(intake.MIN_SIDE))
    return image.crop((left, top, right, bottom))


def remove_background(image: Image.Image) -> Image.Image:
    """Return the subject on a transparent background; raise ValueError without the optional package."""
    try:
        import rembg
    except ImportError as error:
        raise ValueError(NO_BACKGROUNDS) from error
    return rembg.remove(image)
