"""Measure speed and memory: `python -m train.bench WHAT`, one line of JSON a row."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

from dsd.generate.command import quiet
from train import command
from train.blocks import join

# Modules beside this one.
BENCHMARKS = ("wheel", "training", "inference", "qualities", "ranking", "references", "flux")


def build_parser() -> argparse.ArgumentParser:
    parser = command.Parser(prog="python -m train.bench", description="Measure speed and memory.")
    add = parser.add_argument
    add("what", choices=BENCHMARKS, help="the benchmark to run")
    add("--count", type=int, default=64, help="wheel: grids; training: pairs (64)")
    add("--steps", type=int, help="denoising steps (the model's own); training: optimizer steps (64)")
    add("--model", default="pocket", help="the model, for all but wheel (pocket)")
    add("--device", help="inference, qualities, ranking, references: cpu, cuda or mps (the best there is)")
    add("--rounds", type=int, default=5, help="inference: how often each method draws (5)")
    add("--subjects", type=int, default=24, help="qualities, ranking, references: held-out critters (24)")
    add("--prompts", type=int, default=1, help="the same three: prompts for each critter (1)")
    add("--best-of", type=int, default=4, help="ranking: images of each case (4)")
    add("--ranker", type=Path, help="ranking: folder of a scorer that is not the one that measures (shipped)")
    add("--out", type=Path, help="flux: file of JSON lines, continued where it was stopped")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    join()
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # keep the libraries' messages out of the rows
        for row in import_module(f"train.bench.{args.what}").measure_rows(args):
            print(json.dumps(row), file=out, flush=True)
    return 0


if __name__ == "__main__":
    command.run(main)
