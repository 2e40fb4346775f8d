"""The images of one visit, a page in one browser: compared with their references, their settings used again.

The page's session holds only paths: an image's settings and reference are read from its own file, which is
deleted together with all uploads.
"""

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.model import canvas
from dsd.ui import uploads
from dsd.ui.generate.form import RANGES, Form
from dsd.ui.messages import convert_errors, explain, problem, quiet

KEPT = 24
REFERENCE, BEFORE = "reference", "before"  # what an image is compared with
GONE = f"this image is gone: images leave the server within {uploads.HOURS} hours"
FITS = {"crop": "cropped to fill", "pad": "white added"}


@dataclass(frozen=True)
class Visit:
    """Image files, newest first, and the last two that were picked."""

    paths: tuple[str, ...] = ()
    picked: str | None = None
    before: str | None = None  # the image picked before that

    def drop_deleted(self) -> "Visit":
        paths = tuple(path for path in self.paths if Path(path).is_file())
        return replace(self, paths=paths, before=self.before if self.before in paths else None)


class History:
    """Event handlers without state: every visitor's `Visit` is passed in and returned."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def add(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add the finished `images` to the visit; skip previews, which carry no settings."""
        visit, items = values["visit"], (values["images"] or [])[: RANGES["count"][1]]
        paths = [item["image"]["path"] for item in items if item["image"]]
        paths = [path for path in paths if provenance.carries_settings(path)]
        paths = tuple(dict.fromkeys([*paths, *visit.paths]))  # an image that was there moves to the front
        visit = replace(visit, paths=paths).drop_deleted()
        visit = replace(visit, paths=visit.paths[:KEPT])
        return {"visit": visit, "history": gr.Column(visible=bool(visit.paths)), "strip": strip(visit)}

    def pick(self, visit: Visit, against: str, index: int) -> dict[str, Any]:
        """Pick an image of the strip, show it and compare it."""
        if not 0 <= index < len(visit.paths):
            return {"visit": visit}
        paths, path = visit.paths, visit.paths[index]
        before = visit.before if path == visit.picked else visit.picked
        visit = replace(visit, picked=path, before=before).drop_deleted()
        against = against if visit.before else REFERENCE
        update = {} if visit.paths == paths else {"strip": strip(visit)}
        update |= self.compare({"visit": visit, "against": against})
        radio = gr.Radio(value=against, visible=visit.before is not None)
        panel = {"panel": gr.Column(visible=True), "against": radio, "about": describe(path)}
        return {"visit": visit, **update, **panel}

    def compare(self, values: dict[str, Any]) -> dict[str, Any]:
        """Show the picked image on the right, and what it is compared with on the left."""
        visit = values["visit"]
        try:
            image = uploads.open_upload(visit.picked, GONE)
            if values["against"] == BEFORE and visit.before:
                left, label = uploads.open_upload(visit.before, GONE), "the one picked before"
                left = canvas.fit(left, *image.size, "pad")  # their sizes may differ
            else:
                left, label = provenance.read_reference(image), "its reference"
        except ValueError as error:
            gr.Warning(html.escape(explain(error)))
            return {"pair": gr.Column(visible=False)}
        label = f"Left: {label}. Right: this image."
        slider = gr.ImageSlider((left, visit.picked), format="png", label=label)
        return {"pair": gr.Column(visible=True), "slider": slider}

    def reuse(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the form as it was for the picked image, with its reference."""
        return self.form.restore(self.refer(values))

    def refer(self, values: dict[str, Any]) -> dict[str, Any]:
        path = values["visit"].picked
        with convert_errors():
            uploads.open_upload(path, GONE)
        return {"image": path, "restored": gr.Group(visible=False)}


def strip(visit: Visit) -> list[tuple[str, str]]:
    """Return the images with their seeds, which are read from the file names."""
    return [(path, f"seed {Path(path).stem.removeprefix('dsd-')}") for path in visit.paths]


def describe(path: str) -> str:
    """Return the image's prompt and settings as HTML, or the error if the file cannot be read."""
    try:
        options = drawing.options_from(provenance.read_settings(uploads.open_upload(path, GONE)))
    except ValueError as error:
        return problem(explain(error))
    return f'<p class="dsd-prompt">{html.escape(options.prompt)}</p>{quiet(in_words(options))}'


def in_words(options: Options) -> str:
    vividness = "" if options.guidance is None else f"vividness {options.guidance:g} · "
    return (
        f"Seed {options.seed} · {options.loop.name}, {options.loop.steps} steps · "
        f"keep the subject {options.image_guidance:g} · follow the prompt {options.text_guidance:g} · "
        f"{vividness}{options.width} x {options.height} pixels · {FITS[options.fit]}"
    )
