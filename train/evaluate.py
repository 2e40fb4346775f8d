"""Compare checkpoints: `python -m train.evaluate CHECKPOINT... --out REPORT`.

Draws held-out critters in the requested places with each checkpoint and with the prompted teacher, adds the
true drawings and the VAE's reconstruction of each reference, and scores all of them with the same scorer.
--task relight and --task edit ask for one change, and score whether it is there and the rest is kept.
With --images the subjects are photographs, or those of DreamBench++ or OmniContext, and --judge MODEL has a
vision-language model score them as well. Prints a Markdown table with 95 % intervals over subjects. REPORT
gets report.html (every image, score and reason, and a page to label images on), results.json, scores.md,
images.jsonl, samples.png and all images.

The same command gives the same numbers, and continues a run that was stopped. `accelerate launch -m
train.evaluate ...` shares the drawing between processes. `python -m train.evaluate REPORT --labels FILE`
adds a person's labels to a report, and states how well the scores agree with them.
"""

import argparse
from pathlib import Path

from dsd.generate.flags import QUANTIZE_HELP, refuse_unused
from dsd.grids.recipes import WORLD_TASKS
from dsd.model.memory import QUANTIZED
from train import command

OF_JUDGE = ("judge_model", "key", "in_flight", "budget", "max_tokens", "price", "yes")


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    text = "name, folder, hub id, or a LoRA file for --base; LABEL=CHECKPOINT names its row"
    add("checkpoints", nargs="+", metavar="CHECKPOINT", help=text)
    add("--out", type=Path, metavar="REPORT", help="folder of the results")
    add("--labels", type=Path, metavar="FILE", help="add labels.json, saved on the page of the REPORT named")
    add("--subjects", type=int, default=200, help="number of held-out critters (200)")
    add("--prompts", type=int, help="prompts for each subject (3; all of DreamBench++'s)")
    text = "photographs, a file or a subfolder for each subject, or the data of DreamBench++ or OmniContext"
    add("--images", type=Path, metavar="FOLDER", help=text)
    add("--dino", default="facebook/dinov2-base", metavar="MODEL", help="scores identity in photographs")
    add("--clip", default="openai/clip-vit-base-patch32", metavar="MODEL", help="scores prompt following")
    add("--size", type=int, default=512, help="side of a photograph in pixels (512)")
    text = "what to ask for: identity, or one change of a critter's image (identity)"
    add("--task", choices=WORLD_TASKS, default="identity", help=text)
    add("--described", action="store_true", help="draw also with the full caption as the prompt")
    add("--teacher", metavar="MODEL", help="text-to-image model to prompt (pocket's; none for --images)")
    add("--teacher-guidance", type=float, help="guidance scale of the teacher (its preset's)")
    add("--teacher-like", default="pocket", metavar="PRESET", help="preset for another teacher (pocket)")
    add("--base", default="pocket", metavar="MODEL", help="model that a LoRA file is added to (pocket)")
    add("--steps", type=int, default=28, help="denoising steps (28)")
    add("--image-guidance", type=float, help="image guidance scale; 1 is off (the model's own)")
    add("--text-guidance", type=float, help="text guidance scale; 1 is off (the model's own)")
    add("--quantize", choices=QUANTIZED, help=QUANTIZE_HELP)
    add("--batch", type=int, help="images drawn together (16 critters, 1 photograph)")
    add("--seed", type=int, default=0, help="seed of the critters and of their places (0)")
    add("--device", help="cpu, cuda or mps (the best available)")
    _add_judge(parser)
    return parser


def _add_judge(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("a judge of photographs, by DreamBench++'s protocol").add_argument
    add("--judge", metavar="MODEL", help="vision-language model: a folder, a hub id, or http://host/v1")
    add("--judge-model", metavar="NAME", help="name of the judge, on a server that has several models")
    add("--key", metavar="NAME", help="environment variable that holds the server's key (DSD_VLM_KEY)")
    add("--in-flight", type=int, metavar="N", help="requests sent to a server at a time (32)")
    add("--budget", type=int, metavar="N", help="maximum requests to a server, retries included (no limit)")
    add("--max-tokens", type=int, metavar="N", help="maximum tokens of an answer (512)")
    text = "dollars for a million tokens in and out, to estimate the cost"
    add("--price", type=float, nargs=2, metavar=("IN", "OUT"), help=text)
    add("--yes", action="store_true", help="ask a server without asking you about the cost")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; end the command with one line if they are wrong or have no effect."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.labels:
        others = [name for name in vars(args) if name not in ("checkpoints", "labels", "out")]
        refuse_unused(parser, args, others, beside="--labels")
    if not args.judge:
        refuse_unused(parser, args, OF_JUDGE, without="--judge")
    if not args.teacher:
        names = ("teacher_guidance", "teacher_like") if args.images else ("teacher_like",)
        refuse_unused(parser, args, names, without="--teacher")
    if args.images:
        refuse_unused(parser, args, ("subjects",), beside="--images")
    else:
        refuse_unused(parser, args, ("dino", "clip", "size"), without="--images")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.labels:
        return _add_labels(args)
    if args.out is None:
        raise ValueError("no folder given for the results: add --out REPORT")
    if args.batch is None:
        args.batch = 1 if args.images else 16
    for flag, least in (("subjects", 2), ("prompts", 1), ("steps", 1), ("batch", 1)):
        value = getattr(args, flag)
        if value is not None and value < least:  # fail now, not after minutes of drawing
            raise ValueError(f"--{flag} must be at least {least}, got {value}")
    # Imported here so that --help and flag errors are fast, and quiet() runs before the libraries load.
    from dsd.generate.command import quiet

    quiet()
    from train import comparison
    from train.blocks import say

    page = comparison.compare(args)
    say(page, f"\nsee {args.out / 'report.html'}")
    return 0


def _add_labels(args: argparse.Namespace) -> int:
    if len(args.checkpoints) > 1 or args.out:
        raise ValueError(
            "--labels takes one report and no --out: python -m train.evaluate REPORT --labels FILE"
        )
    from dsd.evaluation.results import add_labels

    print(add_labels(Path(args.checkpoints[0]), args.labels))
    return 0


if __name__ == "__main__":
    command.run(main)
