"""The guidance sheet: nine images of one seed, of which a click takes over the two guidance scales."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.generate import drawing, provenance, sheet
from dsd.generate.drawing import Options, Progress, Result
from dsd.ui import uploads
from dsd.ui.generate.handlers import Generating, explain_zero, report, save_once
from dsd.ui.generate.history import gallery
from dsd.ui.messages import convert_errors, idle, problem, show, status, step_status

CELL = "keep {image_guidance:g}, follow {text_guidance:g}"
NAME = "dsd-{seed}-{image_guidance:g}-{text_guidance:g}.png"
READY = "Click an image to take over its two settings."
SHOWN = "From the guidance sheet, whose two settings the form has now."
ADOPTED = "Taken over: keep the subject {image_guidance:g}, follow the prompt {text_guidance:g}."


class Sheets:
    """Event handlers of the sheet; requests are checked and timed as those of `work`."""

    def __init__(self, work: Generating) -> None:
        self.work, loaded = work, work.loaded

        @spaces.GPU(duration=work.pace.gpu_seconds_of)
        def steps(image: Image.Image, cells: Sequence[Options]) -> Iterator[Progress]:
            settings = {"model": loaded.name, "weights": loaded.weights}
            with convert_errors():
                yield from drawing.stream_each(loaded.pipe, image, cells, **settings)

        self._steps = steps

    def draw(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the finished cells and the status; an error removes nothing that is shown."""
        try:
            frame, options = self.work.request(values)
            yield {"sheet_status": status("Starting", 0.0), "setting_remark": show()}
            with closing(self._steps(frame, sheet.cells(options))) as steps, uploads.workplace() as folder:
                yield from _watch(steps, Path(folder))
        except Exception as error:  # the page must always get an answer
            yield report(error, "sheet_status")

    def adopt(self, images: list[dict[str, Any]], index: int) -> dict[str, Any]:
        """Return the two scales of the clicked cell, and its image as the result."""
        try:
            if not 0 <= index < len(images or []):
                raise ValueError("there is no such image on the sheet: draw the sheet again")
            path = images[index]["image"]["path"]
            options = drawing.options_from(provenance.read_settings(path))
            scales = {name: getattr(options, name) for name in ("image_guidance", "text_guidance")}
            self.work.form.check_ranges(scales)
        except Exception as error:  # the page must always get an answer
            return {"sheet_status": problem(explain_zero(error))}
        said = status(ADOPTED.format(**scales))
        return {**scales, "images": gallery([path]), "status": idle(SHOWN), "sheet_status": said}


def _watch(steps: Iterator[Progress], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the status at every step, and the sheet whenever a cell is finished."""
    shown = 0
    for progress in steps:
        view = {"sheet_status": step_status(progress.step, progress.total, progress.seconds_left)}
        if len(progress.results) > shown:
            shown = len(progress.results)
            view["sheet"] = gr.Gallery(_save(progress.results, folder), visible=True)
        yield view
    yield {"sheet_status": status(READY)}


def _save(cells: Sequence[Result], folder: Path) -> list[tuple[str, str]]:
    """Save cells, each once; return their files and captions."""
    files = save_once(cells, [folder / NAME.format(**cell.settings) for cell in cells])
    return [(file, CELL.format(**cell.settings)) for file, cell in zip(files, cells, strict=True)]
