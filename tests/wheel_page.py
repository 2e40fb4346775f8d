"""What the Grids and Curate tabs work with in tests: a tiny teacher, a judge who says as told, a run."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from diffusers import FluxPipeline

from dsd.curation import judge as curation
from dsd.curation.review import ALL
from dsd.curation.verdict import Thresholds
from dsd.grids.recipes import CRITTERS
from dsd.grids.teacher import Settings, Teacher
from dsd.model.checkpoint import model_hash
from dsd.ui.curate.handlers import Curating
from dsd.ui.loaded import Lazy, Wheel
from dsd.vlm.open import Request
from tests import judging, tiny
from tests.wheel import append, make_grid

STEPS = 3
SAID = (  # of the six pairs of every grid that get as far as the judge, in turn
    judging.answer(),
    judging.answer("different", eyes=0),
    judging.answer(pattern=2),
    "no idea",
    judging.answer(color=3),
)
LIMITS = Thresholds(floor=0.9, ceiling=0.9994)
OWN = (LIMITS.floor, LIMITS.ceiling, LIMITS.minimum_score)
TOLD = 6  # outputs before the cards: rates, agreement, filter, page, position, ids


def teacher(*, steps: int = STEPS, tokens: int = 400) -> Teacher:
    """Its tokenizer makes a token of every letter."""
    parts = tiny.components()
    torch.manual_seed(0)
    pipe = FluxPipeline(**{**parts, "transformer": tiny.plain_transformer()})
    pipe.set_progress_bar_config(disable=True)
    settings = Settings(panel=tiny.FRAME, margin=0, steps=steps, tokens=tokens)
    return Teacher(pipe=pipe, settings=settings, name="tiny", hash=model_hash(pipe))


def late(thing: object, name: str = "tiny") -> Lazy:
    return Lazy(name, lambda: thing)


def judge(said: Callable[[Request], str] | Iterable[str] = lambda request: judging.answer()) -> Lazy:
    return late(judging.FakeJudge(said))


def wheel(**changed: object) -> Wheel:
    return Wheel(**{"teacher": late(teacher()), "recipe": CRITTERS, "judge": judge(), **changed})


def judged_run(folder: Path, *, grids: int = 3, **changed: object) -> Path:
    """Judged by the library itself; `changed` replaces fields of every grid's row."""
    turn = iter(range(10_000))
    vlm = judging.FakeJudge(lambda request: SAID[next(turn) % len(SAID)])
    for index in range(grids):
        grid = make_grid(folder, index) | changed
        append(folder / "grids" / "grids.jsonl", [grid])
        pairs = curation.judge_grids(
            [grid], run=folder, vlm=vlm, embedder=judging.FakeEyes(), thresholds=LIMITS
        )
        append(folder / "pairs.jsonl", pairs)
    return folder


def curating(run: Path | None, *, own: bool = True) -> Curating:
    return Curating(wheel(run=run, own=own))


def view(work: Curating, *, limits=OWN, show=ALL, page=1, known=None, shown=(), said=None) -> tuple:
    return work.view(*limits, show, page, known or {}, list(shown), said or {})


def ids(seen: tuple) -> list[str]:
    return seen[TOLD - 1]


def cards(seen: tuple) -> list[tuple]:
    """(card, images, words, accept, reject) of those that are shown."""
    parts = seen[TOLD:]
    found = [parts[i : i + 5] for i in range(0, len(parts), 5)]
    return [card for card in found if card[0].visible]
