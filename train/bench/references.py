"""Measure what further references gain: `python -m train.bench references --model RUN`.

Held-out critters are drawn from one reference and from several, in other contexts, with the same prompts and
seeds. The last row shows the first view again and again: what it gains does not come from the other views. A
view hides a trait if the scorer misreads that trait in it.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import Case, Interval, Scores, intervals
from dsd.evaluation.validation import Benchmark, by_student, in_batches
from dsd.files.jsonl import Row
from dsd.model.checkpoint import best_device
from dsd.model.pipeline import DSDPipeline
from dsd.pocket.draw import draw
from dsd.pocket.scorer import check_traits
from dsd.pocket.world import sample_context

COUNTS = (1, 2, 4)
BATCH = 8
STREAM = 314159  # separates these random numbers from those of every training and of the cases


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for one, two and four references, at most as many as the weights know, and the control."""
    from train.comparison import open_student

    pipe = open_student(args.model, base="pocket", device=args.device or best_device())
    if pipe.trained_references == 1:
        raise ValueError(
            f"{args.model} was trained with one reference: pass --model with a student that train.train has "
            "trained with --references 2 or more"
        )
    with contextlib.redirect_stdout(sys.stderr):  # keep the hub's messages out of the rows
        benchmark = Benchmark(validation_set(0, args.subjects, args.prompts), CritterScorer())
    yield from rows(pipe, benchmark, args.steps)


def rows(pipe: DSDPipeline, benchmark: Benchmark, steps: int | None) -> Iterator[Row]:
    """Yield the rows for a pipeline."""
    most = pipe.trained_references
    views = [draw_views(case, most) for case in benchmark.cases]
    ways = {_name(n): [row[:n] for row in views] for n in sorted({min(n, most) for n in (*COUNTS, most)})}
    ways[f"the first reference {most} times"] = [row[:1] * most for row in views]
    hidden, first = find_hidden(benchmark), None
    for way, shown in ways.items():
        scores = _evaluate(pipe, benchmark, shown, steps)
        first = first or scores
        yield _row(way, scores, first, hidden)


def _name(count: int) -> str:
    return f"{count} references" if count > 1 else "1 reference"


def draw_views(case: Case, count: int) -> list[Image.Image]:
    """Return the reference of a case, and further images of its critter in contexts of their own."""
    rng = np.random.default_rng((STREAM, int(case.subject)))
    size = case.reference.width
    further = [draw(case.facts.critter, sample_context(rng), size) for _ in range(count - 1)]
    return [case.reference, *further]


def find_hidden(benchmark: Benchmark) -> np.ndarray:
    """Return for each case, [cases], whether the scorer misreads a trait of the critter in its reference."""
    readings = benchmark.scorer.network.read([case.reference for case in benchmark.cases])
    cases = zip(benchmark.cases, readings, strict=True)
    return np.array([not all(check_traits(case.facts.critter, seen).values()) for case, seen in cases])


def _evaluate(
    pipe: DSDPipeline, benchmark: Benchmark, shown: list[list[Image.Image]], steps: int | None
) -> Scores:
    drawn = in_batches(by_student(pipe, steps=steps), BATCH)
    return benchmark.evaluate(lambda prompts, _, seeds: drawn(prompts, shown, seeds))


def _row(way: str, scores: Scores, first: Scores, hidden: np.ndarray) -> Row:
    means = {name: round(interval.mean, 4) for name, interval in scores.means.items()}
    return {
        "way": way, "cases": len(hidden), "CP": means["identity"], "unnamed": means["unnamed"],
        "PF": means["following"], "CP x PF": means["product"], "copy": means["copy"],
        "gain of CP": _gain(scores, first, np.ones_like(hidden)),
        "gain of CP where the first view hides a trait": _gain(scores, first, hidden),
        "cases there": int(hidden.sum()),
    }  # fmt: skip


def _gain(scores: Scores, first: Scores, chosen: np.ndarray) -> list[float] | None:
    """Return the mean gain over one reference with its 95 % interval; None for fewer than two subjects."""
    places = np.flatnonzero(chosen)
    subjects = [scores.subjects[i] for i in places]
    if len(set(subjects)) < 2:
        return None
    gains = [{"identity": scores.rows[i]["identity"] - first.rows[i]["identity"]} for i in places]
    gain: Interval = intervals(gains, subjects)["identity"]
    return [round(value, 4) for value in gain]
