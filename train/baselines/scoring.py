"""Scores of the comparison: those of held-out critters, the de-biased product, and every trait by itself.

Two scorers take part, trained from different seeds: the ranker chooses among learning rates, on critters of
its own, and the scorer measures. The scorer that measures has selected nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from dsd.evaluation import scores
from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import Case, Interval, Measure, Numbers, Scores
from dsd.evaluation.validation import Benchmark
from dsd.files import markdown
from dsd.model.checkpoint import weights_hash
from dsd.pocket import scorer
from dsd.pocket.world import SCORER

RANKER = SCORER.parent / "ranker"
TRIAL_SEED = 1  # of the critters on which choices are made; the measured ones have 0
SEED_STEP = 500  # between the seeds of one case; the prompts of a critter have seeds in a row


class DebiasedScorer(CritterScorer):
    """The scorer of critters, and a product that punishes copies of the reference."""

    measures = (
        *CritterScorer.measures,
        Measure(
            "debiased",
            "de-biased CP x PF",
            "CP x PF times the share of the reference's context that the image leaves out, of what was not "
            "requested; a true image shares some by chance",
        ),
    )

    def score(self, cases: Sequence[Case], images: Sequence[Image.Image]) -> list[Numbers]:
        """Return the scores of each image; `copy` is still raw here, from 0 to 1."""
        rows = super().score(cases, images)
        return [row | {"debiased": row["product"] * (1 - row["copy"])} for row in rows]


def measured_cases(critters: int, prompts: int, seeds: int) -> list[Case]:
    """Return the cases to measure: held-out critters, each prompt drawn from several seeds."""
    if not 1 <= prompts <= SEED_STEP:
        raise ValueError(f"--prompts must be from 1 to {SEED_STEP}, got {prompts}")
    cases = validation_set(0, critters, prompts)
    return [replace(case, seed=case.seed + SEED_STEP * turn) for case in cases for turn in range(seeds)]


def trial_benchmark(critters: int, ranker: Path) -> Benchmark:
    """Return the benchmark that chooses; raise ValueError if its scorer is the one that measures."""
    return Benchmark(validation_set(TRIAL_SEED, critters, 1), CritterScorer(open_ranker(ranker)))


def open_ranker(ranker: Path) -> scorer.Scorer:
    """Return the scorer that chooses; raise ValueError if there is none or it is the one that measures."""
    if not (ranker / "config.json").is_file():
        raise ValueError(
            f"there is no ranker in {ranker}, which chooses so that the scorer need not: "
            "train one with python -m train.pocket.scorer FOLDER --ranker, and pass it with --ranker"
        )
    network = scorer.load(ranker)
    if weights_hash(network) == weights_hash(scorer.load()):
        raise ValueError(f"{ranker} is the scorer that measures: pass a scorer of another seed as --ranker")
    return network


# ---------------------------------------------------------------- traits


def traits(result: Scores, cases: Sequence[Case], network: scorer.Scorer) -> dict[str, Interval]:
    """Return for each trait the share of images that keep it, among those whose critter shows it.

    Traits that fewer than two critters show are left out.
    """
    readings = network.read(result.images)
    pairs = zip(cases, readings, strict=True)
    rows = [scorer.check_traits(case.facts.critter, reading) for case, reading in pairs]
    means = {}
    for name in (*scorer.IDENTITY, *scorer.TOLERANCE):
        found = [(row[name], case.subject) for row, case in zip(rows, cases, strict=True) if name in row]
        if len({subject for _, subject in found}) > 1:
            numbers = [{name: float(value)} for value, _ in found]
            means |= scores.intervals(numbers, [subject for _, subject in found])
    return means


def trait_table(results: dict[str, dict[str, Interval]]) -> str:
    """Return a Markdown table with a row for each way of drawing and a column for each trait."""
    names = list(dict.fromkeys(name for means in results.values() for name in means))
    rows = [[way, *(means.get(name, "not shown") for name in names)] for way, means in results.items()]
    return markdown.table(["", *(name.replace("_", " ") for name in names)], rows)
