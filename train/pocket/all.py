"""Build the whole pocket family from scratch, including the wheel: `python -m train.pocket.all RUN`.

The commands of docs/training.md run in order, one part each; RUN/all.jsonl records how long the last attempt
of each part took. You can stop at any time: the same command continues with the unfinished part.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dsd.files import jsonl, whole
from dsd.grids.recipes import WORLD_TASKS
from train import command
from train.pocket.presets import PRESETS

GRIDS, ROWS = 20_000, 24_000
PROCESSES = min(8, os.cpu_count() or 1)  # they share one GPU or the CPU cores
Call = Callable[[list[str]], int]  # runs a part and returns its exit code
# Pieces of the teacher's training: start and end, as shares of all lessons, and the limit in minutes, if any.
# Each piece continues from the weights of the previous one.
PIECES = {
    "cpu": ((0.0, 1.0, None),),
    "gpu": ((0.0, 0.4, 8), (0.4, 0.55, 3), (0.55, 0.7, 8), (0.7, 0.85, 8), (0.85, 1.0, 8)),
}


def list_parts(
    run: Path, preset: str, *, grids: int = GRIDS, max_rows: int = ROWS, tasks: bool = False
) -> dict[str, list[str]]:
    """Return the arguments of `python` for each part, by name, after the parts that it depends on.

    With `tasks` there is a wheel for each task, of `grids` and `max_rows` each, and one student of all.
    """
    run, sizes, taught = shlex.quote(f"{run}"), f"--preset {preset}", " --tasks" if tasks else ""
    limit = f"{sizes} --minutes 8" if preset == "gpu" else sizes
    others = WORLD_TASKS[1:] if tasks else ()  # beside identity
    wheels = {"": f"{run}/wheel"} | {f" {task}": f"{run}/{task}" for task in others}
    commands = {
        "vae": f"-m train.pocket.vae {run} {limit}",
        "scorer": f"-m train.pocket.scorer {run} {limit}",
        "ranker": f"-m train.pocket.scorer {run} {limit} --ranker",
    }
    for i, (first, last, minutes) in enumerate(PIECES[preset]):
        flags = f"{sizes} --lessons {first} {last}"
        flags += f" --minutes {minutes} --compile" if minutes else ""
        flags += (f" --begin {run}/teacher" if i else "") + taught
        commands[f"teacher {i}"] = f"-m train.pocket.teacher {run} {flags}"
    commands |= {
        "decoder": f"-m train.pocket.vae.decoder {run} {limit}",
        "judge": f"-m train.pocket.judge {run} {limit}{taught}",
        "ship": f"-m train.pocket.ship {run}",
    }
    for task, wheel in wheels.items():
        flags = " --batch 32" if preset == "gpu" else ""
        flags += " --refine 0" if "edit" in task else ""  # panels drawn again differ in more than one thing
        commands |= _turn(task, wheel, grids, max_rows, flags)
    commands |= {
        "student": f"-m train.train {' '.join(wheels.values())} --out {run}/student --model pocket",
        "ship the student": f"-m train.pocket.ship {run}",
        "measure": f"-m train.pocket.measure --out {run}/figures",
        "evaluate": f"-m train.evaluate pocket --described --out {run}/scores",
    }
    for task in others:
        commands[f"evaluate {task}"] = f"-m train.evaluate pocket --task {task} --out {run}/scores-{task}"
    return {name: shlex.split(command) for name, command in commands.items()}


def _turn(task: str, wheel: str, grids: int, max_rows: int, flags: str) -> dict[str, str]:
    """Return the parts that make a dataset; `task` ends their names, and is empty for identity.

    `flags` are those of `train.grids`.
    """
    shared = f"-m torch.distributed.run --nproc-per-node {PROCESSES}"
    asked = f" --task{task}" if task else ""
    return {
        f"prompts{task}": f"-m train.prompts {wheel} --count {grids}{asked}",
        f"grids{task}": f"{shared} -m train.grids {wheel} --model pocket{flags}",
        f"curate{task}": f"{shared} -m train.curate {wheel} --judge pocket --votes 2 2",
        f"dataset{task}": f"-m train.dataset {wheel} --max-rows {max_rows}",
    }


def call_python(arguments: list[str]) -> int:
    """Run a part and return its exit code; stop it, and wait until it has ended, if this is stopped."""
    with subprocess.Popen([sys.executable, *arguments]) as part:
        try:
            return part.wait()
        except KeyboardInterrupt:  # Ctrl-C, or SIGTERM as `command.run` raises it
            part.terminate()
            part.wait()
            raise


def build(run: Path, parts: dict[str, list[str]], most: int | None, call: Call = call_python) -> None:
    """Run the unfinished parts in order, at most `most` of them.

    Raise SystemExit with the exit code of a part that fails, or if a part was finished with other arguments.
    """
    table = run / "all.jsonl"
    done = {row["id"]: row["arguments"] for row in jsonl.read_all(table)}
    todo = [name for name, arguments in parts.items() if done.get(name) != arguments]
    for name in todo[:most]:
        if name in done:
            raise SystemExit(
                f"{run} has the part {name} with other arguments ({' '.join(done[name])}): use the same "
                "settings, or another folder"
            )
        print(f"== {name}: python {' '.join(parts[name])}", flush=True)
        start = time.monotonic()
        if code := call(parts[name]):
            print(f"{name} failed with code {code}: run this command again to retry", file=sys.stderr)
            raise SystemExit(code)
        with jsonl.writing(table) as append:
            append([{"id": name, "seconds": round(time.monotonic() - start), "arguments": parts[name]}])


def main() -> None:
    parser = argparse.ArgumentParser("python -m train.pocket.all", description=__doc__.split(":")[0])
    add, text = parser.add_argument, "data and batch sizes for a CPU or a GPU (cpu)"
    add("run", type=Path, help="folder of the run; the result goes to assets/pocket")
    add("--preset", choices=PRESETS, default="cpu", help=text)
    add("--grids", type=int, default=GRIDS, help=f"number of grids to draw, for each task ({GRIDS})")
    add("--rows", type=int, default=ROWS, help=f"maximum number of training rows, of each task ({ROWS})")
    add("--tasks", action="store_true", help=f"teach {', '.join(WORLD_TASKS)} to one student")
    add("--parts", type=int, metavar="N", help="run at most N parts (default: all)")
    args = parser.parse_args()
    sizes = {"grids": args.grids, "max_rows": args.rows, "tasks": args.tasks}
    with whole.locked(args.run / "all"):
        build(args.run, list_parts(args.run, args.preset, **sizes), args.parts)


if __name__ == "__main__":
    command.run(main)
