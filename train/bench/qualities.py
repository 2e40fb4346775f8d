"""Compare cost and quality of the named qualities: `python -m train.bench qualities`.

Every quality draws the same held-out critters from the same seeds. Its cost is measured in CPU seconds, which
other load changes little, and in evaluations of the whole model per image; its score is CP x PF. The first
row, `best`, is the reference for the others.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from dsd.evaluation.scores import Scores, difference, requests
from dsd.evaluation.validation import CRITTERS, Benchmark, by_student, in_batches, open_benchmark
from dsd.files.jsonl import Row
from dsd.model.checkpoint import best_device
from dsd.model.pipeline import DSDPipeline
from dsd.model.sampling import QUALITIES
from train.bench.timing import Seconds, clock, count_branches

BATCH = 16
BEST = "best"


@dataclass(frozen=True)
class Result:
    """What a quality costs for all cases, and its scores."""

    scores: Scores
    seconds: Seconds
    evaluations: int  # of the whole transformer, for one image each


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each quality, `best` first."""
    from train.comparison import open_student

    pipe = open_student(args.model, base="pocket", device=args.device or best_device())
    benchmark = open_benchmark(CRITTERS, subjects=args.subjects, prompts=args.prompts)
    by_student(pipe, steps=1)(*requests(benchmark.cases[:1]))  # the first image of a process is slower
    best = measure(pipe, BEST, benchmark)
    yield row(BEST, best, best)
    for name in QUALITIES:
        if name != BEST:
            yield row(name, measure(pipe, name, benchmark), best)


def measure(pipe: DSDPipeline, quality: str, benchmark: Benchmark) -> Result:
    """Draw all cases with the guidance scales of the model, and score them."""
    draw = in_batches(by_student(pipe, steps=None, quality=quality), BATCH)
    work = partial(draw, *requests(benchmark.cases))
    (images, branches), seconds = clock(lambda: count_branches(pipe.transformer, work))
    return Result(benchmark.evaluate(lambda *_: images), seconds, sum(branches))


def row(name: str, result: Result, best: Result) -> Row:
    """Return the row of a quality: its cost per image, its scores, and both relative to `best`."""
    count, means = len(result.scores.rows), result.scores.means
    interval = difference(result.scores, best.scores)["product"]
    return {
        "way": f"quality {name}" if name != BEST else BEST, "images": count,
        "evaluations": round(result.evaluations / count, 2),
        "cpu s": round(result.seconds.cpu / count, 3), "s": round(result.seconds.wall / count, 3),
        "fewer evaluations": round(best.evaluations / result.evaluations, 2),
        "times faster": round(best.seconds.cpu / result.seconds.cpu, 2),
        "CP": round(means["identity"].mean, 4), "PF": round(means["following"].mean, 4),
        "CP x PF": round(means["product"].mean, 4),
        "share of best": round(means["product"].mean / best.scores.means["product"].mean, 4),
        "difference, 95 %": [round(interval.low, 4), round(interval.high, 4)],
    }  # fmt: skip
