"""What the Grids and Curate tabs work with in tests: a tiny teacher, a judge who says as told, a run."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from diffusers import FluxPipeline

from dsd.curation import judge as curation
from dsd.curation.review import ALL
from dsd.curation.verdict import Thresholds
from dsd.grids.grids import Grid
from dsd.grids.recipes import CRITTERS
from dsd.grids.teacher import Settings, Teacher
from dsd.model.checkpoint import model_hash
from dsd.ui.curate.handlers import SLIDERS, Curating
from dsd.ui.models import Lazy, Wheel
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
    "no idea",  # asked again, after the others
)
LIMITS = Thresholds(floor=0.81, ceiling=0.998)  # one pair of the first grid lies below, and one above
OWN = (LIMITS.floor, LIMITS.ceiling, LIMITS.minimum_score)


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
            [Grid.from_json(grid)], run=folder, vlm=vlm, embedder=judging.FakeEyes(), thresholds=LIMITS
        )
        append(folder / "pairs.jsonl", [pair.to_json() for pair in pairs])
    return folder


def curating(run: Path | None, *, own: bool = True) -> Curating:
    return Curating(wheel(run=run, own=own))


def view(work: Curating, *, limits=OWN, show=ALL, page=1, known=None, shown=(), said=None) -> dict:
    sliders = dict(zip(SLIDERS, limits, strict=True))
    values = {"show": show, "page": page, "known": known or {}, "shown": list(shown)}
    return work.view({**sliders, **values, "own_labels": said or {}})


def opened(work: Curating, *, again: bool = False) -> dict:
    return work.open({"is_open": again, "own_labels": {}})


def label(work: Curating, pair: str, verdict: str, said: dict | None = None) -> dict:
    sliders = dict(zip(SLIDERS, OWN, strict=True))
    return work.label(pair, verdict, {"own_labels": said or {}, **sliders})


def row(pair: str, verdict: str) -> dict:
    """What the page itself records of a click."""
    return {pair: curation.new_label(pair, verdict)}


def ids(seen: dict) -> list[str]:
    return seen["shown"]


def cards(seen: dict) -> list[str]:
    """The words and buttons of every card."""
    return seen["cards"].value


def begins(seen: dict) -> list[str] | None:
    """The images of every card; None where they are not sent again."""
    return seen["cards"].props.get("begins")


def pressed(card: str) -> list[str]:
    return re.findall(r'data-label="(\w+)" aria-pressed="true"', card)
