"""Event handlers of the Create tab: from the values of fields, by name, to new values by name.

They turn every invalid input into a sentence, and escape text from visitors before it enters HTML.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.evaluation import rankers
from dsd.files import intake
from dsd.generate import drawing, provenance, ranking, sheet
from dsd.generate.drawing import Options, Progress, Result
from dsd.model import known_words
from dsd.ui import messages, uploads
from dsd.ui.generate.cost import RANK_SECONDS, Pace
from dsd.ui.generate.form import NO_PROMPT, Form, whole
from dsd.ui.generate.history import GONE, gallery, prompt_line
from dsd.ui.messages import convert_errors, explain, notice, problem, quiet, show, status, step_status
from dsd.ui.models import Loaded

PREVIEW_SECONDS = 0.4
RANKED = "ranked"  # folder of images that are saved again, with their scores
RANKING = "Done drawing. Ranking the images"


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

        @spaces.GPU(duration=RANK_SECONDS)
        def rank(results: list[Result]) -> list[Result]:
            with convert_errors():
                return ranking.rank(results, loaded.ranker())

        self._steps, self._rank = steps, rank

    def draw(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield images and status; an error removes nothing that is shown."""
        is_random = values["seed"] in (None, drawing.RANDOM_SEED)
        seed = values.get("planned") if is_random else values["seed"]
        rank = bool(values.get("rank"))
        for view in self._run(lambda: self.request(values | {"seed": seed}), rank):
            yield view | {"planned": None}

    def draw_another(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Draw the shown image again with a new seed, whatever the form says by now."""
        yield from self._run(lambda: self.repeat(values["visit"].shown))

    def fill(self, image: str, row: dict[str, Any]) -> dict[str, Any]:
        """Return the form with an example, its seed for the next run, and the settings of a fresh page."""
        fields = {**self.form.defaults(), "image": image, "prompt": row["prompt"], "planned": row.get("seed")}
        hidden = {"restore": gr.Button(visible=False), "restored": gr.Group(visible=False)}
        return fields | hidden | {"original": None}

    def _run(
        self, request: Callable[[], tuple[Image.Image, Options]], rank: bool = False
    ) -> Iterator[dict[str, Any]]:
        try:
            frame, options = request()
            yield {"status": status("Starting", 0.0), "setting_remark": show()}
            with closing(self._steps(frame, options)) as steps, uploads.workplace() as folder:
                yield from self._watch(steps, options, Path(folder), rank)
        except Exception as error:  # the page must always get an answer
            yield report(error)

    def request(self, values: dict[str, Any]) -> tuple[Image.Image, Options]:
        """Return the fitted reference and the options: all work and all checks that need no GPU."""
        with belongs_to("remarks"):
            if not values["image"]:
                raise ValueError("there is no image yet: upload one, paste one or pick an example")
            reference = uploads.open_upload(values["image"])
        with belongs_to("unknown"):
            intake.check_prompt(values["prompt"] or "")
        with belongs_to("setting_remark"):
            options = self.form.options({**values, "seed": drawing.pick_seed(values["seed"])})
            if values.get("rank"):
                self._open_ranker()
        return drawing.fit_reference(self.loaded.pipe, reference, options), options

    def _open_ranker(self) -> None:
        """Open what ranks; raise ValueError if there is nothing, before anything is drawn."""
        if self.loaded.ranker is None:
            raise ValueError(rankers.NO_RANKER)
        self.loaded.ranker()  # here, because the ZeroGPU process that uses it could not keep it open

    def repeat(self, path: str | None) -> tuple[Image.Image, Options]:
        """Return the reference and the options of an image that was made here, with a new seed.

        Raise ValueError for a file that is gone, and for settings that the page does not offer: the browser
        names the file, so it may be an upload.
        """
        image = uploads.open_upload(path, GONE)
        options = drawing.options_from(provenance.read_settings(image))
        self.form.values(options)
        frame = drawing.fit_reference(self.loaded.pipe, provenance.read_reference(image), options)
        return frame, replace(options, seed=drawing.pick_seed(None))

    def _time(self, steps: Iterator[Progress], options: Options) -> Iterator[Progress]:
        """Yield the steps unchanged, and learn how long they took when all have arrived."""
        for progress in steps:
            yield progress
        self.pace.learn(options, progress.seconds)

    def _watch(
        self, steps: Iterator[Progress], options: Options, folder: Path, rank: bool
    ) -> Iterator[dict[str, Any]]:
        """Yield what to show at every step; keep finished images if ZeroGPU's time ends or ranking fails."""
        results: list[Result] = []
        try:
            for progress in self._time(steps, options):
                results = progress.results
                yield self._view(progress, options, folder, rank)
            if rank:
                results = self._put_best_first(results)
                yield _show(results, folder / RANKED) | self._finish(options, rank)
        except Exception as error:
            if not results:
                raise
            line = f"{len(results)} of {options.count} images are done. {explain_zero(error)}"
            yield _show(results, folder) | {"status": problem(line)}

    def _put_best_first(self, results: list[Result]) -> list[Result]:
        """Rank the images, and learn how long it took."""
        start = time.monotonic()
        ranked = self._rank(results)
        self.pace.learn_rank(len(results), time.monotonic() - start)
        return ranked

    def _finish(self, options: Options, rank: bool) -> dict[str, str]:
        return {"status": finish(options, intake.prompt_notice(self.loaded.pipe, options.prompt), rank)}

    def _view(self, progress: Progress, options: Options, folder: Path, rank: bool = False) -> dict[str, Any]:
        if len(progress.results) == options.count:
            end = {"status": status(RANKING)} if rank else self._finish(options, rank)
            return _show(progress.results, folder) | end
        view = {"status": step_status(progress.step, progress.total, progress.seconds_left)}
        if progress.previews is None:
            return view
        images = _save(progress.results, folder)
        for number, preview in enumerate(progress.previews, 1):
            images.append((uploads.preview(preview, folder, number), "preview"))
        shown = gr.Gallery(images, selected_index=0 if len(images) == 1 else None)
        return view | {"images": shown, "about": prompt_line(options.prompt)}

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
        quality: str = "best",
        rank: bool = False,  # last, so that programs that pass values by position keep working
    ) -> Iterator[tuple[list[str], list[int]]]:
        """Yield PNG files that carry their settings, and their seeds.

        Args:
            image: the subject, one character or thing; an uploaded file or a data: address
            prompt: where that subject should be, in a few words
            count: how many images
            steps: more are slower and a little finer; the quality's own number when left out
            image_guidance: higher keeps more of the subject, 1 is neutral; the model's own when left out
            text_guidance: higher follows the prompt more closely, 1 is neutral; the model's own when left out
            guidance: higher is bolder and more contrasty
            seed: the same seed and settings give the same image; a new one when left out, or -1
            width: in pixels, a multiple of 16
            height: in pixels, a multiple of 16
            fit: crop the given image to fill the frame, or pad it with white
            quality: draft and balanced are faster than best
            rank: score how well each image keeps the subject and shows the prompt, and return the best first
        """
        values = {
            "image": image["path"] if isinstance(image, dict) else image, "prompt": prompt, "count": count,
            "steps": steps, "image_guidance": image_guidance, "text_guidance": text_guidance,
            "guidance": guidance, "seed": seed, "width": width, "height": height, "fit": fit,
            "quality": quality, "rank": rank,
        }  # fmt: skip
        try:
            frame, options = self.request(values)
            messages.warn_program([intake.prompt_notice(self.loaded.pipe, options.prompt)])
            with closing(self._steps(frame, options)) as all_steps, uploads.workplace() as folder:
                for progress in self._time(all_steps, options):
                    yield _list(progress.results, Path(folder))
                if rank:
                    yield _list(self._put_best_first(progress.results), Path(folder, RANKED))
        except Exception as error:  # gradio's own message would say nothing, or too much
            raise gr.Error(explain_zero(error), print_exception=False) from error  # plain: programs read it

    endpoint.__name__ = "generate"  # the tool name for language models

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """List the words of a prompt that the model does not know, each with the nearest words that it knows.

        Args:
            prompt: where the subject should be, in a few words
        """
        return known_words.unknown_words(self.loaded.pipe, prompt) if isinstance(prompt, str) else {}

    def remark(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the notice below a prompt while it is typed: the words that the model does not know."""
        return {"unknown": show(messages.unknown_words(self.unknown_words(values["prompt"]), "#prompt"))}

    def cost(self, values: dict[str, Any]) -> dict[str, str]:
        """Return the expected times as HTML, empty while a field is invalid."""
        try:
            numbers = {name: whole(value) for name, value in values.items() if name != "rank"}
            options = Options(prompt=NO_PROMPT, **numbers)
            line = self.pace.line(options, rank=bool(values.get("rank")))
            nine = self.pace.line(*sheet.cells(options))
        except ValueError:
            line = nine = ""  # a click on the button reports the error
        return {"cost": quiet(line), "sheet_cost": quiet(nine)}


def explain_zero(error: Exception) -> str:
    """Return `explain(error)`, with a remedy if more time was requested than ZeroGPU allows."""
    text = explain(error)
    is_too_much = getattr(error, "title", "").startswith("ZeroGPU") and "requested" in text
    return f"{text.removesuffix('.')}. Fewer or smaller images ask for less." if is_too_much else text


@contextmanager
def belongs_to(part: str) -> Iterator[None]:
    """Mark errors with the part of the page that is to show them."""
    try:
        yield
    except Exception as error:
        error.part = part
        raise


def report(
    error: Exception, status: str = "status", words: Callable[[Exception], str] = explain_zero
) -> dict[str, Any]:
    """Return an error as the message at the field that it belongs to, or as the status of that name."""
    box, part = problem(words(error)), getattr(error, "part", status)
    return {part: box if part == status else show(box)}


def _save(results: list[Result], folder: Path) -> list[tuple[str, str]]:
    """Save finished images, each once in a folder, and return their files and prompts."""
    files = save_once(results, [folder / f"dsd-{result.seed}.png" for result in results])
    return [(file, result.settings["prompt"]) for file, result in zip(files, results, strict=True)]


def save_once(results: Sequence[Result], files: Sequence[Path]) -> list[str]:
    """Save images with their settings, unless their file exists; return the files.

    Gradio would lose the settings by encoding the images again.
    """
    for result, file in zip(results, files, strict=True):
        if not file.exists():  # the finished images are shown again at every step
            drawing.save(result, file)
    return [*map(str, files)]


def _list(results: list[Result], folder: Path) -> tuple[list[str], list[int]]:
    """Return the files and the seeds of finished images, for a program."""
    return [path for path, _ in _save(results, folder)], [result.seed for result in results]


def _show(results: list[Result], folder: Path) -> dict[str, Any]:
    shown = gallery([path for path, _ in _save(results, folder)])
    return {"images": shown, "about": prompt_line(results[0].settings["prompt"])}


def finish(options: Options, remark: str | None, is_ranked: bool = False) -> str:
    """Return the status line for finished images, followed by a remark on the prompt."""
    line = "Done." if options.count == 1 else f"Done, {options.count} images{', the best first' * is_ranked}."
    return status(line) + (notice(remark) if remark else "")
