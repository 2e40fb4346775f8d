"""The images of one visit, a page in one browser: shown again, downloaded, drawn again, used as references.

The page's session holds only paths: an image's settings and reference are read from its own file, which is
deleted together with all uploads.
"""

import base64
import html
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from dsd.files import rgb
from dsd.generate import drawing, provenance, ranking
from dsd.generate.drawing import Options
from dsd.ui import uploads
from dsd.ui.generate.form import FIELDS, RANGES, Form
from dsd.ui.messages import explain, idle, problem, quiet

KEPT = 24
GONE = f"this image is gone: images leave the server within {uploads.HOURS} hours"
FITS = {"crop": "cropped to fill", "pad": "white added"}
SCALE = 4  # of an enlarged download
THUMBNAIL = 96  # pixels


@dataclass(frozen=True)
class Visit:
    """Image files, newest first, and the one that is shown, which may be an example's."""

    paths: tuple[str, ...] = ()
    shown: str | None = None

    def drop_deleted(self) -> "Visit":
        return replace(self, paths=tuple(path for path in self.paths if Path(path).is_file()))


class History:
    """Event handlers without state: every visitor's `Visit` is passed in and returned."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def add(self, values: dict[str, Any]) -> dict[str, Any]:
        """Add the finished `images` to the visit and show the first; previews, without settings, go."""
        visit, items = values["visit"], (values["images"] or [])[: RANGES["count"][1]]
        paths = [item["image"]["path"] for item in items if item["image"]]
        finished = [path for path in paths if provenance.carries_settings(path)]
        known = {*visit.paths, visit.shown}
        fresh = [path for path in finished if path not in known]
        visit = replace(visit, paths=(*fresh, *visit.paths)[:KEPT]).drop_deleted()
        visit = replace(visit, shown=next(iter(finished), visit.shown))
        left = finished or [visit.shown] * bool(visit.shown)
        update = {} if left == paths else {"images": gallery(left)}
        strip = {"history": gr.Column(visible=bool(visit.paths)), "strip": thumbnails(visit)}
        return {"visit": visit, **strip, **update, **about(visit)}

    def pick(self, visit: Visit, index: int) -> dict[str, Any]:
        """Show an image of the strip again, with its reference."""
        if not 0 <= index < len(visit.paths):
            return {"visit": visit}
        paths, path = visit.paths, visit.paths[index]
        visit = replace(visit, shown=path).drop_deleted()
        update = {} if visit.paths == paths else {"strip": thumbnails(visit)}
        images = gallery([path] if Path(path).is_file() else [])
        said = {"images": images, "status": idle("From this visit, with the reference it was made from.")}
        return {"visit": visit, **update, **said, **about(visit, with_reference=True)}

    def look(self, visit: Visit, images: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Take the image of several that the visitor looks at as the shown one."""
        item = images[index]["image"] if 0 <= index < len(images or []) else None
        if not item or not provenance.carries_settings(item["path"]):
            return {"visit": visit}
        visit = replace(visit, shown=item["path"])
        return {"visit": visit, **about(visit)}

    def reuse(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the form as it was for the shown image, with its reference."""
        return self.form.restore(self.refer(values)) if _is_there(values) else about(values["visit"])

    def refer(self, values: dict[str, Any]) -> dict[str, Any]:
        """Make the shown image the next reference."""
        if not _is_there(values):
            return about(values["visit"])
        return {"image": values["visit"].shown, "restored": gr.Group(visible=False), "original": None}

    def download(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the file of the shown image, as it was drawn."""
        return {"file": values["visit"].shown} if _is_there(values) else about(values["visit"])

    def enlarge(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the shown image with four times the pixels a side; it carries the same settings."""
        if not _is_there(values):
            yield about(values["visit"])
            return
        try:
            image = uploads.open_upload(values["visit"].shown, GONE)
            self.form.check_ranges({"width": image.width, "height": image.height})  # it may be an upload
            settings, frame = provenance.read_settings(image), provenance.read_reference(image)
        except ValueError as error:
            yield {"about": problem(explain(error))}
            return
        size = image.width * SCALE, image.height * SCALE
        with uploads.workplace() as folder:
            path = Path(folder, f"dsd-{settings.get('seed')}-enlarged-{SCALE}x.png")
            large = rgb.to_rgb(image).resize(size, Image.Resampling.LANCZOS)
            yield {"file": str(provenance.save(path, large, settings, frame))}

    def copy(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the prompt, the settings and a link to them as text, for the clipboard."""
        try:
            options = _read_options(values["visit"].shown)
            fields = dict.fromkeys(FIELDS) | self.form.values(options)
            link = self.form.link(fields | {"address": values["address"]})
        except ValueError as error:
            return {"copied": "", "copy_remark": problem(explain(error))}
        return {"copied": "\n".join((options.prompt, in_words(options), link)), "copy_remark": ""}


def _is_there(values: dict[str, Any]) -> bool:
    return bool(values["visit"].shown) and Path(values["visit"].shown).is_file()


def gallery(paths: list[str]) -> gr.Gallery:
    """Return a gallery that shows the first image large; the alternative text of each is its prompt."""
    items = [(path, caption(path)) for path in paths]
    return gr.Gallery(items, selected_index=0 if items else None)


def caption(path: str) -> str:
    """Return the prompt of an image that was made here, for the eye and for screen readers."""
    try:
        return str(provenance.read_settings(path).get("prompt", ""))
    except ValueError:
        return ""


def thumbnails(visit: Visit) -> gr.Gallery:
    """Return the images of a visit; none is marked as picked, because their places have changed."""
    return gr.Gallery([(path, caption(path)) for path in visit.paths], selected_index=None)


def prompt_line(prompt: str) -> str:
    """Return the prompt below an image as HTML."""
    return f'<p class="dsd-prompt">{html.escape(prompt)}</p>'


def about(visit: Visit, *, with_reference: bool = False) -> dict[str, Any]:
    """Return the caption of the shown image, or the error if its file cannot be read, and its actions."""
    try:
        text = describe(visit.shown, with_reference=with_reference) if visit.shown else ""
        return {"about": text, "actions": gr.Row(visible=bool(text))}
    except ValueError as error:
        return {"about": problem(explain(error)), "actions": gr.Row(visible=False)}


def describe(path: str, *, with_reference: bool = False) -> str:
    """Return an image's prompt, seed and scores as HTML; raise ValueError if the file cannot be read."""
    settings = provenance.read_settings(uploads.open_upload(path, GONE))
    options, score = drawing.options_from(settings), ranking.read_score(settings)
    facts = f"Seed {options.seed}" + (f" · {ranking.in_words(score)}" if score else "")
    line = prompt_line(options.prompt) + quiet(facts)
    picture = _reference(path) if with_reference else ""
    return f'<div class="dsd-caption">{picture}<div>{line}</div></div>'


def _read_options(path: str | None) -> Options:
    return drawing.options_from(provenance.read_settings(uploads.open_upload(path, GONE)))


def _reference(path: str) -> str:
    """Return the reference of an image as a small picture in HTML."""
    frame, file = provenance.read_reference(path), BytesIO()
    frame.thumbnail((THUMBNAIL, THUMBNAIL))
    frame.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img class="dsd-thumbnail" alt="Its reference" src="data:image/png;base64,{data}">'


def in_words(options: Options) -> str:
    vividness = "" if options.guidance is None else f"vividness {options.guidance:g} · "
    return (
        f"Seed {options.seed} · {options.loop.name}, {options.loop.steps} steps · "
        f"keep the subject {options.image_guidance:g} · follow the prompt {options.text_guidance:g} · "
        f"{vividness}{options.width} x {options.height} pixels · {FITS[options.fit]}"
    )
