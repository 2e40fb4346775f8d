"""Draw grids of panels from prompts: `python -m train.grids RUN --model pocket`.

Draws the prompts of RUN/prompts.jsonl into RUN/grids. You can stop it at any time and run the same command
again to continue. `accelerate launch -m train.grids RUN` shares the prompts between GPUs and machines,
`torchrun --nproc-per-node 2 -m train.grids RUN` between processes on a CPU.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from dsd.generate.flags import QUANTIZE_HELP
from dsd.grids import grids
from dsd.grids.prompts import Prompt
from dsd.model.memory import QUANTIZED
from dsd.model.presets import TEACHERS
from train import command
from train.blocks import KEPT, describe, finish, join, locked, own_device, place, say, stage

if TYPE_CHECKING:
    from dsd.grids.teacher import Teacher


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the run")
    add("--model", default="pocket", help=f"teacher: {', '.join(TEACHERS)}, a folder or a hub id")
    add("--like", metavar="NAME", help="preset whose settings a folder or hub id uses (found)")
    add("--steps", type=int, help="denoising steps (the model's own: pocket 12, flux-dev 28)")
    add("--guidance", type=float, help="guidance scale (the model's own: pocket 3, flux-dev 3.5)")
    add("--panel", type=int, help="side of a panel in pixels, a multiple of 16 (the model's own: FLUX 512)")
    add("--margin", type=int, help="pixels to crop from each side of a panel (pocket 0, others 8)")
    text = "correlation of the panels' noise, 0 to 1: more alike, also in pose (pocket 1, FLUX.1 0)"
    add("--shared-noise", type=float, metavar="SHARE", help=text)
    text = "strength, 0 to 1, at which each panel is drawn again from its own words (pocket 0.5, others 0)"
    add("--refine", type=float, metavar="STRENGTH", help=text)
    add("--batch", type=int, help="grids drawn together (pocket 8, FLUX 4)")
    add("--device", help="cpu, cuda or mps; the best available by default")
    offloads, text = ("none", "model", "group", "sequential"), "keep parts of a large model in main memory"
    add("--offload", default="none", choices=offloads, help=text)
    add("--quantize", choices=QUANTIZED, help=QUANTIZE_HELP)
    text = "draw with a LoRA of the teacher, such as train.teacher makes (FLUX.1 and pocket)"
    add("--teacher-lora", dest="lora", metavar="FILE_OR_ID[:SCALE]", help=text)
    text = "draw each prompt with N seeds, as train.dataset --preferences needs (1)"
    add("--seeds", type=int, default=1, metavar="N", help=text)
    add("--mend", action="store_true", help="draw grids again whose file is missing or damaged")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    prompts, _ = grids.with_seeds(grids.read_prompts(args.run), args.seeds), join()
    with locked(grids.table(args.run)):
        _draw(args, prompts)
    return 0


def _draw(args: argparse.Namespace, prompts: list[Prompt]) -> None:
    if args.mend:
        finish(lambda: print(f"{grids.mend(args.run)} grids will be drawn again"))
    quiet()  # before the import below, which would log messages
    from dsd.grids.teacher import load_teacher

    names = ("like", "steps", "guidance", "panel", "margin", "shared_noise", "refine", "offload", "quantize")
    names += ("lora", "batch")
    options = {name: getattr(args, name) for name in names}
    teacher = load_teacher(args.model, device=args.device or own_device(), **options)
    grids.check_run(args.run, prompts, teacher.stamp)
    finish(lambda: grids.check_files(args.run))
    speed = draw_run(args.run, prompts, teacher)
    rows = jsonl.read(grids.table(args.run))
    is_shared = place().num_processes > 1
    outcomes, each = Counter(map(_outcome, rows)), " in each process" if is_shared else ""
    say(f"{len(rows)} grids in {args.run / 'grids'}: {describe(outcomes)}; {speed:.2f} grids/s{each}")


def draw_run(run: Path, prompts: list[Prompt], teacher: "Teacher") -> float:
    """Draw this process's share of the prompts and return its grids per second."""
    items, about = {prompt.id: prompt for prompt in prompts}, {"unit": "grid", "outcome_of": _outcome}
    with stage(grids.table(run), items, batch=teacher.settings.batch, **about) as share:
        for block in share.blocks:
            share.write(grids.draw_grids(run / "grids", block, teacher))
    return share.speed


def _outcome(row: Row) -> str:
    """Return why a grid was rejected, without the numbers, or KEPT."""
    return row["rejected"].split(":")[0] if row["rejected"] else KEPT


if __name__ == "__main__":
    command.run(main)
