"""Event handlers of the Grids tab: draw a grid from words, show its progress, cut it and judge its panels.

As in `dsd.ui.generate.handlers`, they turn every invalid input into a sentence. The grid is shown with or
without a judge.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.curation import judge as curation
from dsd.curation.judge import Pair
from dsd.curation.verdict import Thresholds
from dsd.files import intake
from dsd.generate import drawing as generate
from dsd.generate import provenance
from dsd.grids import grids, prompts, references
from dsd.grids.grids import Grid
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import CRITTERS, IDENTITY, Recipe
from dsd.grids.task_writers import WITHOUT_MODEL
from dsd.model import known_words
from dsd.model.presets import DEFAULT
from dsd.ui import messages, uploads
from dsd.ui.events import Update
from dsd.ui.generate.cost import SECONDS_PER_EVALUATION, START_SECONDS
from dsd.ui.generate.handlers import PREVIEW_SECONDS, belongs_to, report, whole
from dsd.ui.grids import facts as grid_facts
from dsd.ui.grids.examples import EXAMPLES
from dsd.ui.messages import convert_errors, explain, idle, problem, show, status, step_status
from dsd.ui.models import Wheel

ROWS, COLUMNS = 2, 2
PANELS = ROWS * COLUMNS
PAIRS = PANELS * (PANELS - 1) // 2
WHERE = ("Top left", "Top right", "Bottom left", "Bottom right")
PLACES = tuple(f"place_{panel}" for panel in range(PANELS))  # names of the fields
REMARKS = ("subject_remark", "place_remark", "setting_remark")  # messages at the fields
TOO_LONG = "subject and places are longer than the model reads, so that panels would be lost: use fewer words"
SECONDS_PER_PAIR = 2  # for a judge on a ZeroGPU device; an allowance, not a measurement


@dataclass(frozen=True)
class Report:
    """Progress of a grid: its steps, then the finished grid, then one judged pair after another."""

    step: int
    total: int
    seconds_left: float = 0.0
    preview: Image.Image | None = None
    is_refining: bool = False  # whether the panels are being drawn again
    grid: Image.Image | None = None
    row: Grid | None = None  # of the grid: where its panels are, or why it is rejected
    pairs: tuple[Pair, ...] = ()
    unjudged: str | None = None  # why the judge stopped early or did not start


class DrawingGrids:
    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel

        # As in `dsd.ui.generate.handlers`: ZeroGPU forks another process for every call, so the models
        # are opened before. Only rows and images are passed.
        @spaces.GPU(duration=self._gpu_seconds)
        def steps(prompt: Prompt) -> Iterator[Report]:
            with convert_errors():
                yield from draw_and_judge(wheel, prompt)

        self._steps = steps

    def _gpu_seconds(self, prompt: Prompt) -> int:
        settings = self.wheel.teacher().settings
        area = PANELS * (settings.panel / 512) ** 2
        pairs = PAIRS if self.wheel.judge else 0
        drawing = SECONDS_PER_EVALUATION * settings.steps * area * (1 + settings.refine)
        return round(START_SECONDS + drawing + SECONDS_PER_PAIR * pairs)

    def example(self, values: dict[str, Any]) -> Update:
        return _fill(*EXAMPLES[self.wheel.recipe.name][values["examples"]])

    def surprise(self) -> Update:
        return _fill(*surprise(self.wheel.recipe, random.randrange(generate.NEW_SEEDS)))

    def remark(self, values: dict[str, Any]) -> Update:
        """Return the notice below the words while they are typed: those that the teacher does not know.

        Only the embedded teacher is opened for that.
        """
        teacher, unknown = self.wheel.teacher, {}
        with suppress(ValueError):  # a click on Draw reports it
            if teacher.is_open or teacher.name == DEFAULT.name:
                typed = (values[name] or "" for name in ("subject", *PLACES))
                unknown = known_words.unknown_words(teacher().pipe, "\n".join(typed))
        return {"unknown": show(messages.unknown_words(unknown, "#grid-subject, #grid-places"))}

    def draw(self, values: dict[str, Any]) -> Iterator[Update]:
        """Yield updates of grid, panels, facts and status; an error removes nothing that is shown."""
        try:
            seed = whole(generate.pick_seed(values["seed"]))
            places = [values[name] for name in PLACES]
            prompt = new_prompt(self.wheel.recipe, values["subject"], places, seed)
            is_open = all(lazy.is_open for lazy in (self.wheel.teacher, self.wheel.judge) if lazy)
            line = "Starting" if is_open else "Opening the models, which takes a moment the first time"
            yield {"status": status(line, 0.0)} | _no_remarks()
            if self.wheel.teacher().refuse(prompt):
                yield {"status": idle("Nothing was drawn.")}
                with belongs_to("place_remark"):
                    raise ValueError(TOO_LONG)
            unjudged = self._open_judge()
            yield {"grid": None, "panels": gr.Gallery([], visible=False)} | _tell("")
            with closing(self._steps(prompt)) as reports, uploads.workplace() as folder:
                yield from self._follow(reports, prompt, unjudged, Path(folder))
        except Exception as error:  # the page must always get an answer
            yield _no_remarks() | report(error, words=explain)

    def _open_judge(self) -> str | None:
        """Open the judge; return why none is available, or None."""
        if self.wheel.judge is None:
            return grid_facts.NO_JUDGE
        try:
            self.wheel.judge()
        except ValueError as error:
            return explain(error)
        return None

    def _follow(
        self, reports: Iterator[Report], prompt: Prompt, unjudged: str | None, folder: Path
    ) -> Iterator[Update]:
        """Yield an update for each report; keep the grid if ZeroGPU's time ends before the judge is done."""
        last, shown = None, {}
        try:
            for report in reports:
                last = replace(report, unjudged=report.unjudged or unjudged)
                update = self._update(last, prompt, folder)
                # Sent again with every update: when two arrive at once, gradio's page loses a file that the
                # second does not repeat. A value that has not changed costs no transfer.
                shown |= {name: update[name] for name in ("grid", "panels") if name in update}
                yield {**shown, **update}
        except Exception as error:
            if last is None or last.grid is None:
                raise
            facts = self._facts(replace(last, unjudged=unjudged or "the judge could not finish"), prompt)
            yield _tell(facts) | {"status": problem(f"The grid is drawn. {explain(error)}")}

    def _update(self, report: Report, prompt: Prompt, folder: Path) -> Update:
        if report.grid is None:
            update = {"status": step_status(report.step, report.total, report.seconds_left)}
            if report.is_refining:
                update = {"status": status("Drawing each panel again", 1.0)}
            if report.preview is not None:
                update["grid"] = uploads.preview(report.preview, folder)
            return update
        count, line = len(report.pairs), status(f"Done, seed {prompt.seed}.")
        if not report.unjudged and count < PAIRS:
            line = status(f"Drawn. Comparing pair {count + 1} of {PAIRS}", count / PAIRS)
        update = _tell(self._facts(report, prompt)) | {"status": line}
        if count == 0:  # later, the images are already shown
            update |= _save(report, prompt, folder)
        return update

    def _facts(self, report: Report, prompt: Prompt) -> str:
        words = "\n".join([prompt.subject, *prompt.places])
        unknown = known_words.notice(known_words.unknown_words(self.wheel.teacher().pipe, words))
        judged = {"pairs": report.pairs, "expected": PAIRS, "unjudged": report.unjudged}
        return grid_facts.facts(report.row, unknown=unknown, **judged)


