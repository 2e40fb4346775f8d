"""Event handlers of the Story tab: lines to panels, one panel again, lines on request, the endpoint.

As in `dsd.ui.generate.handlers`, they turn every invalid input into a sentence. The gallery's own files are
the panels: what is drawn again is read from them, so that nothing of a visit is kept here.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.files import intake
from dsd.generate import drawing, story
from dsd.generate.drawing import Options, Progress
from dsd.ui import messages, uploads
from dsd.ui.events import Update
from dsd.ui.generate.form import NO_PROMPT
from dsd.ui.generate.handlers import PREVIEW_SECONDS, Generating, belongs_to, explain_zero, report
from dsd.ui.messages import convert_errors, explain, notice, problem, quiet, show, status, step_status
from dsd.ui.models import Loaded
from dsd.ui.story import panels

SETTINGS = ("quality", "image_guidance", "text_guidance", "seed")
GPU_SECONDS = 30  # an allowance for eight lines of text
NO_IMAGE = "there is no image yet: upload one, paste one or pick a character"
WRITTEN = "Change the lines as you like, then draw them. Nothing has been drawn yet."
NO_PANEL = "click a panel first: it can then be drawn again without the others"


class Telling:
    """Event handlers without state; `work` draws on the Create tab and knows how long that takes."""

    def __init__(self, loaded: Loaded, work: Generating) -> None:
        self.loaded, self.work = loaded, work

        # As in `dsd.ui.generate.handlers`: plain functions, because ZeroGPU runs them in another process.
        @spaces.GPU(duration=work.pace.gpu_seconds_of)
        def steps(image: Image.Image, plan: Sequence[Options]) -> Iterator[Progress]:
            settings = {"model": loaded.name, "weights": loaded.weights, "preview_seconds": PREVIEW_SECONDS}
            with convert_errors():
                yield from drawing.stream_each(loaded.pipe, image, plan, **settings)

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
        host = self.loaded.describer.host if self.can_write else None
        where = f"Your sentence is sent to {host}, whose model" if host else "A model on this machine"
        return f"{where} makes the lines of it. You can change them before they are drawn."

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
        """Return what is wrong with the lines, what the model cuts of them, and unknown words."""
        boxes = []
        try:
            if (values["lines"] or "").strip():
                boxes += map(notice, self._cuts(story.read_lines(values["lines"])))
        except ValueError as error:
            boxes.append(problem(explain(error)))
        return {"unknown": show(*boxes, self._unknown(values["lines"], "#story-lines"))}

    def remark_line(self, values: Update) -> Update:
        """Return the notice below the line of a panel while it is typed: unknown words."""
        return {"line_remark": show(self._unknown(values["line"], "#story-line"))}

    def _unknown(self, text: str | None, fields: str) -> str:
        return messages.unknown_words(self.work.unknown_words(text), fields)

    def _cuts(self, lines: Sequence[str]) -> list[str]:
        """Return a notice for each line that the model does not read to its end."""
        pipe = self.loaded.pipe
        notices = [intake.prompt_notice(pipe, line, f"Line {n}") for n, line in enumerate(lines, 1)]
        return list(filter(None, notices))

    def estimate(self, values: Update) -> Update:
        """Return the expected time of all panels as HTML, empty while a field is invalid."""
        try:
            lines = story.read_lines(values["lines"] or "")
            options = self.work.form.options({"prompt": NO_PROMPT, **values})
            line = self.work.pace.line(*story.plan(lines, options))
        except (ValueError, AttributeError):
            line = ""  # a click on Draw reports the error
        return {"cost": quiet(line)}

    # ------------------------------------------------------------ drawing

    def draw(self, values: Update) -> Iterator[Update]:
        """Yield panels and status; an error removes nothing that is shown."""
        try:
            frame, plan = self._request(values)
            yield panels.begin() | {"again": gr.Column(visible=False), "picked": None, "replaced": {}}
            with closing(self._time(frame, plan)) as steps, uploads.workplace() as folder:
                yield from panels.watch(steps, len(plan), Path(folder))
        except Exception as error:  # the page must always get an answer
            yield report(error)

    def redraw(self, values: Update) -> Iterator[Update]:
        """Yield the status while the picked panel is drawn with a new seed, then it among the others."""
        paths, index = panels.finished(values["panels"]), values["picked"]
        try:
            frame, options = self._again(paths, index, values["line"])
            yield panels.begin() | self.remark_line(values)
            with closing(self._time(frame, [options])) as steps, uploads.workplace() as folder:
                for progress in steps:
                    yield {"status": step_status(progress.step, progress.total, progress.seconds_left)}
                (path,) = panels.save(progress, Path(folder))
                line = f"Panel {index + 1} is drawn again, with seed {options.seed}."
                yield panels.exchange(paths, index, path, values["replaced"]) | {"status": status(line)}
        except Exception as error:  # the page must always get an answer
            yield report(error)

    def _again(self, paths: list[str], index: Any, line: str | None) -> tuple[Image.Image, Options]:
        """Return the reference and the options of a panel, read from its file, with other words and seed."""
        if not isinstance(index, int) or not 0 <= index < len(paths):
            raise ValueError(NO_PANEL)
        frame, options = self.work.repeat(paths[index])
        with belongs_to("line_remark"):
            words = " ".join((line or "").split())
            intake.check_prompt(words)
            (words,) = story.read_lines(words)
        return frame, replace(options, prompt=words)

    def _request(self, values: Update) -> tuple[Image.Image, list[Options]]:
        """Return the fitted reference and the options of each panel: all checks that need no GPU."""
        with belongs_to("remarks"):
            if not values["image"]:
                raise ValueError(NO_IMAGE)
            image = uploads.open_upload(values["image"])
        with belongs_to("unknown"):
            lines = story.read_lines(values["lines"] or "")
            for line in lines:
                intake.check_prompt(line)
        with belongs_to("setting_remark"):
            settings = {name: values[name] for name in SETTINGS}
            settings["seed"] = drawing.pick_seed(values["seed"])
            plan = story.plan(lines, self.work.form.options({"prompt": lines[0], **settings}))
        return drawing.fit_reference(self.loaded.pipe, image, plan[0]), plan

    def _time(self, frame: Image.Image, plan: list[Options]) -> Iterator[Progress]:
        """Yield the steps of the panels, and learn how long they took when all have arrived."""
        with closing(self._steps(frame, plan)) as steps:
            for progress in steps:
                yield progress
        self.work.pace.learn(replace(plan[0], seed=0, count=len(plan)), progress.seconds)

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
            image_guidance: higher keeps more of the subject, 1 is neutral; the model's own when left out
            text_guidance: higher follows the lines more closely, 1 is neutral; the model's own when left out
            seed: of the first panel, each further one adds 1; a new one when left out, or -1
        """
        values = {"image": image["path"] if isinstance(image, dict) else image, "lines": lines}
        values |= {"quality": quality, "image_guidance": image_guidance, "text_guidance": text_guidance}
        try:
            frame, plan = self._request(values | {"seed": seed})
            messages.warn_program(self._cuts([options.prompt for options in plan]))
            with closing(self._time(frame, plan)) as steps, uploads.workplace() as folder:
                for progress in steps:
                    seeds = [result.seed for result in progress.results]
                    yield [], panels.save(progress, Path(folder)), seeds
                files = [Path(folder, f"story{suffix}") for suffix in story.SUFFIXES]
                strips = [str(story.save_strip(file, progress.results)) for file in files]
                yield strips, panels.save(progress, Path(folder)), seeds
        except Exception as error:  # gradio's own message would say nothing, or too much
            raise gr.Error(explain_zero(error), print_exception=False) from error  # plain: programs read it

    endpoint.__name__ = "story"  # the tool name for language models
