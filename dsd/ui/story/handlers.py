"""Event handlers of the Story tab: lines to panels, one panel again, the strip to download, lines on request.

As in `dsd.ui.generate.handlers`, they turn every invalid input into a sentence. The gallery's own files are
the panels: what is drawn is read from them, so that nothing of a visit is kept here.
"""

import html
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import spaces
from PIL import Image

from dsd.generate import drawing, provenance, story
from dsd.generate.drawing import Options, Progress
from dsd.model import known_words
from dsd.ui import uploads
from dsd.ui.generate.form import NO_PROMPT
from dsd.ui.generate.handlers import PREVIEW_SECONDS, Generating
from dsd.ui.generate.history import GONE, caption
from dsd.ui.messages import (
    convert_errors,
    explain,
    notice,
    problem,
    quiet,
    show,
    show_error,
    status,
    step_status,
)
from dsd.ui.models import Loaded

SETTINGS = ("quality", "image_guidance", "text_guidance", "seed")
FILES = ("png", "pdf")  # of the strip
GPU_SECONDS = 30  # an allowance for eight lines of text
WRITTEN = "Change the lines as you like, then draw them. Nothing has been drawn yet."
NO_PANEL = "Click a panel first: it can then be drawn again without the others."
Update = dict[str, Any]  # name of a component -> its new value; the others stay as they are


