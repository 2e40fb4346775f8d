"""Event handlers of the Generate tab: from the values of fields, by name, to new values by name.

They turn every invalid input into a sentence, and escape text from visitors before it enters HTML.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.files import intake
from dsd.generate import drawing
from dsd.generate.drawing import Options, Progress, Result
from dsd.model import known_words
from dsd.ui import uploads
from dsd.ui.generate.cost import Pace
from dsd.ui.generate.form import NO_PROMPT, Form, whole
from dsd.ui.messages import convert_errors, explain, notice, problem, quiet, show_error, status, step_status
from dsd.ui.models import Loaded

PREVIEW_SECONDS = 0.4


class Generating:
    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.form = Form(loaded)
        self.pace = Pace(loaded.pipe.frame_size)

        # A plain function, because ZeroGPU runs it in another process and passes only images and numbers.
        # It yields at every step, because only then can the other process notice a cancel.
        @spaces.GPU(duration=self.pace.gpu_seconds)
        def steps(image: Image.Image, options: Options) -> Iterator[Progress]:
            settings = {"model": loaded.name, "weights": loaded.weights, "preview_seconds": PREVIEW_SECONDS}
            with convert_errors():
                yield from drawing.stream(loaded.pipe, image, options, **settings)

        self._steps = steps

    def draw(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield images, redrawn references, status and seed; an error removes nothing that is shown."""
        try:
            frame, options = self._request(values)
            yield {"redrawn": [], "status": status("Starting", 0.0), "seed": options.seed}
            with closing(self._steps(frame, options)) as steps, uploads.workplace() as folder:
                yield from self._watch(steps, options, Path(folder))
        except Exception as error:  # the page must always get an answer
            yield show_error(_explain(error))

    def _request(self, values: dict[str, Any]) -> tuple[Image.Image, Options]:
        """Return the fitted reference and the options: all work and all checks that need no GPU."""
        if not values["image"]:
            raise ValueError("there is no image yet: upload one, paste one or pick an example")
        seed = drawing.pick_seed(None if values.get("new_seed") else values["seed"])
        options = self.form.options({**values, "seed": seed})
        reference = uploads.open_upload(values["image"])
        return drawing.fit_reference(self.loaded.pipe, reference, options), options

    def _time(self, steps: Iterator[Progress], options: Options) -> Iterator[Progress]:
        """Yield the steps unchanged, and learn how long they took when all have arrived."""
        for progress in steps:
            yield progress
        self.pace.learn(options, progress.seconds)

    def _watch(self, steps: Iterator[Progress], options: Options, folder: Path) -> Iterator[dict[str, Any]]:
        """Yield what to show at every step; keep finished images if ZeroGPU's time ends before the others."""
        results: list[Result] = []
        try:
            for progress in self._time(steps, options):
                results = progress.results
                yield self._view(progress, options, folder)
        except Exception as error:
            if not results:
                raise
            line = f"{len(results)} of {options.count} images are done. {_explain(error)}"
            yield _show(results, folder) | {"status": problem(line)}

    def _view(self, progress: Progress, options: Options, folder: Path) -> dict[str, Any]:
        if len(progress.results) == options.count:
            cut = intake.prompt_notice(self.loaded.pipe, options.prompt)
            remarks = [cut, self._unknown_words(options.prompt)]
            return _show(progress.results, folder) | {"status": finish(options, remarks)}
        view = {"status": step_status(progress.step, progress.total, progress.seconds_left)}
        if progress.previews is None:
            return view
        images = _save(progress.results, folder)
        for number, preview in enumerate(progress.previews, 1):
            images.append((uploads.preview(preview, folder, number), "preview"))
        return view | {"images": _gallery(images, "fullscreen")}

    def endpoint(
        self,
        image: dict[str, Any] | str,  # gradio's description of an upload, or its path
        prompt: str,
        count: int = 1,
        steps: int | None = None,  # gradio accepts a missing value only if the default is None
        image_guidance: float | None = None,
        text_guidance: float | None = None,
        guidance: float | None = None,
        seed: int | None = None,
        width: int | None = None,
        height: int | None = None,
        fit: str | None = None,
        quality: str = "best",  # last, so that programs that pass values by position keep working
    ) -> Iterator[tuple[list[str], list[int]]]:
        """Yield PNG files that carry their settings, and their seeds.

        Args:
            image: the subject, one character or thing; an uploaded file or a data: address
            prompt: where that subject should be, in a few words
            count: how many images
            steps: more are slower and a little finer; the quality's own number when left out
            image_guidance: higher keeps more of the subject, 1 is neutral
            text_guidance: higher follows the prompt more closely, 1 is neutral
            guidance: higher is bolder and more contrasty
            seed: the same seed and settings give the same image; a new one when left out, or -1
            width: in pixels, a multiple of 16
            height: in pixels, a multiple of 16
            fit: crop the given image to fill the frame, or pad it with white
            quality: draft and balanced are faster than best
        """
        values = {
            "image": image["path"] if isinstance(image, dict) else image, "prompt": prompt, "count": count,
            "steps": steps, "image_guidance": image_guidance, "text_guidance": text_guidance,
            "guidance": guidance, "seed": seed, "width": width, "height": height, "fit": fit,
            "quality": quality,
        }  # fmt: skip
        try:
            frame, options = self._request(values)
            with closing(self._steps(frame, options)) as all_steps, uploads.workplace() as folder:
                for progress in self._time(all_steps, options):
                    files = [path for path, _ in _save(progress.results, Path(folder))]
                    yield files, [result.seed for result in progress.results]
        except Exception as error:  # gradio's own message would say nothing, or too much
            raise gr.Error(_explain(error), print_exception=False) from error  # plain: programs read it

    endpoint.__name__ = "generate"  # the tool name for language models

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """List the words of a prompt that the model does not know, each with the nearest words that it knows.

        Args:
            prompt: where the subject should be, in a few words
        """
        return known_words.unknown_words(self.loaded.pipe, prompt) if isinstance(prompt, str) else {}

    def _unknown_words(self, prompt: str) -> str | None:
        return known_words.notice(self.unknown_words(prompt))

    def remark(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the notice below a prompt while it is typed: the words that the model does not know."""
        return {"unknown": _notices([self._unknown_words(values["prompt"])])}

    def see(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the upload as the model will see it, and the remarks on it."""
        if not values["image"]:
            return {"seen": None, "remarks": _notices([])}
        try:
            reference = uploads.open_upload(values["image"])
            options = self.form.options({"prompt": NO_PROMPT, **values})
            frame = drawing.fit_reference(self.loaded.pipe, reference, options)
            warning = self.loaded.warn(reference) if self.loaded.warn else None
        except Exception as error:  # the page must always get an answer
            return {"seen": None, "remarks": gr.HTML(problem(explain(error)), visible=True)}
        return {"seen": frame, "remarks": _notices([intake.image_notice(reference), warning])}

    def cost(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the expected time as HTML, empty while a field is invalid."""
        try:
            numbers = {name: whole(value) for name, value in values.items()}
            line = self.pace.line(Options(prompt=NO_PROMPT, **numbers))
        except ValueError:
            line = ""  # a click on Create reports the error
        return {"cost": quiet(line)}


def _explain(error: Exception) -> str:
    """Return `explain(error)`, with a remedy if more time was requested than ZeroGPU allows."""
    text = explain(error)
    is_too_much = getattr(error, "title", "").startswith("ZeroGPU") and "requested" in text
    return f"{text.removesuffix('.')}. Fewer or smaller images ask for less." if is_too_much else text


def _notices(texts: list[str | None]) -> gr.HTML:
    boxes = [notice(text) for text in texts if text]
    return gr.HTML("".join(boxes), visible=bool(boxes))


def _save(results: list[Result], folder: Path) -> list[tuple[str, str]]:
    """Save finished images with their settings, which gradio would lose by encoding them again."""
    return [(str(drawing.save(r, folder / f"dsd-{r.seed}.png")), f"seed {r.seed}") for r in results]


def _show(results: list[Result], folder: Path) -> dict[str, gr.Gallery]:
    references = [(result.reference, f"seed {result.seed}") for result in results]
    buttons = "download", "fullscreen"
    images, redrawn = _gallery(_save(results, folder), *buttons), _gallery(references, *buttons)
    return {"images": images, "redrawn": redrawn}


def _gallery(items: list, *buttons: str) -> gr.Gallery:
    """Return a gallery that shows a single image large; of several, the one that is clicked."""
    return gr.Gallery(value=items, selected_index=0 if len(items) == 1 else None, buttons=list(buttons))


def finish(options: Options, remarks: list[str | None]) -> str:
    """Return the status line for finished images, followed by remarks on the prompt."""
    last = options.seed + options.count - 1
    seeds = f"seed {options.seed}" if options.count == 1 else f"seeds {options.seed} to {last}"
    return status(f"Done, {seeds}.") + "".join(notice(remark) for remark in remarks if remark)
