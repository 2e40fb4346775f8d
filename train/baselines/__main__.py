"""Compare our method with others trained on the same pairs: `python -m train.baselines RUN --out OUT`.

Every row gets the best of three learning rates, chosen on critters of its own by the ranker; it is trained
for the same steps on RUN's dataset from the same teacher, draws held-out critters, and is scored by the same
scorer. OUT gets the tables, report.html, all images and all trained models. You can stop it at any time and
run the same command again to continue. --ablations adds variants of our method, and other flags of
train.train set the training of every row.
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from dsd.evaluation.scores import Case
from dsd.training.options import TrainOptions
from train import command
from train.settings import add_settings, options_of

if TYPE_CHECKING:
    from train.baselines.workshop import Workshop


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog="python -m train.baselines", description=__doc__)
    add = parser.add_argument
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    add("--out", type=Path, required=True, metavar="OUT", help="folder of the results")
    add("--only", nargs="+", metavar="NAME", help="rows to make, such as ours SDEdit (all baselines)")
    add("--ablations", action="store_true", help="make the ablations of our method, too")
    add("--critters", type=int, default=100, metavar="N", help="held-out critters to draw (100)")
    add("--prompts", type=int, default=3, metavar="N", help="prompts for each critter (3)")
    add("--seeds", type=int, default=2, metavar="N", help="images of each prompt (2)")
    add("--search-steps", type=int, metavar="N", help="training steps for each rate (an eighth of --steps)")
    add("--search-critters", type=int, default=24, metavar="N", help="critters to choose rates on (24)")
    add("--tuning-steps", type=int, default=200, metavar="N", help="steps of tuning for one subject (200)")
    add("--ranker", type=Path, metavar="FOLDER", help="scorer that chooses the rates (the family's)")
    add("--image-encoder", default="judge", metavar="NAME", help="encoder of its baseline (the judge's own)")
    add("--draw-steps", type=int, default=28, metavar="N", help="denoising steps (28)")
    add("--draw-batch", type=int, default=16, metavar="N", help="images at a time (16)")
    add("--image-guidance", type=float, metavar="X", help="image guidance scale (the model's)")
    add("--text-guidance", type=float, metavar="X", help="text guidance scale (the model's)")
    add("--teacher-guidance", type=float, metavar="X", help="guidance scale of the teacher (its preset's)")
    add_settings(parser)
    return parser


COUNTS = {"critters": 2, "prompts": 1, "seeds": 1, "search_steps": 1, "search_critters": 2, "tuning_steps": 1}


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError now, not after hours of training."""
    for name, least in (COUNTS | {"draw_steps": 1, "draw_batch": 1}).items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if args.validate_every is not None:
        raise ValueError("--validate-every has no effect, because nothing is validated in training: drop it")


def _check_options(options: TrainOptions) -> None:
    """Raise ValueError for settings with which some rows could not be trained, or not as the others are."""
    unfit = {
        "--references": options.references > 1,
        "--start-from": options.start_from,
        "--quantize": options.quantize,
        "--sizes": len(options.frames) > 1 or any(width != height for width, height in options.frames),
    }
    if given := [flag for flag, is_given in unfit.items() if is_given]:
        raise ValueError(
            f"{' and '.join(given)} cannot be compared: every row starts from the same teacher, is not "
            "quantized, and trains with one reference at one square size; drop it"
        )


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    options = options_of(args)
    _check_options(options)
    from dsd.generate.command import quiet

    quiet()
    with redirect_stdout(sys.stderr):  # loading prints messages; stdout is for the tables
        page = _compare(args, options)
    print(page)
    return 0


def _compare(args: argparse.Namespace, options: TrainOptions) -> str:
    # Imported here, so that --help and wrong flags are fast.
    from dsd.evaluation.critters import CritterScorer
    from dsd.evaluation.validation import Benchmark
    from dsd.files import whole
    from train.baselines import comparing, entries, scoring
    from train.baselines.workshop import ENCODED

    trial = scoring.trial_benchmark(args.search_critters, args.ranker or scoring.RANKER)
    cases = scoring.measured_cases(args.critters, args.prompts, args.seeds)
    shop = _workshop(args, options, [*cases, *trial.cases])
    usual, others = [*entries.baselines(shop)], [*entries.ablations(shop)]
    names = args.only or [entry.name for entry in [*usual, *(others if args.ablations else [])]]
    chosen = comparing.select([*usual, *others], names)
    if any(entry.name == ENCODED for entry in chosen):
        shop.encoder()  # an encoder that is missing is told before hours of training
    with whole.locked(args.out / "scores"):
        benchmark = Benchmark(cases, CritterScorer())
        return comparing.compare(shop, chosen, benchmark, trial, batch=args.draw_batch)


def _workshop(args: argparse.Namespace, options: TrainOptions, cases: list[Case]) -> "Workshop":
    from dsd.model.presets import choose
    from dsd.training.student import find_base
    from train.baselines.per_subject import Tuning
    from train.baselines.workshop import Workshop

    tuning = Tuning(
        steps=args.tuning_steps, shift=options.shift, guidance=options.guidance, seed=options.seed
    )
    same = ("run", "out", "teacher_guidance", "image_encoder")
    return Workshop(
        options=options,
        tuning=tuning,
        search_steps=args.search_steps or max(1, options.steps // 8),
        cases=cases,
        steps=args.draw_steps,
        **{name: getattr(args, name) for name in same},
        **choose(vars(args), find_base(options).scales),
    )


if __name__ == "__main__":
    command.run(main)