def finish(values: dict[str, Any]) -> Update:
    """Keep a finished grid; after a cancel, show the one before, or none, in the place of a preview."""
    if values["grid"] and Path(values["grid"]).suffix == ".png":  # a preview is a JPEG
        panels = [(item["image"]["path"], item["caption"]) for item in values["panels"] or []]
        return {"kept": {"grid": values["grid"], "panels": panels, "facts": values["told"]}}
    kept = values["kept"]
    if not kept or not all(Path(path).is_file() for path in (kept["grid"], *dict(kept["panels"]))):
        return {"grid": None}
    return kept | {"panels": gr.Gallery(kept["panels"], visible=True)}


def _no_remarks() -> Update:
    return {name: show() for name in REMARKS}


def _tell(facts: str) -> Update:
    """Return the facts for the visitor, and for `finish`, which takes no HTML from a browser."""
    return {"facts": facts, "told": facts}


def _save(report: Report, prompt: Prompt, folder: Path) -> Update:
    """Save the grid and its panels as files that are marked as AI-generated, and show them."""
    panels, cuts = [], _panels(report.grid, report.row)
    for number, (panel, place) in enumerate(zip(cuts, prompt.places, strict=True), 1):
        path = provenance.save_marked(folder / f"panel-{prompt.seed}-{number}.png", panel, place)
        panels.append((str(path), f"{number}. {place}"))
    grid = provenance.save_marked(folder / f"grid-{prompt.seed}.png", report.grid, prompt.prompt)
    return {"grid": str(grid), "panels": gr.Gallery(panels, visible=True)}


