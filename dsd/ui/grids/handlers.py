"""Event handlers of the Grids tab: draw a grid from words, show its progress, cut it and judge its panels.

As in `dsd.ui.generate.handlers`, they take the page's raw values and turn every invalid input into a
sentence. The judge's opinion says how well the panels agree. The grid is shown with or without a judge.
"""

import html
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import gradio as gr
import spaces
from PIL import Image

from dsd.curation import judge as curation
from dsd.curation.verdict import Thresholds
from dsd.files import intake
from dsd.files.jsonl import Row
from dsd.generate import drawing as generate
from dsd.generate import provenance
from dsd.grids import grids, prompts, references, writers
from dsd.grids.recipes import CRITTERS, IDENTITY, Recipe
from dsd.ui import uploads
from dsd.ui.generate.cost import SECONDS_PER_EVALUATION, START_SECONDS
from dsd.ui.generate.handlers import PREVIEW_SECONDS, whole
from dsd.ui.grids import facts as grid_facts
from dsd.ui.loaded import Wheel
from dsd.ui.messages import done, explained, problem, status, time_left

ROWS, COLUMNS = 2, 2
PANELS = ROWS * COLUMNS
PAIRS = PANELS * (PANELS - 1) // 2
SECONDS_PER_PAIR = 2  # for a judge on a ZeroGPU device; an allowance, not a measurement
EXAMPLES = {  # recipe -> subjects, each with four places
    CRITTERS.name: (
        ("red round striped critter with long ears", ("beach blue hat", "forest", "snow red scarf", "space")),
        ("teal boxy spotted critter with no ears", ("city", "sea", "room yellow balloon", "desert night")),
        ("purple tall plain critter with pointy ears", ("forest white flag", "beach sunset", "city", "snow")),
        ("yellow pointy striped critter with round ears", ("room", "desert red hat", "space", "sea")),
    ),
    IDENTITY.name: (
        (
            "small ginger kitten with a white chin and a blue collar",
            (
                "on a sandy beach at noon",
                "in deep snow on a clear morning",
                "on a velvet sofa beside a lamp",
                "under neon signs on a wet street",
            ),
        ),
        (
            "round wooden robot with a brass key in its back",
            (
                "in a pine forest, sunbeams between the trunks",
                "on a kitchen table in the morning sun",
                "on a rooftop at night, city lights below",
                "in a field of sunflowers",
            ),
        ),
        (
            "green ceramic teapot shaped like a frog",
            (
                "on a mossy tree trunk in the rain",
                "on a library shelf between old books",
                "at a market stall heaped with fruit",
                "beside a campfire under the stars",
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Report:
    """Progress of a grid: its steps, then the finished grid, then one judged pair after another."""

    step: int
    total: int
    seconds_left: float = 0.0
    preview: Image.Image | None = None
    grid: Image.Image | None = None
    pairs: tuple[Row, ...] = ()
    unjudged: str | None = None  # why the judge stopped early


class DrawingGrids:
    """Event handlers for one teacher and its judge."""

    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel

        # As in `dsd.ui.generate.handlers`: ZeroGPU forks another process for every call, so the models
        # are opened before. Only rows and images are passed.
        @spaces.GPU(duration=self._gpu_seconds)
        def steps(grid: Row) -> Iterator[Report]:
            try:
                yield from drawn_and_judged(wheel, grid)
            except (ValueError, RuntimeError) as error:  # other types would arrive without a message
                raise gr.Error(html.escape(explained(error)), print_exception=False) from error

        self._steps = steps

    def _gpu_seconds(self, grid: Row) -> int:
        settings = self.wheel.teacher().settings
        area = PANELS * (settings.panel / 512) ** 2
        pairs = PAIRS if self.wheel.judge else 0
        return round(
            START_SECONDS + SECONDS_PER_EVALUATION * settings.steps * area + SECONDS_PER_PAIR * pairs
        )

    def example(self, index: int) -> tuple[str, ...]:
        """Return an example's subject and places for the fields."""
        subject, places = EXAMPLES[self.wheel.recipe.name][index]
        return subject, *places

    def surprise(self) -> tuple[str, ...]:
        """Return a random subject and places for the fields."""
        return surprise(self.wheel.recipe, random.randrange(generate.NEW_SEEDS))

    def draw(self, subject: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """Draw for the page: yield (grid, panels, facts, status, seed) at every step.

        An error removes nothing that is shown.
        """
        *places, seed, new_seed = values
        try:
            seed = generate.pick_seed(None if new_seed else seed)
            grid = grid_row(self.wheel.recipe, subject, places, whole(seed))
            yield gr.skip(), gr.skip(), gr.skip(), status(self._opening(), 0.0), grid["seed"]
            judge_missing = self._open(grid)
            yield None, gr.Gallery([], visible=False), "", gr.skip(), gr.skip()
            with closing(self._steps(grid)) as reports, uploads.workplace() as folder:
                yield from self._watched(reports, grid, judge_missing, Path(folder))
        except Exception as error:  # the page must always get an answer
            gr.Warning(html.escape(said := explained(error)), title="That did not work")
            yield gr.skip(), gr.skip(), gr.skip(), problem(said), gr.skip()

    def _opening(self) -> str:
        opened = self.wheel.teacher.is_open and (not self.wheel.judge or self.wheel.judge.is_open)
        return "Starting" if opened else "Opening the models, which takes a moment the first time"

    def _open(self, grid: Row) -> str | None:
        """Open both models and check the prompt; return why no judge is available, or None."""
        if reason := self.wheel.teacher().refuse(grid):
            raise ValueError(f"{reason}; use fewer words")
        if self.wheel.judge is None:
            return grid_facts.NO_JUDGE
        try:
            self.wheel.judge()
        except ValueError as error:  # the grid is shown even without a judge
            return explained(error)
        return None

    def _watched(
        self, reports: Iterator[Report], grid: Row, judge_missing: str | None, folder: Path
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what to show at every step; keep the grid if ZeroGPU's time ends before the judge is done."""
        shown = None
        try:
            for report in reports:
                yield self._shown(report, grid, judge_missing, folder)
                shown = report
        except Exception as error:
            if shown is None or shown.grid is None:
                raise
            left = replace(shown, unjudged="the judge did not get to the end")
            line = problem(f"The grid is drawn. {explained(error)}")
            yield gr.skip(), gr.skip(), self._facts(left, grid, judge_missing), line, gr.skip()

    def _shown(self, report: Report, grid: Row, judge_missing: str | None, folder: Path) -> tuple[Any, ...]:
        if report.grid is None:
            line = f"Step {report.step} of {report.total} · {time_left(report.seconds_left)}"
            image = gr.skip() if report.preview is None else uploads.preview(report.preview, folder)
            return image, gr.skip(), gr.skip(), status(line, report.step / report.total), gr.skip()
        facts, judged = self._facts(report, grid, judge_missing), len(report.pairs)
        finished = judge_missing or report.unjudged or judged == PAIRS
        line = (
            done(f"Done, seed {grid['seed']}.")
            if finished
            else status(f"Drawn. Comparing pair {judged + 1} of {PAIRS}", judged / PAIRS)
        )
        if judged:  # the images are already shown
            return gr.skip(), gr.skip(), facts, line, gr.skip()
        image, panels = self._saved(report.grid, grid, folder)
        return image, gr.Gallery(panels, visible=True), facts, line, gr.skip()

    def _facts(self, report: Report, grid: Row, judge_missing: str | None) -> str:
        teacher = self.wheel.teacher()
        return grid_facts.facts(
            grid | teacher.stamp,
            borders=grids.check_gutters(report.grid, ROWS, COLUMNS),
            unknown=unknown_words(teacher.pipe.tokenizer_2, grid),
            pairs=report.pairs,
            expected=PAIRS,
            unjudged=judge_missing or report.unjudged,
        )

    def _saved(self, image: Image.Image, grid: Row, folder: Path) -> tuple[str, list[tuple[str, str]]]:
        """Return the grid and its panels as files that are marked as AI-generated."""
        panels = grids.panels(image, ROWS, COLUMNS, self.wheel.teacher().settings.margin)
        named = [
            (str(_marked(panel, place, folder / f"panel-{grid['seed']}-{i}.png")), f"{i}. {place}")
            for i, (panel, place) in enumerate(zip(panels, grid["places"], strict=True), 1)
        ]
        return str(_marked(image, grid["prompt"], folder / f"grid-{grid['seed']}.png")), named


def _marked(image: Image.Image, prompt: str, path: Path) -> Path:
    return provenance.save_marked(path, image, prompt)


def grid_row(recipe: Recipe, subject: str, places: Sequence[str], seed: int) -> Row:
    """Return the teacher's input row; raise PromptError for words that are missing or too long."""
    if not (isinstance(seed, int) and 0 <= seed <= generate.MAX_SEED):
        raise prompts.PromptError(f"seed must be a whole number from 0 to {generate.MAX_SEED}, got {seed}")
    prompt = prompts.compose_prompt(recipe, subject, places, ROWS, COLUMNS)
    return {
        "prompt": intake.check_prompt(prompt),
        "seed": seed,
        "rows": ROWS,
        "columns": COLUMNS,
        "recipe": recipe.name,
        "subject": " ".join(subject.split()),
        "places": [" ".join(place.split()) for place in places],
    }


def surprise(recipe: Recipe, seed: int) -> tuple[str, ...]:
    """Return a subject and four places that the recipe's own writer makes up and that fit its prompt."""
    subjects = [f"a {subject}" for subject, _ in EXAMPLES[IDENTITY.name]]
    random.Random(seed).shuffle(subjects)
    captions = references.pocket(seed) if recipe is CRITTERS else subjects
    for draft in writers.WITHOUT_MODEL[recipe.name](captions, PANELS, seed=seed):
        try:
            prompts.compose_prompt(recipe, draft.subject, draft.places, ROWS, COLUMNS)
        except prompts.PromptError:
            continue
        return draft.subject, *draft.places
    raise ValueError("no prompt could be made up: write one")


def unknown_words(tokenizer: Any, grid: Row) -> list[str]:
    """Return the visitor's words that the model has no token for and therefore ignores."""
    words = dict.fromkeys(" ".join([grid["subject"], *grid["places"]]).split())
    unknown = tokenizer.unk_token_id
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False).input_ids]


def drawn_and_judged(wheel: Wheel, grid: Row) -> Iterator[Report]:
    """Yield a report after every step and every judged pair; closing it stops before the next one."""
    from dsd.grids.teacher import stream  # imports all of diffusers

    teacher, image = wheel.teacher(), None
    clock = generate.Clock(teacher.settings.steps, PREVIEW_SECONDS)
    with closing(stream(teacher, [grid])) as drawing:
        for made in drawing:
            if isinstance(made, list):
                (image,) = made
                break
            clock.tick(1)
            preview = made.preview()[0] if clock.preview_due() else None
            yield Report(clock.done, clock.total, clock.seconds_left(), preview)
    ended = (clock.done, clock.total, 0.0, None, image)
    yield Report(*ended)
    if wheel.judge is None or not wheel.judge.is_open:
        return
    panels = grids.panels(image, ROWS, COLUMNS, teacher.settings.margin)
    yield from _judged(wheel, grid, panels, lambda *more: Report(*ended, *more))


def _judged(
    wheel: Wheel, grid: Row, panels: list[Image.Image], report: Callable[..., Report]
) -> Iterator[Report]:
    """Judge one pair at a time, so that visitors can watch the progress and stop it."""
    pairs: tuple[Row, ...] = ()
    try:
        for first, second in combinations(range(PANELS), 2):
            pair = {"first": first, "second": second, "recipe": grid["recipe"], "similarity": None}
            images = [(panels[first], panels[second])]
            pairs += tuple(curation.judge([pair], images, vlm=wheel.judge(), thresholds=Thresholds()))
            yield report(pairs)
    except ValueError as error:  # for example, a server that stopped; the grid is already drawn
        yield report(pairs, explained(error))
