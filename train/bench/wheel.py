"""Measure speed and memory: `python -m train.bench WHAT`, one line of JSON a row.

`wheel` measures grids and judged pairs per second at several batch sizes, the share of the time spent outside
the models, and the gain from many requests in flight to a judge behind an address.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dsd.curation import judge as curation
from dsd.curation.verdict import Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from dsd.grids import grids, prompts
from dsd.grids.prompts import Prompt, PromptOptions
from dsd.vlm.open import VLM, Request, open_vlm
from train import command
from train.bench.loopback import speedup
from train.blocks import join
from train.grids import draw_run

if TYPE_CHECKING:
    from dsd.grids.teacher import Teacher
    from dsd.vlm.embed import Embedder

BATCHES = (1, 8, 32)


class Timed:
    """A function that counts the seconds spent in it."""

    def __init__(self, function: Callable):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: object, **options: object) -> object:
        began = time.perf_counter()
        try:
            return self.function(*args, **options)
        finally:
            self.seconds += time.perf_counter() - began


class TimedVLM(VLM):
    """A judge that counts the seconds spent on its answers."""

    def __init__(self, vlm: VLM):
        self.vlm, self.name, self.weights = vlm, vlm.name, vlm.weights
        self.batch, self.seconds = vlm.batch, 0.0

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        answer = Timed(partial(next, self.vlm.ask_many(requests), None))
        while (text := answer()) is not None:
            self.seconds, answer.seconds = self.seconds + answer.seconds, 0.0
            yield text


class TimedEyes:
    """An embedder that counts the seconds spent on embedding."""

    def __init__(self, embedder: "Embedder"):
        self.name, self.embed = embedder.name, Timed(embedder.embed)


class TimedTeacher:
    """A teacher that counts the seconds spent on drawing."""

    def __init__(self, teacher: "Teacher"):
        self.stamp, self.refuse, self.draw = teacher.stamp, teacher.refuse, Timed(teacher.draw)


def _row(part: str, batch: int, count: int, unit: str, total: float, model: float) -> Row:
    return {
        "part": part, "batch": batch, unit: count, f"{unit}/s": round(count / total, 2),
        "model s": round(model, 2), "everything else": round(1 - model / total, 4),
    }  # fmt: skip


def bench_grids(folder: Path, count: int, steps: int | None) -> Iterator[Row]:
    """Yield the speed from prompts to checked PNGs on disk, as in `train.grids`."""
    from dsd.grids.teacher import load_teacher

    teacher = load_teacher("pocket", steps=steps)
    asked = _prompts(folder, count)
    teacher.draw(asked[:1])  # the first call of a process is slower
    for batch in BATCHES:
        timed, began = TimedTeacher(teacher), time.perf_counter()
        draw_run(folder / f"{batch}", asked, timed, batch=batch)
        yield _row("grids", batch, count, "grids", time.perf_counter() - began, timed.draw.seconds)


def _prompts(folder: Path, count: int) -> list[Prompt]:
    """Return the first prompts of the drawn world."""
    prompts.write_prompts(folder, PromptOptions(count=count))
    return grids.read_prompts(folder)


def bench_judge(run: Path) -> Iterator[Row]:
    """Yield the speed from grids on disk to judged rows on disk, as in `train.curate`."""
    from dsd.vlm.embed import open_embedder

    rows = grids.read_grids(run)
    for batch in BATCHES:
        vlm = open_vlm("pocket", batch=batch)
        judge, eyes = TimedVLM(vlm), TimedEyes(open_embedder("judge", vlm=vlm))
        options = {"run": run, "vlm": judge, "embedder": eyes, "thresholds": Thresholds()}
        began = time.perf_counter()
        with jsonl.writing(run / f"pairs-{batch}.jsonl") as append:
            for start in range(0, len(rows), 16):
                pairs = curation.judge_grids(rows[start : start + 16], **options)
                append([pair.to_json() for pair in pairs])
        total, model = time.perf_counter() - began, judge.seconds + eyes.embed.seconds
        yield _row("judge", batch, len(rows) * math.comb(4, 2), "pairs", total, model)


def wheel(count: int, steps: int | None) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        yield from bench_grids(Path(folder), count, steps)
        yield from bench_judge(Path(folder) / f"{BATCHES[-1]}")
    part = "judge behind an address"
    yield {"part": part, "s an answer": 0.2, "32 in flight against 1": round(speedup(), 1)}


def main(argv: list[str] | None = None) -> int:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("wheel", "training", "load", "inference", "qualities"))
    parser.add_argument("--count", type=int, default=64, help="grids, or pairs to train on (64)")
    parser.add_argument(
        "--steps", type=int, help="wheel: denoising steps (the teacher's own); training: steps compared (64)"
    )
    parser.add_argument("--model", default="pocket", help="all but wheel and load: the model (pocket)")
    add = parser.add_argument
    add("--clients", type=int, default=50, help="load: clients at once (50)")
    add("--minutes", type=float, default=5.0, help="load: how long they stay (5)")
    add("--images", type=int, default=500, help="load: images in a row (500)")
    add("--device", help="inference, qualities: cpu, cuda, mps; the best there is when left out")
    add("--rounds", type=int, default=5, help="inference: turns of each way (5)")
    add("--subjects", type=int, default=24, help="qualities: held-out critters (24)")
    add("--prompts", type=int, default=1, help="qualities: prompts for each of them (1)")
    add("--only", nargs="+", metavar="WORD", help="qualities: only ways with one of these in the name")
    args = parser.parse_args(argv)
    quiet()
    join()
    for row in _rows(args):
        print(json.dumps(row), flush=True)
    return 0


def _rows(args: argparse.Namespace) -> Iterator[Row]:
    if args.what == "load":
        from train.bench.load import load

        return load(args.clients, args.minutes, args.images, args.steps or 4)
    if args.what == "training":
        from train.bench.training import training_rows

        return training_rows(args.count, args.steps, args.model)
    if args.what == "inference":
        from train.bench.inference import inference_rows

        return inference_rows(args)
    if args.what == "qualities":
        from train.bench.qualities import quality_rows

        return quality_rows(args)
    return wheel(args.count, args.steps)