def _panels(image: Image.Image, grid: Grid) -> list[Image.Image]:
    """Return the panels; those of a rejected grid are equal parts."""
    return grids.panels(image, ROWS, COLUMNS, grid.margin, grid.boxes)


def _fill(subject: str, places: Sequence[str]) -> Update:
    return {"subject": subject, **dict(zip(PLACES, places, strict=True))}


def new_prompt(recipe: Recipe, subject: str, places: Sequence[str], seed: int) -> Prompt:
    """Return the teacher's prompt; raise ValueError for words that are missing or too long."""
    with belongs_to("setting_remark"):
        if not (isinstance(seed, int) and 0 <= seed <= generate.MAX_SEED):
            raise ValueError(f"seed must be a whole number from 0 to {generate.MAX_SEED}, got {seed}")
    with belongs_to("subject_remark"):
        subject = prompts.check_words(recipe, "subject", subject)
    with belongs_to("place_remark"):
        places = [" ".join((place or "").split()) for place in places]
        if empty := [where.lower() for where, place in zip(WHERE, places, strict=True) if not place]:
            raise ValueError(f"nothing is written at {', '.join(empty)}: write at least one word there")
        text = intake.check_prompt(prompts.compose_prompt(recipe, subject, places, ROWS, COLUMNS))
    made = {"id": "page", "recipe": recipe.name, "prompt": text, "subject": subject, "places": places}
    return Prompt(**made, rows=ROWS, columns=COLUMNS, seed=seed)


def surprise(recipe: Recipe, seed: int) -> tuple[str, tuple[str, ...]]:
    """Return a subject and four places that the recipe's own writer makes up and that fit its prompt."""
    subjects = [f"a {subject}" for subject, _ in EXAMPLES[IDENTITY.name]]
    random.Random(seed).shuffle(subjects)
    captions = references.pocket(seed) if recipe is CRITTERS else subjects
    for draft in WITHOUT_MODEL[recipe.name](captions, PANELS, seed=seed):
        try:
            prompts.compose_prompt(recipe, draft.subject, draft.places, ROWS, COLUMNS)
        except prompts.PromptError:
            continue
        return draft.subject, draft.places
    raise ValueError("no prompt could be made up: write one")


def draw_and_judge(wheel: Wheel, prompt: Prompt) -> Iterator[Report]:
    """Yield a report after every step and every judged pair; closing it stops before the next one."""
    teacher, image = wheel.teacher(), None
    clock = generate.Clock(teacher.settings.steps, PREVIEW_SECONDS)
    with closing(teacher.stream([prompt])) as steps:
        for step in steps:
            if isinstance(step, list):
                (image,) = step
                break
            clock.tick(1)
            # Teachers other than FLUX.1 have no previews.
            preview = next(iter(step.preview()), None) if clock.preview_due() else None
            yield Report(clock.done, clock.total, clock.seconds_left(), preview)
    boxes = teacher.find_panels(image, prompt)
    if teacher.settings.refine and not isinstance(boxes, str):
        yield Report(clock.done, clock.total, preview=image, is_refining=True)
    (image,) = teacher.refine([image], [prompt], [boxes])
    grid = grids.new_grid(prompt, None, boxes, teacher.stamp)
    report = Report(clock.done, clock.total, grid=image, row=grid)
    yield report
    if wheel.judge is None or not wheel.judge.is_open:
        return
    panels = _panels(image, grid)
    try:
        for first, second in combinations(range(PANELS), 2):  # one at a time, so that visitors can watch
            pair, images = curation.new_pair(grid, first, second), (panels[first], panels[second])
            judged = curation.judge([pair], [images], vlm=wheel.judge(), thresholds=Thresholds())
            report = replace(report, pairs=(*report.pairs, *judged))
            yield report
    except ValueError as error:  # for example, a server that stopped; the grid is already drawn
        yield replace(report, unjudged=explain(error))
