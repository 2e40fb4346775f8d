"""Measure the data wheel: grids drawn and pairs judged per second, at several batch sizes."""

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dsd.curation import judge as curation
from dsd.curation.judge import Pair
from dsd.curation.verdict import own_thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.grids import grids, prompts
from dsd.grids.grids import Grid
from dsd.grids.recipes import CRITTERS
from dsd.grids.teacher import load_teacher
from dsd.pocket.embedding import open_critter_embedder
from dsd.vlm.open import open_vlm
from train.bench.timing import clock
from train.grids import draw_run

BATCHES = (1, 8, 32)


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from grid_rows(Path(folder), args.count, args.steps)
        yield from judge_rows(Path(folder) / f"{BATCHES[-1]}")


def grid_rows(folder: Path, count: int, steps: int | None) -> Iterator[Row]:
    """Yield the speed from prompts to checked PNGs on disk, as in `train.grids`."""
    prompts.write_prompts(folder, prompts.PromptOptions(count=count))
    rows, teacher = grids.read_prompts(folder), load_teacher("pocket", steps=steps)
    grids.draw_grids(folder, rows[:1], teacher)  # the first call of a process is slower
    for batch in BATCHES:
        teacher = replace(teacher, settings=replace(teacher.settings, batch=batch))
        _, seconds = clock(partial(draw_run, folder / f"{batch}", rows, teacher))
        yield _row("grids", batch, count, "grids", seconds.wall)


def judge_rows(run: Path) -> Iterator[Row]:
    """Yield the speed from grids on disk to judged rows on disk, as in `train.curate`."""
    rows = grids.read_grids(run)
    for batch in BATCHES:
        options = {"run": run, "vlm": open_vlm("pocket", batch=batch), "embedder": open_critter_embedder()}
        judge = partial(curation.judge_grids, thresholds=own_thresholds(CRITTERS), **options)
        _, seconds = clock(partial(_judge_all, rows, judge, run / f"pairs-{batch}.jsonl"))
        yield _row("judge", batch, len(rows) * math.comb(4, 2), "pairs", seconds.wall)


def _judge_all(rows: list[Grid], judge: Callable[[list[Grid]], list[Pair]], table: Path) -> None:
    with jsonl.writing(table) as append:
        for start in range(0, len(rows), 16):
            append([pair.to_json() for pair in judge(rows[start : start + 16])])


def _row(part: str, batch: int, count: int, unit: str, seconds: float) -> Row:
    return {"part": part, "batch": batch, unit: count, f"{unit}/s": round(count / seconds, 2)}
