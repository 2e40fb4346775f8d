"""Measure what further references gain: `python -m train.bench references --model RUN`.

Held-out critters are drawn from one reference and from several, in other contexts, with the same prompts and
seeds: once from whole views, once where the first view is cut, so that the ears lie above the frame. The last
row of each shows the first view again and again: what it gains does not come from the other views.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import Case, Scores, difference
from dsd.evaluation.validation import Benchmark, by_student, in_batches
from dsd.files.jsonl import Row
from dsd.model.checkpoint import best_device
from dsd.model.pipeline import DSDPipeline
from dsd.pocket.draw import draw
from dsd.pocket.world import sample_context

COUNTS = (1, 2, 4)
BATCH = 8
CUT = -0.45  # how much higher a critter stands in a cut view, as a share of the frame
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
    benchmark = Benchmark(validation_set(0, args.subjects, args.prompts), CritterScorer())
    yield from rows(pipe, benchmark, args.steps)


def rows(pipe: DSDPipeline, whole: Benchmark, steps: int | None) -> Iterator[Row]:
    """Yield the rows for a pipeline."""
    most = pipe.trained_references
    cut = Benchmark([cut_reference(case) for case in whole.cases], whole.scorer)
    for name, benchmark in {"whole": whole, "cut": cut}.items():
        views, first = [draw_views(case, most) for case in benchmark.cases], None
        ways = {_name(n): [row[:n] for row in views] for n in sorted({min(n, most) for n in (*COUNTS, most)})}
        ways[f"the first reference {most} times"] = [row[:1] * most for row in views]
        for way, shown in ways.items():
            scores = _evaluate(pipe, benchmark, shown, steps)
            first = first or scores
            yield {"first view": name, "way": way, **_figures(scores, first)}


def _name(count: int) -> str:
    return f"{count} references" if count > 1 else "1 reference"


def draw_views(case: Case, count: int) -> list[Image.Image]:
    """Return the reference of a case, and further images of its critter in contexts of their own."""
    rng = np.random.default_rng((STREAM, int(case.subject)))
    size = case.reference.width
    further = [draw(case.facts.critter, sample_context(rng), size) for _ in range(count - 1)]
    return [case.reference, *further]


def cut_reference(case: Case) -> Case:
    """Return the case with a reference in which the critter stands too high, its ears above the frame."""
    scene = case.facts
    context = replace(scene.reference, jitter=(0.0, CUT))
    return replace(case, reference=draw(scene.critter, context, case.reference.width))


def _evaluate(
    pipe: DSDPipeline, benchmark: Benchmark, shown: list[list[Image.Image]], steps: int | None
) -> Scores:
    drawn = in_batches(by_student(pipe, steps=steps), BATCH)
    return benchmark.evaluate(lambda prompts, _, seeds: drawn(prompts, shown, seeds))


def _figures(scores: Scores, first: Scores) -> Row:
    means = {name: round(interval.mean, 4) for name, interval in scores.means.items()}
    gain = difference(scores, first)["identity"]
    return {
        "cases": len(scores.rows), "CP": means["identity"], "unnamed": means["unnamed"],
        "PF": means["following"], "CP x PF": means["product"], "copy": means["copy"],
        "gain of CP": round(gain.mean, 4), "gain, 95 %": [round(gain.low, 4), round(gain.high, 4)],
    }  # fmt: skip
