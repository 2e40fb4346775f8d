"""Build the whole pocket family from scratch, including the wheel: `python -m train.pocket.all RUN`.

The commands of docs/training.md run in order, one part each; RUN/all.jsonl records how long the last attempt
of each part took. You can stop at any time: the same command continues with the unfinished part. With
`--preset gpu` no part takes more than about 8 minutes, and `--parts 1` stops after one part.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dsd.files import jsonl
from train.pocket.presets import PRESETS

GRIDS, ROWS = 20_000, 24_000
PROCESSES = min(8, os.cpu_count() or 1)  # they share one GPU or the CPU cores
# Pieces of the teacher's training: start and end, as shares of all lessons, and the limit in minutes, if any.
# Each piece continues from the weights of the previous one.
PIECES = {
    "cpu": ((0.0, 1.0, None),),
    "gpu": ((0.0, 0.4, 8), (0.4, 0.55, 3), (0.55, 0.7, 8), (0.7, 0.85, 8), (0.85, 1.0, 8)),
}


@dataclass(frozen=True)
class Part:
    """One command of the build."""

    name: str
    arguments: list[str]  # of `python`


def list_parts(run: Path, preset: str, *, grids: int = GRIDS, max_rows: int = ROWS) -> list[Part]:
    """Return all parts, each after those that it depends on."""
    run, sizes = shlex.quote(f"{run}"), f"--preset {preset}"
    wheel, student = f"{run}/wheel", f"{run}/student"
    limit = f"{sizes} --minutes 8" if preset == "gpu" else sizes
    shared = f"-m torch.distributed.run --nproc-per-node {PROCESSES}"
    commands = {
        "vae": f"-m train.pocket.vae {run} {limit}",
        "scorer": f"-m train.pocket.scorer {run} {limit}",
        "ranker": f"-m train.pocket.scorer {run} {limit} --ranker",
    }
    for i, (first, last, minutes) in enumerate(PIECES[preset]):
        flags = f"{sizes} --lessons {first} {last}"
        flags += f" --minutes {minutes} --compile" if minutes else ""
        flags += f" --begin {run}/teacher" if i else ""
        commands[f"teacher {i}"] = f"-m train.pocket.teacher {run} {flags}"
    commands |= {
        "judge": f"-m train.pocket.judge {run} {limit}",
        "ship": f"-m train.pocket.ship {run}",
        "prompts": f"-m train.prompts {wheel} --count {grids}",
        "grids": f"{shared} -m train.grids {wheel} --model pocket",
        "curate": f"{shared} -m train.curate {wheel} --judge pocket --votes 2 2 --floor 0.75 --no-captions",
        "dataset": f"-m train.dataset {wheel} --words grid --max-rows {max_rows}",
        "student": f"-m train.train {wheel} --out {student} --model pocket",
        "ship the student": f"-m train.pocket.ship {run}",
        "measure": f"-m train.pocket.measure --out {run}/figures",
        "evaluate": f"-m train.evaluate pocket --described --out {run}/scores",
    }
    return [Part(name, shlex.split(command)) for name, command in commands.items()]


def build(run: Path, parts: list[Part], call: Callable[[list[str]], int], most: int | None = None) -> None:
    """Run the unfinished parts in order, at most `most` of them.

    Raise SystemExit with the exit code of a part that fails, or if a part was finished with other arguments.
    """
    table = run / "all.jsonl"
    done = {row["id"]: row["arguments"] for row in jsonl.read_all(table)}
    todo = [part for part in parts if done.get(part.name) != part.arguments]
    for part in todo[:most]:
        if part.name in done:
            raise SystemExit(
                f"{run} has the part {part.name} with other arguments ({' '.join(done[part.name])}): use "
                "the same settings, or another folder"
            )
        print(f"== {part.name}: python {' '.join(part.arguments)}", flush=True)
        start = time.monotonic()
        if code := call(part.arguments):
            print(f"{part.name} failed with code {code}: run this command again to retry", file=sys.stderr)
            raise SystemExit(code)
        with jsonl.writing(table) as append:
            seconds = round(time.monotonic() - start)
            append([{"id": part.name, "seconds": seconds, "arguments": part.arguments}])


def call_python(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, *arguments]).returncode


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.all", description=__doc__.split(":")[0])
    parser.add_argument("run", type=Path, help="folder of the run; the result goes to assets/pocket")
    parser.add_argument(
        "--preset", choices=PRESETS, default="cpu", help="data and batch sizes for a CPU or a GPU (cpu)"
    )
    parser.add_argument("--grids", type=int, default=GRIDS, help=f"number of grids to draw ({GRIDS})")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"maximum number of training rows ({ROWS})")
    parser.add_argument("--parts", type=int, metavar="N", help="run at most N parts (default: all)")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    parts = list_parts(args.run, args.preset, grids=args.grids, max_rows=args.rows)
    build(args.run, parts, call_python, args.parts)


if __name__ == "__main__":
    main()
