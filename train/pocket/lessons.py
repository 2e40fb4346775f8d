"""The lessons of the teacher's training: grids of one layout, with their prompts.

Some grids do not show one critter, so that curation has real work to do. In copying lessons some panels are
shown and only the others are learned: copying traits that no word names lowers the loss at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dsd.pocket.phrases import phrase
from dsd.pocket.words import NAMED, edit_prompt, grid_prompt, relight_prompt
from train.pocket import scenes, text
from train.pocket.loop import ranks

TEXT_DROPOUT, IMPERFECT, SEED = 0.1, 0.1, 11
# Share of grid prompts that describe every panel; the rest describe fewer. If all panels are always
# described, the model learns which scenes a grid has but never where they are: knowing the quadrant and
# reading the right words help only together.
ALL_SAID = 0.5
PAIR_TOKENS, GRID_TOKENS = text.LAYOUT_TOKENS["1x2"], text.LAYOUT_TOKENS["2x2"]
UNTOLD, UNTOLD_COPYING = 0.4, 0.7  # shares of grid prompts without traits: panels must attend to each other


@dataclass(frozen=True)
class Lesson:
    """What one step teaches: grids of one layout."""

    rows: int
    columns: int
    tokens: int  # of text
    batch: float  # relative to single images, so that all lessons cost about as much
    copying: bool = False  # some panels are shown, all are of one critter, and only the others are learned
    relit: bool = False  # all panels show one scene, each in another light
    edited: bool = False  # all panels show one scene, each with one thing changed


Stages = dict[float, dict[Lesson, float]]
SINGLES = Lesson(1, 1, text.T5_TOKENS, 1.0)
PAIRS, COPIED_PAIRS = (Lesson(1, 2, PAIR_TOKENS, 0.57, copying) for copying in (False, True))
GRIDS, COPIED_GRIDS = (Lesson(2, 2, GRID_TOKENS, 0.29, copying) for copying in (False, True))
RELIT, COPIED_RELIT = (Lesson(2, 2, GRID_TOKENS, 0.29, copying, relit=True) for copying in (False, True))
EDITED, COPIED_EDITED = (Lesson(2, 2, GRID_TOKENS, 0.29, copying, edited=True) for copying in (False, True))
# Lessons and their shares, by the share of the training that has passed. Words are learned from many single
# images; until they are known, grids teach little.
STAGES = {
    0.0: {SINGLES: 1.0},
    0.4: {SINGLES: 0.3, PAIRS: 0.2, COPIED_PAIRS: 0.5},
    0.55: {SINGLES: 0.22, PAIRS: 0.1, COPIED_PAIRS: 0.13, GRIDS: 0.28, COPIED_GRIDS: 0.17, RELIT: 0.05,
           COPIED_RELIT: 0.05},
}  # fmt: skip
# The same with a last stage that also teaches the tasks. Not used yet for a training from nothing.
TASK_STAGES = STAGES | {
    0.55: {SINGLES: 0.12, PAIRS: 0.04, COPIED_PAIRS: 0.04, GRIDS: 0.3, COPIED_GRIDS: 0.12, RELIT: 0.1,
           COPIED_RELIT: 0.08, EDITED: 0.12, COPIED_EDITED: 0.08},
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """One sample of a lesson."""

    panels: list[int]  # indices in the family
    prompt: str
    shown: list[bool]  # for each panel


def sample_grid(truths: scenes.Truths, index: int, lesson: Lesson, rng: np.random.Generator) -> Grid:
    """Sample a grid of family `index`."""
    count = lesson.rows * lesson.columns
    if count == 1:
        panel = int(rng.integers(scenes.FAMILY))
        scene = truths.scene(index, panel)
        return Grid([panel], phrase(scene, scene, rng, describe=0.9), [False])
    one_scene = lesson.relit or lesson.edited
    related = scenes.ONE_CONTEXT if lesson.relit else scenes.EDITED
    panels = rng.permutation(related if one_scene else scenes.SAME)[:count]
    shown = np.zeros(count, bool)
    if lesson.copying:
        shown[rng.permutation(count)[: int(rng.integers(1, count))]] = True
    elif not one_scene and rng.random() < IMPERFECT:
        wrong = rng.permutation(count)[: int(rng.integers(1, count // 2 + 1))]
        panels[wrong] = scenes.SAME + rng.permutation(scenes.CHANGED)[: len(wrong)]
    described = rng.permutation(count)[: count if rng.random() < ALL_SAID else int(rng.integers(1, count))]
    contexts, traits = [truths.scene(index, p) for p in panels.tolist()], _sample_traits(lesson, rng)
    if one_scene:
        write = relight_prompt if lesson.relit else edit_prompt
        prompt = write(contexts[0], contexts, traits=traits)
    else:
        prompt = grid_prompt(truths.scene(index, 0), contexts, traits=traits, panels=described.tolist())
    return Grid(panels.tolist(), prompt, shown.tolist())


def _sample_traits(lesson: Lesson, rng: np.random.Generator) -> tuple[str, ...]:
    """Sample the traits that a grid's prompt names."""
    if rng.random() < (UNTOLD_COPYING if lesson.copying else UNTOLD):
        return ()
    return NAMED if rng.random() < 0.8 else tuple(t for t in NAMED if rng.random() < 0.5)


@dataclass(frozen=True)
class Batch:
    """The samples of one step: grids of one lesson."""

    lesson: Lesson
    families: Tensor  # [B]
    panels: Tensor  # [B, rows columns]
    shown: Tensor  # [B, rows columns], bool
    t5: Tensor  # [B, tokens]
    clip: Tensor  # [B, CLIP_TOKENS]


class Sampler(Dataset):
    """The batches of all steps, `sampler[step]`; the steps are the part `lessons` of the whole training."""

    def __init__(
        self,
        truths: scenes.Truths,
        batch: int,
        *,
        steps: int,
        lessons: tuple[float, float] = (0.0, 1.0),
        stages: Stages = STAGES,
    ):
        self.stages = stages
        self.spell, self.truths, self.batch = text.Speller(), truths, batch
        self.steps, self.lessons = steps, lessons
        self.rank = ranks()[0]  # read here, as a worker process has no rank

    def passed(self, step: int) -> float:
        """Return the share of the whole training that has passed, which chooses the stage."""
        start, stop = self.lessons
        return start + (stop - start) * step / self.steps

    def __getitem__(self, step: int) -> Batch:
        lesson = choose(step, stage(self.passed(step), self.stages))
        rng = np.random.default_rng((SEED, step, self.rank))
        families = rng.integers(self.truths.families, size=round(lesson.batch * self.batch))
        grids = [sample_grid(self.truths, family, lesson, rng) for family in families.tolist()]
        prompts = ["" if rng.random() < TEXT_DROPOUT else grid.prompt for grid in grids]
        panels = torch.tensor([grid.panels for grid in grids])
        shown = torch.tensor([grid.shown for grid in grids])
        return Batch(lesson, torch.from_numpy(families), panels, shown, *self.spell(prompts, lesson.tokens))


def stage(passed: float, stages: Stages = STAGES) -> dict[Lesson, float]:
    """Return the lessons and their shares after this share of the training."""
    return stages[max(start for start in stages if start <= passed)]


def choose(step: int, lessons: dict[Lesson, float]) -> Lesson:
    """Choose the lesson of a step, the same in every process."""
    rng = np.random.default_rng((SEED + 1, step))
    return list(lessons)[rng.choice(len(lessons), p=list(lessons.values()))]
