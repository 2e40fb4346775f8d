"""The pictures of one visit: one of them beside what it was made from, its settings, both to be used again.

A visit is one page in one browser. What is kept of it is a list of paths in that page's session: a picture's
settings and its reference are read from its own file, and the file goes when all uploads go.
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
REFERENCE, BEFORE = "reference", "before"  # what a picture is compared with
GONE = f"this picture is gone: pictures leave the server within {uploads.KEPT // 3600} hours"
FITS = {"crop": "cropped to fill", "pad": "white added"}


@dataclass(frozen=True)
class Visit:
    """Files, newest first, and the two that were looked at last."""

    paths: tuple[str, ...] = ()
    picked: str | None = None
    before: str | None = None  # picked before that

    def still_there(self) -> "Visit":
        """Without the files that have been swept since."""
        there = tuple(path for path in self.paths if Path(path).is_file())
        return replace(self, paths=there, before=self.before if self.before in there else None)


class History:
    """The handlers. Every visitor's `Visit` comes in and goes out; nothing is kept here."""

    def __init__(self, work: Generating) -> None:
        self.work = work

    def add(self, visit: Visit, shown: list[tuple[str, str]] | None) -> tuple[Visit, Any, Any]:
        """Finished pictures among those that are shown: (visit, box, strip). Previews carry no settings."""
        paths = [path for path, _ in (shown or [])[:MAX_COUNT] if path and provenance.carries_settings(path)]
        paths = list(dict.fromkeys([*paths, *visit.paths]))  # one that was there already comes to the front
        visit = replace(visit, paths=tuple(paths)).still_there()
        visit = replace(visit, paths=visit.paths[:KEPT])
        return visit, gr.Column(visible=bool(visit.paths)), strip(visit)

    def pick(self, visit: Visit, against: str, event: gr.SelectData) -> tuple[Any, ...]:
        """One of the strip was clicked: (visit, strip, panel, pair, slider, what to compare with, about)."""
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
        """(pair, slider): the picked picture on the right, what it is compared with on the left."""
        try:
            picture = opened(visit.picked)
            if against == BEFORE and visit.before:
                left, label = opened(visit.before), "the one picked before"
                left = canvas.fit(left, *picture.size, "pad")  # the two may differ in size
            else:
                left, label = provenance.read_reference(picture), "its reference"
        except ValueError as error:
            gr.Warning(html.escape(explained(error)))
            return gr.Column(visible=False), gr.skip()
        label = f"Left: {label}. Right: this picture."
        return gr.Column(visible=True), gr.ImageSlider((left, visit.picked), format="png", label=label)

    def reuse(self, visit: Visit) -> tuple[Any, ...]:
        """The form as it was for this picture, its reference too; as `restoring.restore`."""
        return self.work.restore(self._usable(visit))

    def refer(self, visit: Visit) -> tuple[str, gr.Group]:
        """(the picture as the next one's reference, the box of restored settings, which are not)."""
        return self._usable(visit), gr.Group(visible=False)

    @staticmethod
    def _usable(visit: Visit) -> str:
        try:
            opened(visit.picked)
        except ValueError as error:
            raise gr.Error(html.escape(explained(error)), print_exception=False) from error
        return visit.picked


def strip(visit: Visit) -> list[tuple[str, str]]:
    """The pictures with their seeds, which are in their names."""
    return [(path, f"seed {Path(path).stem.removeprefix('dsd-')}") for path in visit.paths]


def opened(path: str | None) -> Image.Image:
    """A picture of this visit; ValueError when it has been swept."""
    if not path or not Path(path).is_file():
        raise ValueError(GONE)
    return intake.open_image(path)


def about(path: str) -> str:
    """What was asked for, as HTML; in its place, what is wrong with the file."""
    try:
        options = drawing.options_from(provenance.read_settings(opened(path)))
    except ValueError as error:
        return problem(explained(error))
    return (
        f'<p class="dsd-prompt">{html.escape(options.prompt)}</p>'
        f'<p class="dsd-quiet">{html.escape(in_words(options))}</p>'
    )


def in_words(options: Options) -> str:
    """Settings as a line to read."""
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
