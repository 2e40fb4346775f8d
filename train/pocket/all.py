"""Build the whole pocket family from scratch, including the wheel: `python -m train.pocket.all RUN`.

It runs the commands of docs/training.md in order; RUN/all.jsonl records how long each took in its last
attempt. You can stop it at any time: the same command continues with the unfinished part. With
`--preset gpu` no part takes more than about 8 minutes, and `--parts 1` stops after one part.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dsd.files import jsonl
from train.pocket.presets import PRESETS

GRIDS, ROWS = 20_000, 24_000
PROCESSES = min(8, os.cpu_count() or 1)  # they share one GPU or the CPU cores
Part = tuple[str, list[str]]  # name, arguments of `python`
# Pieces of the teacher's training: start and end of the lessons, and minutes on a GPU. Each piece continues
# from the weights of the one before it.
PIECES = {
    "cpu": ((0.0, 1.0, None),),
    "gpu": ((0.0, 0.4, 8), (0.4, 0.55, 3), (0.55, 0.7, 8), (0.7, 0.85, 8), (0.85, 1.0, 8)),
}


def parts(run: Path, preset: str, *, grids: int = GRIDS, max_rows: int = ROWS) -> Iterator[Part]:
    """Yield every part after the parts that it depends on."""
    small, wheel, student = ["--preset", preset], f"{run / 'wheel'}", f"{run / 'student'}"
    limit = ["--minutes", "8"] if preset == "gpu" else []
    yield "vae", _module("train.pocket.vae", f"{run}", *small, *limit)
    yield "scorer", _module("train.pocket.scorer", f"{run}", *small, *limit)
    yield "ranker", _module("train.pocket.scorer", f"{run}", *small, *limit, "--ranker")
    for i, (first, last, minutes) in enumerate(PIECES[preset]):
        timed = ["--minutes", f"{minutes}", "--compile"] if minutes else []
        begin = ["--begin", f"{run / 'teacher'}"] if i else []
        lessons = ["--lessons", f"{first}", f"{last}"]
        yield f"teacher {i}", _module("train.pocket.teacher", f"{run}", *small, *lessons, *timed, *begin)
    yield "judge", _module("train.pocket.judge", f"{run}", *small, *limit)
    yield "ship", _module("train.pocket.ship", f"{run}")
    yield "prompts", _module("train.prompts", wheel, "--count", f"{grids}")
    yield "grids", _shared("train.grids", wheel, "--model", "pocket")
    yield (
        "curate",
        _shared(
            "train.curate",
            wheel,
            "--judge",
            "pocket",
            "--votes",
            "2",
            "2",
            "--floor",
            "0.75",
            "--no-captions",
        ),
    )
    yield "dataset", _module("train.dataset", wheel, "--words", "grid", "--max-rows", f"{max_rows}")
    yield "student", _module("train.train", wheel, "--out", student, "--model", "pocket")
    yield "ship the student", _module("train.pocket.ship", f"{run}")
    yield "measure", _module("train.pocket.measure", "--out", f"{run / 'figures'}")
    yield "evaluate", _module("train.evaluate", "pocket", "--described", "--out", f"{run / 'scores'}")


def _module(name: str, *arguments: str) -> list[str]:
    return ["-m", name, *arguments]


def _shared(name: str, *arguments: str) -> list[str]:
    """Return the arguments that run a command in `PROCESSES` processes at once."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", f"{PROCESSES}"]
    return [*launcher, *_module(name, *arguments)]


def build(run: Path, todo: Iterator[Part], call: Callable[[list[str]], int], most: int | None = None) -> None:
    """Run the parts that are not done yet, at most `most`.

    Raise SystemExit with the code of a part that fails, or if a part was done with other arguments.
    """
    table = run / "all.jsonl"
    done = {row["id"]: row["arguments"] for row in jsonl.read_all(table)}
    for name, arguments in todo:
        if done.get(name) == arguments:
            continue
        if most == 0:
            return
        most = None if most is None else most - 1
        if name in done:
            raise SystemExit(f"{run} was begun with other settings ({name}): use those, or another folder")
        print(f"== {name}: python {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        if code := call(arguments):
            print(f"{name} failed; the same command goes on with it", file=sys.stderr)
            raise SystemExit(code)
        with jsonl.writing(table) as append:
            append([{"id": name, "seconds": round(time.monotonic() - began), "arguments": arguments}])


def _call(arguments: list[str]) -> int:
    return subprocess.run([sys.executable, *arguments]).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder that all is made in; assets/pocket gets the result")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--grids", type=int, default=GRIDS, help=f"that the teacher draws ({GRIDS})")
    parser.add_argument(
        "--rows", type=int, default=ROWS, help=f"that the student learns from, at most ({ROWS})"
    )
    parser.add_argument(
        "--parts", type=int, metavar="N", help="end after N of them; the same command goes on"
    )
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    todo = parts(args.run, args.preset, grids=args.grids, max_rows=args.rows)
    build(args.run, todo, _call, args.parts)


if __name__ == "__main__":
    main()
