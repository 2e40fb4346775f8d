"""Event handlers of the Generate tab: from the values that a page sends to what it shows.

There is no layout and no math here. Handlers take the page's raw values and turn every invalid input into a
sentence for the visitor. Text from visitors is escaped before it enters HTML.
"""

import html
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.files import intake
from dsd.generate import drawing
from dsd.generate.drawing import Options, Progress
from dsd.model import canvas, checkpoint, known_words
from dsd.ui import uploads
from dsd.ui.generate import restoring
from dsd.ui.generate.cost import Pace
from dsd.ui.loaded import Loaded
from dsd.ui.messages import done, explained, notice, problem, status, time_left

PREVIEW_SECONDS = 0.4


class Generating:
    """Event handlers for one loaded model."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.has_guidance = checkpoint.has_embedded_guidance(loaded.pipe)
        # Computed here, in the main thread: on ZeroGPU, other threads cannot read the weights.
        self.model_hash = checkpoint.model_hash(loaded.pipe)
        self.pace = Pace(loaded.pipe.frame_size)

        # A plain function, because ZeroGPU runs it in another process and passes only images and numbers.
        # It yields at every step, because only then can the other process notice a cancel.
        @spaces.GPU(duration=self.pace.gpu_seconds)
        def steps(image: Image.Image, options: Options) -> Iterator[Progress]:
            try:
                yield from drawing.stream(
                    loaded.pipe,
                    image,
                    options,
                    model=loaded.name,
                    weights=loaded.weights,
                    preview_seconds=PREVIEW_SECONDS,
                )
            except (ValueError, RuntimeError) as error:  # other types would arrive without a message
                raise gr.Error(html.escape(explained(error)), print_exception=False) from error

        self._steps = steps

    def draw(self, image: str | None, prompt: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw for the page: yield (images, redrawn references, status, seed) at every step.

        An error removes nothing that is shown: neither previews nor the images of an earlier run.
        """
        *settings, new_seed = values
        try:
            frame, options = self._request(image, prompt, *settings, new_seed=new_seed)
            yield gr.skip(), [], status("Starting", 0.0), options.seed
            with closing(self._timed(frame, options)) as steps, uploads.workplace() as folder:
                yield from self._watched(steps, options, Path(folder))
        except Exception as error:  # the page must always get an answer
            gr.Warning(html.escape(_said(error)), title="That did not work")
            yield gr.skip(), gr.skip(), problem(_said(error)), gr.skip()

    def _timed(self, frame: Image.Image, options: Options) -> Iterator[Progress]:
        return self.pace.timed(self._steps(frame, options), options)

    def _watched(
        self, steps: Iterator[Progress], options: Options, folder: Path
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what to show at every step; keep finished images if ZeroGPU's time ends before the others."""
        results: list[drawing.Result] = []
        try:
            for progress in steps:
                results = progress.results
                yield self._shown(progress, options, folder)
        except Exception as error:
            if not results:
                raise
            images, redrawn = self._saved(results, folder)
            line = f"{len(results)} of {options.count} images are done. {_said(error)}"
            yield _gallery(images), _gallery(redrawn), problem(line), gr.skip()

    def _shown(self, progress: Progress, options: Options, folder: Path) -> tuple[Any, ...]:
        if len(progress.results) == options.count:
            images, redrawn = self._saved(progress.results, folder)
            remarks = [intake.prompt_notice(self.loaded.pipe, options.prompt), self._unknown(options.prompt)]
            return _gallery(images), _gallery(redrawn), finished(options, remarks), gr.skip()
        share = progress.step / progress.total
        line = f"Step {progress.step} of {progress.total} · {time_left(progress.seconds_left)}"
        if progress.previews is None:
            return gr.skip(), gr.skip(), status(line, share), gr.skip()
        ready, _ = self._saved(progress.results, folder)
        growing = [
            (uploads.preview(preview, folder, number), "preview")
            for number, preview in enumerate(progress.previews, 1)
        ]
        return _gallery(ready + growing, buttons=["fullscreen"]), gr.skip(), status(line, share), gr.skip()

    @staticmethod
    def _saved(results: list[drawing.Result], folder: Path) -> tuple[list, list]:
        """Return the images as saved files, because gradio would re-encode them and lose their settings."""
        images = [drawing.save(result, folder / f"dsd-{result.seed}.png") for result in results]
        named = [(str(path), f"seed {result.seed}") for path, result in zip(images, results, strict=True)]
        return named, [(result.reference, f"seed {result.seed}") for result in results]

    def endpoint(
        self,
        image: str,
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

        A missing seed is replaced by a new one, and missing steps by the quality's.

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
        settings = (count, steps, image_guidance, text_guidance, guidance, seed, width, height, fit, quality)
        try:
            frame, options = self._request(image, prompt, *settings, new_seed=False)
            with closing(self._timed(frame, options)) as all_steps, uploads.workplace() as folder:
                for progress in all_steps:
                    files = [
                        str(drawing.save(r, Path(folder) / f"dsd-{r.seed}.png")) for r in progress.results
                    ]
                    yield files, [result.seed for result in progress.results]
        except Exception as error:  # gradio's own message would say nothing, or too much
            raise gr.Error(html.escape(_said(error)), print_exception=False) from error

    endpoint.__name__ = "generate"  # the tool name for language models

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """List the words of a prompt that the model does not know, each with the nearest words that it knows.

        Args:
            prompt: where the subject should be, in a few words
        """
        return known_words.unknown_words(self.loaded.pipe, prompt) if isinstance(prompt, str) else {}

    def _unknown(self, prompt: str) -> str | None:
        return known_words.notice(self.unknown_words(prompt))

    def remark(self, prompt: str) -> gr.HTML:
        """Return the notice below a prompt while it is typed: the words that the model does not know."""
        text = self._unknown(prompt)
        return gr.HTML(notice(text) if text else "", visible=bool(text))

    def _request(
        self,
        image: str | None,
        prompt: str,
        count: int,
        steps: int | None,
        image_guidance: float,
        text_guidance: float,
        guidance: float | None,
        seed: int | None,
        width: int,
        height: int,
        fit: str,
        quality: str = "best",
        *,
        new_seed: bool,
    ) -> tuple[Image.Image, Options]:
        """Return the frame and the options, both checked: all work and all checks that need no GPU."""
        if not image:
            raise ValueError("there is no image yet: upload one, paste one or pick an example")
        restoring.check_size(self.loaded, width, height)
        options = Options(
            prompt=intake.check_prompt(prompt),
            count=whole(count),
            steps=whole(steps),
            seed=whole(drawing.pick_seed(None if new_seed else seed)),
            image_guidance=image_guidance,
            text_guidance=text_guidance,
            guidance=guidance,
            width=whole(width),
            height=whole(height),
            fit=fit,
            quality=quality,
        )
        drawing.check(self.loaded.pipe, options)
        return canvas.fit(uploads.open_upload(image), options.width, options.height, options.fit), options

    def see(self, image: str | None, width: int, height: int, fit: str) -> tuple[Image.Image | None, gr.HTML]:
        """Return the upload as the model will see it, and the remarks on it."""
        if not image:
            return None, gr.HTML("", visible=False)
        try:
            reference = uploads.open_upload(image)
            restoring.check_size(self.loaded, width, height)
            frame = canvas.fit(reference, whole(width), whole(height), fit)
            warning = self.loaded.warn(reference) if self.loaded.warn else None
        except Exception as error:  # the page must always get an answer
            return None, gr.HTML(problem(explained(error)), visible=True)
        remarks = [notice(text) for text in (intake.image_notice(reference), warning) if text]
        return frame, gr.HTML("".join(remarks), visible=bool(remarks))

    def cost(self, *asked: Any) -> str:
        """Return the expected time of the form as HTML, empty while a field is invalid.

        `asked`: count, steps, image and text guidance, width, height, quality, as the browser sends them.
        """
        names = ("count", "steps", "image_guidance", "text_guidance", "width", "height", "quality")
        try:
            values = {name: whole(value) for name, value in zip(names, asked, strict=True)}
            line = self.pace.line(Options(prompt="-", **values))
        except ValueError:
            line = ""  # a click on Create reports the error
        return f'<p class="dsd-quiet">{html.escape(line)}</p>'

    def restore(self, image: str | None) -> tuple[Any, ...]:
        """Call `restoring.restore` for the loaded model."""
        return restoring.restore(image, self.loaded, self.model_hash)


def _said(error: Exception) -> str:
    """Return `explained(error)`, with a remedy if more time was requested than ZeroGPU allows."""
    text = explained(error)
    too_much = getattr(error, "title", "").startswith("ZeroGPU") and "requested" in text
    return f"{text.removesuffix('.')}. Fewer or smaller images ask for less." if too_much else text


def _gallery(items: list, buttons: Sequence[str] = ("download", "fullscreen")) -> gr.Gallery:
    """Return a gallery that shows a single image large; of several, the one that is clicked."""
    return gr.Gallery(value=items, selected_index=0 if len(items) == 1 else None, buttons=list(buttons))


def whole(value: float | None) -> int | None:
    """Return 2 for 2.0, which sliders and programs may send; leave the rest for `Options` to check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finished(options: Options, remarks: list[str | None]) -> str:
    """Return the status line for finished images, followed by remarks on the prompt."""
    seeds = (
        f"seed {options.seed}"
        if options.count == 1
        else f"seeds {options.seed} to {options.seed + options.count - 1}"
    )
    return done(f"Done, {seeds}.") + "".join(notice(remark) for remark in remarks if remark)
