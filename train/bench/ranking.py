"""Measure what ranking gains: `python -m train.bench ranking --ranker FOLDER`.

Every held-out critter is drawn from several seeds. The ranker, a scorer of another seed, chooses the best by
the reference and the prompt alone; the scorer that measures has ranked nothing. The last row is what a ranker
could reach at most: the image that the scorer itself likes best.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.rankers import CritterRanker
from dsd.evaluation.scores import Case, Scores, difference, requests
from dsd.evaluation.validation import Benchmark, by_student, in_batches
from dsd.files.jsonl import Row
from dsd.generate.ranking import Ranker
from dsd.model.checkpoint import best_device
from dsd.model.presets import POCKET
from train.baselines.scoring import open_ranker

BATCH = 16
SEED_STEP = 1_000_000  # between the images of a case: above the seed of every case
Choice = list[int]  # the chosen image of each case


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for the first image, for the best by the ranker, and for the best by the scorer."""
    from train.comparison import open_student

    if args.best_of < 2:
        raise ValueError(f"--best-of must be at least 2, got {args.best_of}")
    # A missing ranker is reported before anything is drawn.
    ranker = CritterRanker(open_ranker(args.ranker or Path(POCKET.ranker)))
    pipe = open_student(args.model, base="pocket", device=args.device or best_device())
    benchmark = Benchmark(validation_set(0, args.subjects, args.prompts), CritterScorer())
    images = draw_several(pipe, benchmark.cases, args.best_of, args.steps)
    yield from rows(benchmark, images, ranker)


def draw_several(
    pipe: object, cases: Sequence[Case], count: int, steps: int | None
) -> list[list[Image.Image]]:
    """Return `count` images of each case, from seeds that no other case has."""
    draw = in_batches(by_student(pipe, steps=steps), BATCH)
    prompts, references, seeds = requests(cases)
    drawn = [draw(prompts, references, [seed + SEED_STEP * turn for seed in seeds]) for turn in range(count)]
    return [list(of_case) for of_case in zip(*drawn, strict=True)]


def rows(benchmark: Benchmark, images: list[list[Image.Image]], ranker: Ranker) -> Iterator[Row]:
    """Yield the rows for images that are drawn."""
    count = len(images[0])
    ways = {
        "the first": [0] * len(images),
        f"best of {count} by the ranker": _choose(benchmark.cases, images, ranker),
        f"best of {count} by the scorer (upper bound)": _choose_best(benchmark, images),
    }
    first = _evaluate(benchmark, images, ways["the first"])
    for way, choice in ways.items():
        yield _row(way, _evaluate(benchmark, images, choice), first)


def _choose(cases: Sequence[Case], images: list[list[Image.Image]], ranker: Ranker) -> Choice:
    orders = [
        [score.order for score in ranker(case.reference, case.prompt, drawn)]
        for case, drawn in zip(cases, images, strict=True)
    ]
    return [order.index(max(order)) for order in orders]


def _choose_best(benchmark: Benchmark, images: list[list[Image.Image]]) -> Choice:
    turns = [_evaluate(benchmark, images, [turn] * len(images)) for turn in range(len(images[0]))]
    products = np.array([[row["product"] for row in turn.rows] for turn in turns])  # [turns, cases]
    return products.argmax(0).tolist()


def _evaluate(benchmark: Benchmark, images: list[list[Image.Image]], choice: Choice) -> Scores:
    chosen = [drawn[index] for drawn, index in zip(images, choice, strict=True)]
    return benchmark.evaluate(lambda *_: chosen)


def _row(way: str, scores: Scores, first: Scores) -> Row:
    means, gain = scores.means, difference(scores, first)["product"]
    return {
        "way": way, "cases": len(scores.rows), "CP": round(means["identity"].mean, 4),
        "PF": round(means["following"].mean, 4), "CP x PF": round(means["product"].mean, 4),
        "gain": round(gain.mean, 4), "gain, 95 %": [round(gain.low, 4), round(gain.high, 4)],
    }  # fmt: skip