class Telling:
    """Event handlers without state; `work` draws on the Create tab and knows how long that takes."""

    def __init__(self, loaded: Loaded, work: Generating) -> None:
        self.loaded, self.work = loaded, work

        # As in `dsd.ui.generate.handlers`: plain functions, because ZeroGPU runs them in another process.
        @spaces.GPU(duration=self._gpu_seconds)
        def steps(image: Image.Image, panels: list[Options]) -> Iterator[Progress]:
            settings = {"model": loaded.name, "weights": loaded.weights, "preview_seconds": PREVIEW_SECONDS}
            with convert_errors():
                yield from drawing.stream_each(loaded.pipe, image, panels, **settings)

        @spaces.GPU(duration=GPU_SECONDS)
        def write(sentence: str) -> list[str]:
            with convert_errors():
                return story.write_lines(loaded.describer(), sentence, loaded.story)

        self._steps, self._write = steps, write

    @property
    def can_write(self) -> bool:
        """Return whether a full-size language model is at hand; the embedded one only knows its own words."""
        return self.loaded.describer is not None and self.loaded.recipe.merge is not None

    def about_writer(self) -> str:
        """Return a sentence that tells the visitor, before the click, who writes and where."""
        host = urlsplit(self.loaded.describer.name).hostname if self.can_write else None
        where = f"Your sentence is sent to {host}, whose model" if host else "A model on this machine"
        return f"{where} makes the lines of it. You can change them before they are drawn."

    def _gpu_seconds(self, image: Image.Image | None, panels: Sequence[Options]) -> int:
        return self.work.pace.gpu_seconds(image, replace(panels[0], count=len(panels)))

    # ------------------------------------------------------------ before anything is drawn

    def write(self, values: Update) -> Update:
        """Return the lines of a story for the visitor's sentence, to be edited before they are drawn."""
        try:
            self.loaded.describer()  # here, because the ZeroGPU process that asks it could not keep it open
            lines = self._write(values["sentence"] or "")
        except Exception as error:  # the page must always get an answer
            return {"write_remark": problem(explain(error))}
        return {"lines": "\n".join(lines), "write_remark": quiet(WRITTEN)}

    def remark(self, values: Update) -> Update:
        """Return a notice of the words in the lines that the model does not know."""
        unknown = known_words.notice(self.work.unknown_words(values["lines"]))
        return {"unknown": show(notice(unknown)) if unknown else show()}

    def estimate(self, values: Update) -> Update:
        """Return the expected time of all panels as HTML, empty while a field is invalid."""
        try:
            lines = story.read_lines(values["lines"] or "")
            options = self.work.form.options({"prompt": NO_PROMPT, "count": len(lines), **_settings(values)})
            line = self.work.pace.line(replace(options, seed=0))
        except (ValueError, AttributeError):
            line = ""  # a click on Draw reports the error
        return {"cost": quiet(line)}

    # ------------------------------------------------------------ drawing

    def draw(self, values: Update) -> Iterator[Update]:
        """Yield panels and status; an error removes nothing that is shown."""
        try:
            frame, panels = self._request(values)
            yield _begin() | {"again": gr.Group(visible=False), "picked": None}
            with closing(self._time(frame, panels)) as steps, uploads.workplace() as folder:
                yield from _watch(steps, len(panels), Path(folder))
        except Exception as error:  # the page must always get an answer
            yield show_error(explain(error))

    def redraw(self, values: Update) -> Iterator[Update]:
        """Yield the status while the picked panel is drawn with a new seed, then it among the others.

        Its reference and settings come from its own file, its words from the field beside it.
        """
        paths = finished(values["panels"])
        try:
            index = values["picked"]
            if not isinstance(index, int) or not 0 <= index < len(paths):
                raise ValueError(NO_PANEL)
            panel = story.read_panel(uploads.open_upload(paths[index], GONE))
            (line,) = story.read_lines(" ".join((values["line"] or "").split()))
            options = replace(drawing.options_from(panel.settings), prompt=line, seed=drawing.pick_seed(None))
            yield _begin()
            with closing(self._time(panel.frame, [options])) as steps, uploads.workplace() as folder:
                for progress in steps:
                    yield {"status": step_status(progress.step, progress.total, progress.seconds_left)}
                paths[index] = _save(progress, Path(folder))[0]
                line = f"Panel {index + 1} is drawn again, with seed {options.seed}."
                yield {"panels": gallery(paths), "status": status(line)}
        except Exception as error:  # the page must always get an answer
            yield show_error(explain(error))

    def _request(self, values: Update) -> tuple[Image.Image, list[Options]]:
        """Return the fitted reference and the options of each panel: all checks that need no GPU."""
        if not values["image"]:
            raise ValueError("there is no image yet: upload one, or pick a character")
        reference = uploads.open_upload(values["image"])
        lines = story.read_lines(values["lines"] or "")
        settings = _settings(values) | {"seed": drawing.pick_seed(values["seed"])}
        options = self.work.form.options({"prompt": lines[0], **settings})
        return drawing.fit_reference(self.loaded.pipe, reference, options), story.plan(lines, options)

    def _time(self, frame: Image.Image, panels: list[Options]) -> Iterator[Progress]:
        """Yield the steps of the panels, and learn how long they took when all have arrived."""
        with closing(self._steps(frame, panels)) as steps:
            for progress in steps:
                yield progress
        self.work.pace.learn(replace(panels[0], seed=0, count=len(panels)), progress.seconds)

    def endpoint(
        self,
        image: dict[str, Any] | str,  # gradio's description of an upload, or its path
        lines: str,
        quality: str = "best",
        image_guidance: float | None = None,
        text_guidance: float | None = None,
        seed: int | None = None,
    ) -> Iterator[tuple[list[str], list[str], list[int]]]:
        """Yield the strip as PNG and PDF when all is drawn, and the panels and their seeds as they are drawn.

        Args:
            image: the subject, one character or thing; an uploaded file or a data: address
            lines: the story, a line for each panel, at most eight: where the subject is and what it does
            quality: draft and balanced are faster than best
            image_guidance: higher keeps more of the subject, 1 is neutral
            text_guidance: higher follows the lines more closely, 1 is neutral
            seed: of the first panel, each further one adds 1; a new one when left out, or -1
        """
        values = {"image": image["path"] if isinstance(image, dict) else image, "lines": lines}
        values |= {"quality": quality, "image_guidance": image_guidance, "text_guidance": text_guidance}
        try:
            frame, panels = self._request(values | {"seed": seed})
            with closing(self._time(frame, panels)) as steps, uploads.workplace() as folder:
                for progress in steps:
                    seeds = [result.seed for result in progress.results]
                    yield [], _save(progress, Path(folder)), seeds
                strips = [
                    story.save_strip(Path(folder, f"story{kind}"), progress.results)
                    for kind in story.SUFFIXES
                ]
                yield [*map(str, strips)], _save(progress, Path(folder)), seeds
        except Exception as error:  # gradio's own message would say nothing, or too much
            raise gr.Error(html.escape(explain(error)), print_exception=False) from error

    endpoint.__name__ = "story"  # the tool name for language models

    # ------------------------------------------------------------ afterwards

    def finish(self, values: Update) -> Iterator[Update]:
        """Yield the finished panels alone, without previews of a canceled one, and the strip as files.

        If there are none, the panels of the strip before are shown again.
        """
        items = values["panels"] or []
        paths = finished(items) or [path for path in values["kept"] if Path(path).is_file()]
        update = {"kept": tuple(paths)}
        if len(items) != len(finished(items)):
            update["panels"] = gallery(paths)
        if not paths:
            yield update
            return
        try:
            panels = [story.read_panel(uploads.open_upload(path, GONE)) for path in paths]
            with uploads.workplace() as folder:
                name = Path(folder, f"story-{panels[0].settings.get('seed')}")
                for kind in FILES:
                    file = story.save_strip(f"{name}.{kind}", panels)
                    update[kind] = gr.DownloadButton(value=str(file), visible=True)
                yield update | {"font_remark": show(*_remark(panels))}
        except Exception as error:  # the page must always get an answer
            yield update | show_error(explain(error))


