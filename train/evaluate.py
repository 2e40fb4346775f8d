"""Compare checkpoints: `python -m train.evaluate CHECKPOINT... --out FOLDER`.

Draws held-out critters in the requested places with each checkpoint and with the prompted teacher, adds the
true drawings, and scores all of them with the same scorer. With --images the subjects are photographs.
--task relight and --task edit ask for one change, and score whether it is there and the rest is kept.
Prints a Markdown table with 95 % intervals over subjects. FOLDER gets scores.json, images.jsonl (the
scores of each image), a contact sheet of samples and all images. The same command gives the same numbers,
and continues a run that was stopped.
"""

import argparse
from pathlib import Path

from dsd.files.errors import printable
from train import command


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    text = "name, folder, hub id, or a LoRA file for --base; LABEL=CHECKPOINT names its row"
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help=text)
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder of the results")
    add("--subjects", type=int, default=200, help="number of held-out critters (200)")
    add("--prompts", type=int, default=3, help="prompts for each subject (3)")
    add("--images", type=Path, metavar="FOLDER", help="photographs, a file or a subfolder for each subject")
    add("--dino", default="facebook/dinov2-base", metavar="MODEL", help="scores identity in photographs")
    add("--clip", default="openai/clip-vit-base-patch32", metavar="MODEL", help="scores prompt following")
    add("--size", type=int, default=512, help="side of a photograph in pixels (512)")
    text = "what to ask for: identity, or one change of a critter's image (identity)"
    add("--task", choices=("identity", "relight", "edit"), default="identity", help=text)
    add("--described", action="store_true", help="draw also with the full caption as the prompt")
    add("--teacher", metavar="MODEL", help="text-to-image model to prompt (pocket's; none for --images)")
    add("--teacher-guidance", type=float, help="guidance scale of the teacher (its preset's)")
    add("--teacher-like", default="pocket", metavar="PRESET", help="preset for another teacher (pocket)")
    add("--base", default="pocket", metavar="MODEL", help="model that a LoRA file is added to (pocket)")
    add("--steps", type=int, default=28, help="denoising steps (28)")
    add("--image-guidance", type=float, default=1.5, help="image guidance scale; 1 is off (1.5)")
    add("--text-guidance", type=float, default=1.0, help="text guidance scale; 1 is off (1)")
    add("--batch", type=int, help="images drawn together (16 critters, 1 photograph)")
    add("--seed", type=int, default=0, help="seed of the critters, their places and the images (0)")
    add("--device", help="cpu, cuda or mps (the best available)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.batch is None:
        args.batch = 1 if args.images else 16
    for flag, least in (("subjects", 2), ("prompts", 1), ("steps", 1), ("batch", 1)):
        if getattr(args, flag) < least:  # fail now, not after minutes of drawing
            raise ValueError(f"--{flag} must be at least {least}, got {getattr(args, flag)}")
    # Imported here so that --help and flag errors are fast, and quiet() runs before the libraries load.
    from dsd.generate.command import quiet

    quiet()
    from train import comparison

    print(printable(comparison.compare(args)))
    return 0


if __name__ == "__main__":
    command.run(main)
