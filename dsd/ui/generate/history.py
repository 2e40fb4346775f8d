"""The images of one visit: each can be compared with its reference, and its settings can be used again.

A visit is one page in one browser. The page's session holds only a list of paths: an image's settings and
reference are read from its own file, which is deleted together with all uploads.
"""

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dsd.files import intake
from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from dsd.model import canvas
from dsd.model import sampling as quality
from dsd.ui import uploads
from dsd.ui.generate.handlers import Generating
from dsd.ui.generate.layout import MAX_COUNT
from dsd.ui.messages import explained, problem

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

    def still_there(self) -> "Visit":
        """Return the visit without files that have been deleted."""
        there = tuple(path for path in self.paths if Path(path).is_file())
        return replace(self, paths=there, before=self.before if self.before in there else None)


class History:
    """Event handlers without state: every visitor's `Visit` is passed in and returned."""

    def __init__(self, work: Generating) -> None:
        self.work = work

    def add(self, visit: Visit, shown: list[tuple[str, str]] | None) -> tuple[Visit, Any, Any]:
        """Add finished images and return (visit, box, strip); skip previews, which carry no settings."""
        paths = [path for path, _ in (shown or [])[:MAX_COUNT] if path and provenance.carries_settings(path)]
        paths = list(dict.fromkeys([*paths, *visit.paths]))  # an image that was there moves to the front
        visit = replace(visit, paths=tuple(paths)).still_there()
        visit = replace(visit, paths=visit.paths[:KEPT])
        return visit, gr.Column(visible=bool(visit.paths)), strip(visit)

    def pick(self, visit: Visit, against: str, event: gr.SelectData) -> tuple[Any, ...]:
        """Pick the clicked image; return (visit, strip, panel, pair, slider, what to compare with, about)."""
        if not 0 <= event.index < len(visit.paths):
            return visit, *[gr.skip()] * 6
        path = visit.paths[event.index]
        before = visit.before if path == visit.picked else visit.picked
        was, visit = visit.paths, replace(visit, picked=path, before=before).still_there()
        shown = gr.skip() if visit.paths == was else strip(visit)
        against = against if visit.before else REFERENCE
        choice = gr.Radio(value=against, visible=visit.before is not None)
        return visit, shown, gr.Column(visible=True), *self.compare(visit, against), choice, about(path)

    def compare(self, visit: Visit, against: str) -> tuple[gr.Column, Any]:
        """Return (pair, slider): the picked image on the right, what it is compared with on the left."""
        try:
            image = opened(visit.picked)
            if against == BEFORE and visit.before:
                left, label = opened(visit.before), "the one picked before"
                left = canvas.fit(left, *image.size, "pad")  # their sizes may differ
            else:
                left, label = provenance.read_reference(image), "its reference"
        except ValueError as error:
            gr.Warning(html.escape(explained(error)))
            return gr.Column(visible=False), gr.skip()
        label = f"Left: {label}. Right: this image."
        return gr.Column(visible=True), gr.ImageSlider((left, visit.picked), format="png", label=label)

    def reuse(self, visit: Visit) -> tuple[Any, ...]:
        """Return the form as it was for the picked image, with its reference, like `restoring.restore`."""
        return self.work.restore(self._usable(visit))

    def refer(self, visit: Visit) -> tuple[str, gr.Group]:
        """Return (the picked image as the next reference, the box of restored settings, hidden)."""
        return self._usable(visit), gr.Group(visible=False)

    @staticmethod
    def _usable(visit: Visit) -> str:
        try:
            opened(visit.picked)
        except ValueError as error:
            raise gr.Error(html.escape(explained(error)), print_exception=False) from error
        return visit.picked


def strip(visit: Visit) -> list[tuple[str, str]]:
    """Return the images with their seeds, which are read from the file names."""
    return [(path, f"seed {Path(path).stem.removeprefix('dsd-')}") for path in visit.paths]


def opened(path: str | None) -> Image.Image:
    """Open an image of this visit; raise ValueError if it has been deleted."""
    if not path or not Path(path).is_file():
        raise ValueError(GONE)
    return intake.open_image(path)


def about(path: str) -> str:
    """Return the image's prompt and settings as HTML, or the error if the file cannot be read."""
    try:
        options = drawing.options_from(provenance.read_settings(opened(path)))
    except ValueError as error:
        return problem(explained(error))
    return (
        f'<p class="dsd-prompt">{html.escape(options.prompt)}</p>'
        f'<p class="dsd-quiet">{html.escape(in_words(options))}</p>'
    )


def in_words(options: Options) -> str:
    """Return the settings as one line of text."""
    name = quality.find(options.quality).name
    said = [
        f"seed {options.seed}",
        f"{name}, {options.steps} steps",
        f"keep the subject {options.image_guidance:g}",
        f"follow the prompt {options.text_guidance:g}",
        "" if options.guidance is None else f"vividness {options.guidance:g}",
        f"{options.width} x {options.height} pixels",
        FITS[options.fit],
    ]
    line = " · ".join(part for part in said if part)
    return line[:1].upper() + line[1:]
