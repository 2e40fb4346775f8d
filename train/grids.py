"""Draw grids of panels from prompts: `python -m train.grids RUN --model pocket`.

Draws the prompts of RUN/prompts.jsonl into RUN/grids. You can stop it at any time and run the same command
again to continue. `accelerate launch -m train.grids RUN` shares the prompts between GPUs and machines,
`torchrun --nproc-per-node 2 -m train.grids RUN` between processes on a CPU.
"""

import argparse
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from dsd.grids import grids
from train import command
from train.blocks import Stage, join, own_device, wait_for_all

if TYPE_CHECKING:
    from dsd.grids.teacher import Teacher

OVERRIDES = {  # field of dsd.grids.teacher.Settings -> type and help
    "steps": (int, "denoising steps (pocket 12, flux-dev 28, flux-schnell 4)"),
    "guidance": (float, "how closely to follow the prompt (pocket 3, flux-dev 3.5, flux-schnell has none)"),
    "margin": (int, "pixels to cut off each side of a panel (pocket 0, FLUX 8)"),
}


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "--model", default="pocket", help="the teacher: pocket, flux-dev, flux-schnell, a folder or a hub id"
    )
    parser.add_argument("--like", metavar="NAME", help="which of the three a folder or a hub id is like")
    for name, (kind, text) in OVERRIDES.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--batch", type=int, help="grids at a time (pocket 32, FLUX 4)")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is when left out")
    parser.add_argument(
        "--offload",
        default="none",
        choices=("none", "model", "group", "sequential"),
        help="keep parts of a large model in main memory",
    )
    parser.add_argument("--mend", action="store_true", help="draw grids again whose file is gone or damaged")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    prompts, state = grids.read_prompts(args.run), join()
    if args.mend:
        _mend(args.run, state)
    teacher = _load(args)
    grids.check_run(args.run, prompts, teacher.stamp)
    speed = stage(args.run, prompts, teacher, batch=args.batch).run()
    if state.is_main_process:
        grids.sweep(args.run)
        each = " in each process" if state.num_processes > 1 else ""
        print(f"{_summary(args.run, jsonl.read(grids.table(args.run)))}; {speed:.2f} grids/s{each}")
    return 0


def _load(args: argparse.Namespace) -> "Teacher":
    quiet()  # before the import below, which would log messages
    from dsd.grids.teacher import load_teacher

    given = {name: getattr(args, name) for name in OVERRIDES}
    device = args.device or own_device()
    return load_teacher(args.model, like=args.like, device=device, offload=args.offload, **given)


def stage(
    run: Path,
    prompts: list[Row],
    teacher: "Teacher",
    *,
    batch: int | None = None,
    draw: Callable | None = None,
) -> Stage:
    """Return the stage that `main` runs.

    `draw` replaces `dsd.grids.teacher.draw`, for example with a function that measures the time.
    """
    if draw is None:
        from dsd.grids.teacher import draw
    do = partial(
        grids.draw_grids,
        folder=grids.table(run).parent,
        draw=partial(draw, teacher),
        refuse=teacher.refuse,
        stamp=teacher.stamp,
    )
    return Stage(
        path=grids.table(run),
        items=prompts,
        do=do,
        batch=teacher.settings.batch if batch is None else batch,
        unit="grid",
        reason_of=_reason,
        tell=_told,
    )


def _mend(run: Path, state: PartialState) -> None:
    if state.is_main_process:
        print(f"{grids.mend(run)} grids are to be drawn again")
    wait_for_all()


def _reason(row: Row) -> str | None:
    """Return why a grid was rejected, without the numbers."""
    return row["rejected"] and row["rejected"].split(":")[0]


def _told(seen: Counter) -> str:
    rejected = [f"{count} {reason}" for reason, count in seen.most_common() if reason]
    return ", ".join([f"{seen[None]} kept", *rejected])


def _summary(run: Path, drawn: list[Row]) -> str:
    seen = Counter(map(_reason, drawn))
    return f"{len(drawn)} grids in {grids.table(run).parent}: {_told(seen)}"


if __name__ == "__main__":
    command.run(main)
