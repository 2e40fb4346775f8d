"""Compare checkpoints: `python -m train.evaluate CHECKPOINT... --out FOLDER`.

Draws held-out critters in the requested places with each checkpoint and with the prompted teacher, adds the
true drawings, and scores all of them with the same scorer. With --images the subjects are photographs.
Prints a markdown table with 95 % intervals over subjects. FOLDER gets scores.json, images.jsonl (the
scores of each image), a contact sheet of samples and all images. The same command gives the same numbers,
and continues a run that was stopped.
"""

import argparse
from pathlib import Path

from train import command
from train.row_names import CHANCE, COPY, TEACHER, TRUTH


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="name, folder, hub id, or LoRA file on --base; LABEL=... names its row",
    )
    add("--out", type=Path, required=True, metavar="FOLDER", help="where the results go")
    add("--subjects", type=int, default=200, help="held-out critters (200)")
    add("--prompts", type=int, default=3, help="prompts for each of them (3)")
    add(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="photographs instead; a file or a subfolder for each subject",
    )
    add("--dino", default="facebook/dinov2-base", metavar="MODEL", help="sees identity in photographs")
    add("--clip", default="openai/clip-vit-base-patch32", metavar="MODEL", help="sees prompts in photographs")
    add("--size", type=int, default=512, help="side of a photograph in pixels (512)")
    add("--described", action="store_true", help="also ask with the full caption, not the context alone")
    add(
        "--teacher",
        metavar="MODEL",
        help="text-to-image model to prompt; pocket's for critters, none for --images",
    )
    add("--teacher-guidance", type=float, help="of the teacher (its preset's)")
    add(
        "--teacher-like",
        default="pocket",
        metavar="PRESET",
        help="how a teacher of your own is asked (pocket)",
    )
    add("--base", default="pocket", metavar="MODEL", help="what a LoRA file goes on (pocket)")
    add("--steps", type=int, default=28, help="denoising steps (28)")
    add("--image-guidance", type=float, default=1.5, help="1.5; 1 is off")
    add("--text-guidance", type=float, default=1.0, help="1; off")
    add("--batch", type=int, help="images drawn together (16 critters, 1 for --images)")
    add("--seed", type=int, default=0, help="of the held-out critters and their places (0)")
    add("--device", help="cpu, cuda, mps; the best there is when left out")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    named = label(args.checkpoints)
    _check(args)
    # Imported here so that --help and flag errors are fast, and quiet() runs before the libraries load.
    from dsd.generate.command import quiet

    quiet()
    from train import comparison

    print(comparison.compare(args, named))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Set the default batch, and raise ValueError for options that would fail after minutes of drawing."""
    if args.subjects < 2:
        raise ValueError(
            f"--subjects must be at least 2, got {args.subjects}: intervals are taken over subjects"
        )
    args.batch = (1 if args.images else 16) if args.batch is None else args.batch
    for flag in ("prompts", "steps", "batch"):
        if getattr(args, flag) < 1:
            raise ValueError(f"--{flag} must be at least 1, got {getattr(args, flag)}")


def label(given: list[str]) -> dict[str, str]:
    """Map row names to sources.

    `judged=runs/judged/checkpoint` names its row; without a label, the source itself is the name.
    """
    named: dict[str, str] = {}
    for item in given:
        name, sign, source = item.partition("=")
        name, source = (name, source) if sign else (_public(item), item)
        if not name or name in (TEACHER, TRUTH, COPY, CHANCE) or name in named:
            raise ValueError(
                f"two rows cannot both be called {name!r}: write LABEL={source} to name this one"
            )
        named[name] = source
    return named


def _public(name: str) -> str:
    """Remove the local folders from an absolute path, because tables are shared with others."""
    return Path(name).name if Path(name).is_absolute() else name


if __name__ == "__main__":
    command.run(main)
