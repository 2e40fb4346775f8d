"""Measure speed and memory: `python -m train.bench WHAT`, one line of JSON a row."""

import argparse
import json
from collections.abc import Iterator

from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from train import command
from train.blocks import join


def build_parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog="python -m train.bench", description="Measure speed and memory.")
    add = parser.add_argument
    add("what", choices=("wheel", "training", "inference", "qualities"), help="the benchmark to run")
    add("--count", type=int, default=64, help="wheel: grids; training: pairs (64)")
    add("--steps", type=int, help="denoising steps (the model's own); training: optimizer steps (64)")
    add("--model", default="pocket", help="the model, for all but wheel (pocket)")
    add("--device", help="inference, qualities: cpu, cuda or mps (the best there is)")
    add("--rounds", type=int, default=5, help="inference: how often each method draws (5)")
    add("--subjects", type=int, default=24, help="qualities: held-out critters (24)")
    add("--prompts", type=int, default=1, help="qualities: prompts for each critter (1)")
    return parser


def read_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of a benchmark, whose module is imported only when it runs."""
    if args.what == "wheel":
        from train.bench.wheel import wheel_rows

        return wheel_rows(args.count, args.steps)
    if args.what == "training":
        from train.bench.training import training_rows

        return training_rows(args.count, args.steps, args.model)
    if args.what == "inference":
        from train.bench.inference import inference_rows

        return inference_rows(args)
    from train.bench.qualities import quality_rows

    return quality_rows(args)


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    join()
    for row in read_rows(args):
        print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
