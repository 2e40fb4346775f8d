"""Measure the data wheel: grids drawn and pairs judged per second, at several batch sizes."""

import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dsd.curation import judge as curation
from dsd.curation.verdict import Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.grids import grids, prompts
from dsd.grids.teacher import draw, load_teacher
from dsd.vlm.embed import open_embedder
from dsd.vlm.open import open_vlm
from train.bench.timing import timed
from train.grids import stage

BATCHES = (1, 8, 32)


def wheel_rows(count: int, steps: int | None) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from grid_rows(Path(folder), count, steps)
        yield from judge_rows(Path(folder) / f"{BATCHES[-1]}")


def grid_rows(folder: Path, count: int, steps: int | None) -> Iterator[Row]:
    """Yield the speed from prompts to checked PNGs on disk, as in `train.grids`."""
    prompts.write_prompts(folder, prompts.Options(count=count))
    rows, teacher = grids.read_prompts(folder), load_teacher("pocket", steps=steps)
    draw(teacher, rows[:1])  # the first call of a process is slower
    for batch in BATCHES:
        _, seconds = timed(stage(folder / f"{batch}", rows, teacher, batch=batch).run)
        yield _row("grids", batch, count, "grids", seconds.wall)


def judge_rows(run: Path) -> Iterator[Row]:
    """Yield the speed from grids on disk to judged rows on disk, as in `train.curate`."""
    rows = jsonl.read_all(grids.table(run))
    for batch in BATCHES:
        vlm = open_vlm("pocket", batch=batch)
        embedder = open_embedder("judge", vlm=vlm)
        judge = partial(curation.judge_grids, run=run, vlm=vlm, embedder=embedder, thresholds=Thresholds())
        table = run / f"pairs-{batch}.jsonl"
        work = partial(jsonl.run_blocks, table, rows, judge, batch=16, item_of=curation.grid_of)
        yield _row("judge", batch, len(rows) * math.comb(4, 2), "pairs", timed(work)[1].wall)


def _row(part: str, batch: int, count: int, unit: str, seconds: float) -> Row:
    return {"part": part, "batch": batch, unit: count, f"{unit}/s": round(count / seconds, 2)}
