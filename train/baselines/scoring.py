"""The cases of the comparison, and the scorers that choose and measure.

Two scorers take part, trained from different seeds: the ranker chooses among learning rates, on critters of
its own, and the scorer measures. The scorer that measures has selected nothing.
"""

from dataclasses import replace
from pathlib import Path

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import Case
from dsd.evaluation.validation import Benchmark
from dsd.model.checkpoint import weights_hash
from dsd.pocket import scorer
from dsd.pocket.world import SCORER

RANKER = SCORER.parent / "ranker"
TRIAL_SEED = 1  # of the critters on which choices are made; the measured ones have 0
SEEDS_PER_CRITTER = 1000  # in `validation_set`: the prompts of a critter have seeds in a row
SEED_STEP = 10**9  # between the seeds of one case, so that no two images share their noise


def measured_cases(critters: int, prompts: int, seeds: int) -> list[Case]:
    """Return the cases to measure: held-out critters, each prompt drawn from several seeds."""
    if not 1 <= prompts <= SEEDS_PER_CRITTER:
        raise ValueError(f"--prompts must be from 1 to {SEEDS_PER_CRITTER}, got {prompts}")
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