def pick(items: list[dict[str, Any]] | None, index: int) -> Update:
    """Return the words of a panel, to be changed, and the button that draws it again."""
    paths = finished(items)
    if not 0 <= index < len(paths):
        return {"again": gr.Group(visible=False), "picked": None}
    line = gr.Textbox(caption(paths[index]), label=f"Panel {index + 1}")
    return {"again": gr.Group(visible=True), "picked": index, "line": line}


def finished(items: list[dict[str, Any]] | None) -> list[str]:
    """Return the files of a gallery that were drawn to the end: previews carry no settings."""
    paths = [item["image"]["path"] for item in (items or [])[: story.MOST] if item["image"]]
    return [path for path in paths if provenance.carries_settings(path)]


def gallery(paths: Sequence[str], previews: Sequence[str] = (), *, count: int = 0) -> gr.Gallery:
    """Return a gallery of panels, with numbered captions, and of previews, in the columns of the strip.

    `count` is the number of panels that there will be.
    """
    columns = story.count_columns(count or max(1, len(paths)))
    captions = [(path, f"{number}. {caption(path)}") for number, path in enumerate(paths, 1)]
    return gr.Gallery(
        [*captions, *((path, "preview") for path in previews)], columns=columns, selected_index=None
    )


def _settings(values: Update) -> Update:
    return {name: values[name] for name in SETTINGS if name != "seed"}


def _remark(panels: Sequence[story.Panel]) -> list[str]:
    missing = story.font_notice([panel.settings["prompt"] for panel in panels])
    return [notice(missing)] if missing else []


def _begin() -> Update:
    """Return the status of a run that begins, without the files of a strip that is about to change."""
    return {"status": status("Starting", 0.0), **{kind: gr.DownloadButton(visible=False) for kind in FILES}}


def _watch(steps: Iterator[Progress], count: int, folder: Path) -> Iterator[Update]:
    """Yield what to show at every step; finished panels stay if ZeroGPU's time ends before the others."""
    paths: list[str] = []
    shown: Update = {}
    try:
        for progress in steps:
            if len(progress.results) > len(paths) or progress.previews:
                paths = _save(progress, folder)
                drafts = [uploads.preview(image, folder) for image in progress.previews or []]
                # Sent again with every update: gradio's page can lose a file that the next one leaves out.
                shown = {"panels": gallery(paths, drafts, count=count)}
            yield shown | {"status": _line(progress, len(paths), count)}
    except Exception as error:
        if not paths:
            raise
        yield shown | {"status": problem(f"{len(paths)} of {count} panels are drawn. {explain(error)}")}


def _line(progress: Progress, done: int, count: int) -> str:
    if done == count:
        return status(f"Done, {count} panels." if count > 1 else "Done.")
    return step_status(progress.step, progress.total, progress.seconds_left)


def _save(progress: Progress, folder: Path) -> list[str]:
    """Save the finished panels with their settings, each once, and return the files."""
    files = [folder / f"panel-{n}-{result.seed}.png" for n, result in enumerate(progress.results, 1)]
    for file, result in zip(files, progress.results, strict=True):
        if not file.exists():
            drawing.save(result, file)
    return [*map(str, files)]
