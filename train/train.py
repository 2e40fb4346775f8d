"""Train a student on pairs: `python -m train.train DATASET --out OUT --model pocket`.

DATASET is a run, a folder of parquet files or a hub id. OUT becomes a checkpoint that the app and plain
diffusers open, with a card, curves and samples. You can stop it at any time and run the same command again
to continue. On several GPUs: `accelerate launch --config_file train/configs/... -m train.train ...`. --plan
prints the memory and time to expect, and stops.
"""

import argparse
import logging
import shutil
import types
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

from accelerate import PartialState
from huggingface_hub import constants
from tqdm import tqdm

from dsd.evaluation import scores
from dsd.evaluation.scores import Case, Scorer
from dsd.evaluation.validation import Validator, by_student
from dsd.files import jsonl, pairs
from dsd.generate.command import quiet
from dsd.model.presets import ASSETS, DEFAULT, training_defaults
from dsd.training import card as model_card
from dsd.training import curves
from dsd.training import estimate as plan
from dsd.training.data import check_rows
from dsd.training.log import Curves
from dsd.training.loop import Trained, cache_folder, start, train
from dsd.training.options import OF_LORA, TrainOptions
from dsd.training.student import find_base
from train import command
from train.blocks import crowded, join

CRITTERS = "critters"
METAVARS = {int: "N", float: "X", str: "NAME"}


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "dataset",
        metavar="DATASET",
        help="a run, a folder of parquet files, or a hub id such as primecai/dsd_data",
    )
    add("--out", type=Path, required=True, metavar="OUT", help="folder of the checkpoint")
    add("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="what the dataset calls a column")
    add("--split", default="train", help="of the dataset (train)")
    add("--streaming", action="store_true", help="read a hub dataset over the network, without a download")
    add("--plan", action="store_true", help="print memory and time to expect, and stop; downloads no dataset")
    add("--validate", metavar="WHAT", help="critters, a folder of photographs, or none; critters for pocket")
    add("--validate-subjects", type=int, default=32, metavar="N", help="critters to validate on (32)")
    add("--validate-prompts", type=int, default=2, metavar="N", help="prompts for each subject (2)")
    add("--push-to-hub", metavar="OWNER/NAME", help="upload it, with the token in HF_TOKEN; private")
    add("--public", action="store_true", help="let everybody see what --push-to-hub creates")
    _add_settings(parser)
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each field of `TrainOptions`; the default None lets the model's own setting apply."""
    group = parser.add_argument_group("settings; [..] is for pocket where it differs")
    kinds = get_type_hints(TrainOptions)
    for one in fields(TrainOptions):
        flags, kind = [f"--{one.name.replace('_', '-')}"], _plain(kinds[one.name])
        special = {bool: {"action": argparse.BooleanOptionalAction}, tuple: {"nargs": "+"}}
        how = special.get(kind, {"type": kind, "metavar": METAVARS.get(kind)})
        group.add_argument(*flags, default=None, help=f"{one.metadata['help']}{_default(one)}", **how)
    group.add_argument("--quantise", dest="quantize", default=None, help=argparse.SUPPRESS)  # its old name


def _plain(kind: Any) -> type:
    """Return the plain type: `float` for `float | None`, `tuple` for `tuple[str, ...]`."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    return getattr(kind, "__origin__", kind)


def _default(one: Any) -> str:
    said = "" if one.default in (None, False) or isinstance(one.default, tuple) else f" ({one.default})"
    suited = DEFAULT.training.get(one.name)
    return said if suited is None else f"{said} [{suited}]"


def options_of(args: argparse.Namespace) -> TrainOptions:
    """Return the options from the flags, then from what suits the model, then from the defaults."""
    given = {one.name: getattr(args, one.name) for one in fields(TrainOptions)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    given = {name: value for name, value in given.items() if value is not None}
    suited = training_defaults(given.get("model", TrainOptions.model))
    options = TrainOptions(**{**suited, **given})
    if options.full and (idle := [name for name in OF_LORA if name in given]):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ValueError(
            f"{flags} would do nothing: all weights are trained, as --full asks or suits {options.model}. "
            "Leave it out, or add --no-full for a LoRA"
        )
    return options


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    options = options_of(args)
    if args.public and not args.push_to_hub:
        raise ValueError("--public says who sees what --push-to-hub uploads: give that too")
    if args.push_to_hub:
        model_card.check_upload(args.push_to_hub)  # fail now, not after days of training
    quiet()
    join()
    if crowded():
        raise ValueError("more processes than GPUs: training wants one for each, start as many as there are")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("dsd").setLevel(logging.WARNING)
    find_base(options)  # fail now, not after a dataset was downloaded
    data = _pairs(args)
    if args.plan:
        return _plan(args, options, data)
    report = Report(args, options)
    trained = train(
        data, options, args.out, validate=report.validate, on_step=report.step, on_rows=report.rows
    )
    if PartialState().is_main_process:
        report.finish(trained, data)
    return 0


def _pairs(args: argparse.Namespace) -> pairs.Pairs:
    if args.streaming and Path(args.dataset).exists():
        raise ValueError(
            f"--streaming is for datasets of the hub, and {args.dataset} lies here: leave it out"
        )
    # A plan needs only the number of rows and the first row, so streaming reads small parts of the files.
    streaming = args.streaming or (args.plan and not constants.HF_HUB_OFFLINE)
    return pairs.read_pairs(args.dataset, columns=_columns(args), split=args.split, streaming=streaming)


def _columns(args: argparse.Namespace) -> dict[str, str]:
    for item in args.columns:
        if "=" not in item:
            raise ValueError(f"--columns takes OURS=THEIRS, such as target=edited, got {item!r}")
    return dict(item.split("=", 1) for item in args.columns)


def _plan(args: argparse.Namespace, options: TrainOptions, data: pairs.Pairs) -> int:
    base = find_base(options)
    check_rows(data, options)
    accelerator = start(options)
    made = plan.make(base, options, accelerator, rows=len(data), validates=_watched(args, options) != "none")
    fits = made.needed <= plan.ROOM * made.free
    seconds = plan.time_step(made, accelerator) if fits else None
    if accelerator.is_main_process:
        print(plan.describe(made, options, seconds))
    plan.check(made, cache_folder(options, args.out), args.out)
    return 0


class Report:
    """The output of the command while the loop runs and when it ends."""

    def __init__(self, args: argparse.Namespace, options: TrainOptions) -> None:
        self.args, self.options = args, options
        self.validate = _validator(args, options)
        self.curves: Curves | None = None
        self.bar: tqdm | None = None

    def rows(self, done: int, total: int) -> None:
        """Show the progress of encoding images and texts."""
        if not PartialState().is_main_process:
            return
        self.bar = self.bar or tqdm(total=total, unit="row", desc="encoding")
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar = self.bar.close()

    def step(self, done: int, values: dict[str, float]) -> None:
        """Record and show the losses or scores that the loop reports."""
        self.curves = self.curves or Curves(
            self.args.out / "curves.jsonl", self.args.out / "run" / "tensorboard"
        )
        self.curves.add(done, values)
        if "loss" in values:
            self._advance(done, values)
        else:
            self._tell(done, values)

    def _advance(self, done: int, values: dict[str, float]) -> None:
        before = max(0, done - self.options.log_every)
        self.bar = self.bar or tqdm(total=self.options.steps, initial=before, unit="step", desc="training")
        self.bar.set_postfix(loss=f"{values['loss']:.4f}", waiting=f"{values['waiting']:.1%}", refresh=False)
        self.bar.update(done - self.bar.n)

    def _tell(self, done: int, values: dict[str, float]) -> None:
        """Print the scores in one line, print a warning if there is one, and plot the curves."""
        plain = {name: value for name, value in values.items() if f"{name}_low" in values}
        tqdm.write(f"step {done}: " + ", ".join(f"{name} {value:.3f}" for name, value in plain.items()))
        warning = scores.alarm(self.curves.scores())
        if warning:
            tqdm.write(warning)
        self.draw(warning)

    def draw(self, note: str | None = None) -> None:
        reference = ASSETS / "curves.jsonl" if self.options.model == "pocket" else None
        file, image = self.args.out / "curves.jsonl", self.args.out / "curves.png"
        curves.write(file, image, reference=reference, note=note)

    def finish(self, trained: Trained, data: pairs.Pairs) -> None:
        """Write the card, samples and plotted curves beside the checkpoint, and upload it if requested."""
        out = self.args.out
        if self.bar:
            self.bar.close()
        drawn = sorted((out / "samples").glob("*.png"))
        if drawn:
            shutil.copyfile(drawn[-1], out / "samples.png")
        past = Curves(out / "curves.jsonl").scores()
        if (out / "curves.jsonl").exists():
            self.draw(scores.alarm(past))
        text = model_card.card(
            trained,
            self.args.push_to_hub or out.name,
            facts=model_card.dataset_facts(self.args.dataset, data),
            kept=model_card.keep_rates(self.args.dataset, data.files),
            scores={name: value for name, value in past[-1].items() if name != "step"} if past else None,
            legend=self.validate.legend if self.validate else None,
            samples="samples.png" if drawn else None,
            curves="curves.png" if (out / "curves.png").exists() else None,
        )
        jsonl.write(out / "README.md", text.encode())
        print(f"saved in {out}: python app.py --model {out}")
        if self.args.push_to_hub:
            print(f"uploaded to {model_card.push(out, self.args.push_to_hub, private=not self.args.public)}")


def _validator(args: argparse.Namespace, options: TrainOptions) -> Validator | None:
    what = _watched(args, options)
    if what == "none":
        return None
    if what == CRITTERS:
        return Validator(*_critters(args), args.out)
    # One image at a time: the plan counts memory for no more than that besides the training itself.
    return Validator(*_photographs(args, what), args.out, way=partial(by_student, batch=1))


def _watched(args: argparse.Namespace, options: TrainOptions) -> str:
    """Return what the training is validated on: critters, a folder of photographs, or none."""
    return args.validate or (CRITTERS if options.model == "pocket" else "none")


def _critters(args: argparse.Namespace) -> tuple[list[Case], Scorer]:
    from dsd.evaluation.critters import CritterScorer, validation_set

    return validation_set(subjects=args.validate_subjects, prompts=args.validate_prompts), CritterScorer()


def _photographs(args: argparse.Namespace, folder: str) -> tuple[list[Case], Scorer]:
    from dsd.evaluation.photographs import PhotographScorer, read_cases

    return read_cases(folder, args.validate_prompts), PhotographScorer()


if __name__ == "__main__":
    command.run(main)
