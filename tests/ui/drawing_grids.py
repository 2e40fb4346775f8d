"""Grids drawn on the Grids tab, for tests: the form, and what the page is sent."""

import gradio as gr
from PIL import Image

from dsd.generate import provenance
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import CRITTERS
from dsd.ui.grids import handlers as drawing_grids
from dsd.ui.grids.handlers import DrawingGrids, new_prompt

SUBJECT, PLACES = "red round critter", ["beach", "forest hat", "snow", "space"]


def draw(work: DrawingGrids, subject: str = SUBJECT, places: list | None = None, seed=7) -> list:
    """All that the page is sent; the files are read at once, because they do not outlive the drawing."""
    seen = []
    for update in work.draw(form(subject, places or PLACES, seed)):
        if update.get("panels") and update["panels"].visible:  # a preview comes without
            update["panels"] = [(provenance_of(path), caption) for path, caption in _files(update["panels"])]
            assert provenance_of(update["grid"]) == provenance.MARK
        if update.get("grid"):
            with Image.open(update["grid"]) as image:
                update["grid"] = image.copy()
        seen.append(update)
    return seen


def fields(places: list) -> dict[str, str]:
    return dict(zip(drawing_grids.PLACES, places, strict=True))


def form(subject: str, places: list, seed) -> dict:
    return {"subject": subject, "seed": seed, **fields(places)}


def values(seen: list[dict], name: str) -> list:
    """All that one component was sent."""
    return [update[name] for update in seen if name in update]


def _files(gallery: gr.Gallery) -> list[tuple[str, str]]:
    return [(item["image"]["path"], item["caption"]) for item in gallery.value]


def provenance_of(path: str) -> str:
    with Image.open(path) as image:
        return image.info["Source"]


def last(work: DrawingGrids, *given, **changed) -> tuple[str, str]:
    """Facts and status at the end."""
    seen = draw(work, *given, **changed)
    return (values(seen, "facts") or [""])[-1], values(seen, "status")[-1]


def prompt() -> Prompt:
    return new_prompt(CRITTERS, SUBJECT, PLACES, 7)
