"""Train a student on pairs: `python -m train.train DATASET --out OUT --model pocket`.

DATASET is a run, a folder of parquet files or a hub id. OUT becomes a checkpoint that the app and plain
diffusers open, with a card, curves and samples. You can stop it at any time and run the same command again
to continue. On several GPUs: `accelerate launch --config_file train/configs/... -m train.train ...`. --plan
prints the memory and time to expect, and stops.
"""

import argparse
import logging
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants
from tqdm import tqdm

from dsd.evaluation import scores
from dsd.evaluation.scores import CRITTERS
from dsd.files import jsonl, pairs
from dsd.files.upload import check_upload, upload
from dsd.generate.command import quiet
from dsd.generate.flags import refuse_unused
from dsd.model.presets import ASSETS, DEFAULT
from dsd.training import curves
from dsd.training.curves import Curves
from dsd.training.options import TrainOptions
from train import command
from train.blocks import crowded, join, locked, place
from train.settings import add_settings, options_of

if TYPE_CHECKING:
    from dsd.evaluation.validation import Validator
    from dsd.training.loop import TrainResult

STREAMED_GB = 20.0


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    text = "a run, a folder of parquet files, or a hub id; several are joined, for a student of several tasks"
    add("dataset", metavar="DATASET", nargs="+", help=text)
    add("--out", type=Path, required=True, metavar="OUT", help="folder of the checkpoint")
    add("--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="names of our columns in the dataset")
    add("--split", default="train", help="split of the dataset (train)")
    text = f"read a hub dataset over the network and encode it while training (--cache-gb {STREAMED_GB:g})"
    add("--streaming", action="store_true", help=text)
    add("--max-rows", type=int, metavar="N", help="train on the first N rows; --streaming reads only these")
    add("--plan", action="store_true", help="print expected memory and time, and stop; downloads no dataset")
    add("--validate", metavar="WHAT", help="critters, a folder of photographs, or none (critters for pocket)")
    add("--validate-subjects", type=int, default=32, metavar="N", help="critters to validate on (32)")
    add("--validate-prompts", type=int, default=2, metavar="N", help="prompts for each subject (2)")
    text = "upload the result, privately, with the token in HF_TOKEN"
    add("--push-to-hub", metavar="OWNER/NAME", help=text)
    add("--public", action="store_true", help="make what --push-to-hub creates public")
    add_settings(parser)
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; end the command with one line if they are wrong or have no effect."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.streaming and args.cache_gb is None:
        args.cache_gb = STREAMED_GB
    is_default = (args.model or TrainOptions.model) == DEFAULT.name
    args.validate = args.validate or (CRITTERS if is_default else "none")
    if args.validate == "none":
        names = ("validate_subjects", "validate_prompts", "validate_every")
        refuse_unused(parser, args, names, without="--validate")
    elif args.validate != CRITTERS:
        refuse_unused(parser, args, ("validate_subjects",), beside=f"--validate {args.validate}")
    if not args.push_to_hub:
        refuse_unused(parser, args, ("public",), without="--push-to-hub")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from dsd.training.student import find_base

    options = options_of(args)
    if args.push_to_hub:
        check_upload(args.push_to_hub)  # fail now, not after days of training
    join_quietly()
    find_base(options)  # fail now, not after a dataset was downloaded
    data = _open_pairs(args)
    if args.plan:
        _print_plan(args, options, data)
        return 0
    curves.import_figure()  # fail now, not at the first validation
    with locked(args.out / "run"):
        _train(args, options, data)
    return 0


def join_quietly() -> None:
    """Join the other processes and log warnings only; raise ValueError for more processes than GPUs."""
    quiet()
    join()
    if crowded():
        raise ValueError("there are more processes than GPUs: start one process for each GPU")
    logging.getLogger("dsd").setLevel(logging.WARNING)


def _train(args: argparse.Namespace, options: TrainOptions, data: pairs.Pairs) -> None:
    from dsd.training.loop import train

    with closing(Report(args, options)) as report:
        result = train(
            data, options, args.out, validate=report.validate, on_step=report.step, on_rows=report.rows,
            tasks=data.read_tasks(), on_plan=lambda text: print(text, flush=True),
        )  # fmt: skip
    if place().is_main_process:
        report.finish(result, data)


def _open_pairs(args: argparse.Namespace) -> pairs.Pairs:
    if args.streaming and (local := [name for name in args.dataset if Path(name).exists()]):
        raise ValueError(f"--streaming is for datasets on the hub, but {local[0]} is local: drop it")
    if args.max_rows is not None and args.max_rows < 1:
        raise ValueError(f"--max-rows must be at least 1, got {args.max_rows}")
    if args.max_rows is not None and len(args.dataset) > 1:
        raise ValueError(
            f"--max-rows takes the first rows of one dataset, got {len(args.dataset)} datasets: limit each "
            "with train.dataset --max-rows"
        )
    for item in args.columns:
        if "=" not in item:
            raise ValueError(f"--columns must be OURS=THEIRS, such as target=edited, got {item!r}")
    columns = dict(item.split("=", 1) for item in args.columns)
    # A plan needs only the number of rows and the first row, so streaming reads small parts of the files.
    streaming = args.streaming or (args.plan and not constants.HF_HUB_OFFLINE)
    settings = {"columns": columns, "split": args.split, "max_rows": args.max_rows, "on_size": _say_size}
    return pairs.join_pairs(
        [pairs.read_pairs(name, streaming=streaming, **settings) for name in args.dataset]
    )


def _say_size(name: str, size: int) -> None:
    if place().is_main_process:
        print(f"downloading {name}: {size / 1e9:.3g} GB; --streaming keeps no copy of it", flush=True)


def _print_plan(args: argparse.Namespace, options: TrainOptions, data: pairs.Pairs) -> None:
    from dsd.training import estimate as plan
    from dsd.training.data import check_rows
    from dsd.training.loop import cache_folder, start
    from dsd.training.student import find_base

    check_rows(data, options)
    accelerator, validates = start(options), args.validate != "none"
    estimate = plan.make(find_base(options), options, accelerator, rows=len(data), validates=validates)
    fits = estimate.needed <= plan.ROOM * estimate.free
    seconds = plan.time_step(estimate, accelerator) if fits else None
    if accelerator.is_main_process:
        print(plan.describe(estimate, options, seconds))
    plan.check(estimate, cache_folder(options, args.out), args.out)


def _open_validator(args: argparse.Namespace) -> "Validator | None":
    from dsd.evaluation.validation import Validator, open_benchmark

    if args.validate == "none":
        return None
    benchmark = open_benchmark(args.validate, subjects=args.validate_subjects, prompts=args.validate_prompts)
    # One photograph at a time: the plan counts memory for no more than that besides the training itself.
    return Validator(benchmark, args.out, batch=16 if args.validate == CRITTERS else 1)


class Report:
    """The output of the command while the loop runs and when it ends."""

    def __init__(self, args: argparse.Namespace, options: TrainOptions) -> None:
        self.args, self.options = args, options
        self.validate = _open_validator(args)
        self.curves: Curves | None = None
        self.bar: tqdm | None = None

    def rows(self, done: int, total: int) -> None:
        """Show the progress of encoding images and texts."""
        if not place().is_main_process:
            return
        self.bar = self.bar or tqdm(total=total, unit="row", desc="encoding")
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar = self.bar.close()

    def step(self, done: int, values: dict[str, float]) -> None:
        """Record and show the losses or scores that the loop reports."""
        out = self.args.out
        self.curves = self.curves or Curves(out / "curves.jsonl", out / "run" / "tensorboard")
        self.curves.add(done, values)
        if "loss" in values:
            start = max(0, done - self.options.log_every)
            self.bar = self.bar or tqdm(total=self.options.steps, initial=start, unit="step", desc="training")
            losses = {"loss": f"{values['loss']:.4f}", "waiting": f"{values['waiting']:.1%}"}
            self.bar.set_postfix(losses, refresh=False)
            self.bar.update(done - self.bar.n)
        else:
            means = {name: value for name, value in values.items() if f"{name}_low" in values}
            tqdm.write(f"step {done}: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
            if warning := scores.alarm(self.curves.scores()):
                tqdm.write(warning)
            self.plot(warning)

    def close(self) -> None:
        """End the bar, which would otherwise be shown once more below an error."""
        if self.bar:
            self.bar = self.bar.close()

    def plot(self, note: str | None = None) -> None:
        out, reference = self.args.out, ASSETS / "curves.jsonl" if self.options.model == "pocket" else None
        curves.write(out / "curves.jsonl", out / "curves.png", reference=reference, note=note)

    def finish(self, result: "TrainResult", data: pairs.Pairs) -> None:
        """Write the card, samples and plotted curves beside the checkpoint, and upload it if requested."""
        from dsd.generate.drawing import public_name
        from dsd.training import card as model_card

        out, name = self.args.out, self.args.push_to_hub
        if samples := sorted((out / "samples").glob("*.png")):
            jsonl.write_atomic(out / "samples.png", samples[-1].read_bytes())
        history = Curves(out / "curves.jsonl").scores()
        if (out / "curves.jsonl").exists():
            self.plot(scores.alarm(history))
        sources = self.args.dataset
        rates = [model_card.keep_rates(name, data.files if len(sources) == 1 else ()) for name in sources]
        text = model_card.card(
            result,
            name or out.name,
            facts=model_card.dataset_facts(", ".join(map(public_name, sources)), data),
            rates="\n\n".join(filter(None, rates)) or None,
            scores={key: value for key, value in history[-1].items() if key != "step"} if history else None,
            legend=self.validate.benchmark.legend if self.validate else None,
            samples="samples.png" if samples else None,
            curves="curves.png" if (out / "curves.png").exists() else None,
        )
        jsonl.write_atomic(out / "README.md", text.encode())
        print(f"saved in {out}: python app.py --model {out}")
        if name:
            options = {"private": not self.args.public, "ignore_patterns": model_card.NOT_UPLOADED}
            print(f"uploaded to {upload(out, name, kind='model', **options)}")


if __name__ == "__main__":
    command.run(main)
