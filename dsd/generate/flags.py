"""The flags of `python -m dsd.generate`, of which the app shares those for loading a model.

Drawing options default to None here: their defaults are defined once, in `Options`, and `--from` needs to
know which options were passed.
"""

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from dsd.generate.words import TASKS
from dsd.model.memory import OFFLOADS, QUANTIZED
from dsd.model.sampling import QUALITIES

if TYPE_CHECKING:
    from dsd.model.speed import Speed

DRAWING = {  # field of Options -> type and help; the flag is the name with dashes
    "seed": (int, "seed of the first image; each further image adds 1 (-1 or left out: random)"),
    "quality": (str, "speed against image quality: draft, balanced or best (best)"),
    "steps": (int, "number of denoising steps (set by --quality: 28 for best)"),
    "image_guidance": (float, "how strongly to keep the subject; 1 is off (the model's: 2 for pocket)"),
    "text_guidance": (float, "how strongly to follow the prompt; 1 is off (the model's: 2 for pocket)"),
    "guidance": (float, "embedded guidance (3.5), for models that were distilled with it, such as flux-dev"),
    "count": (int, "number of images (1); several are written as OUT-1.png, OUT-2.png, ..."),
    "width": (int, "width in pixels, a multiple of 16 (the model's frame size)"),
    "height": (int, "height in pixels, a multiple of 16 (the model's frame size)"),
    "fit": (str, "crop the image to the frame, or pad it with white (crop)"),
}
CHOICES = {"fit": ("crop", "pad"), "quality": tuple(QUALITIES)}
QUANTIZE_HELP = (
    "store weights in fewer bits: 8bit or 4bit (NVIDIA GPU, bitsandbytes), int8 or fp8 (torchao), "
    "fp8-compute (torchao, Ada or Hopper GPU)"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the options)\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's flags; exit with one line if they are wrong."""
    parser = Parser(prog="dsd.generate", description="Draw the subject of an image somewhere new.")
    add = parser.add_argument
    text = "image of the subject, or several if the weights know several, and where the subject should be"
    add("inputs", nargs="*", metavar="IMAGE... PROMPT", help=text)
    add("-o", "--output", metavar="OUT.png", help="PNG file to write; with --story also PDF")
    text = "draw a comic strip: text file with a line for each panel, at most 8; needs no prompt"
    add("--story", metavar="LINES.txt", help=text)
    text = "draw a saved image again from its settings; for other models than pocket, pass --model, too"
    add("--from", dest="source", metavar="OUT.png", help=text)
    text = "suggest words for it where a prompt is missing or not understood; needs weights trained for it"
    add("--task", metavar="TASK", help=f"{', '.join(TASKS)}: {text}")
    add("--model", help="model to draw with: a name, folder or hub id (pocket)")
    add_loading_flags(parser)
    add("--compile", action="store_true", help="compile the model for the GPU: the first image takes longer")
    text = "put the subject's looks into the prompt, in the words of --judge"
    add("--describe", action="store_true", help=text)
    text = "score how well each image keeps the subject and shows the prompt; OUT-1.png is the best"
    add("--rank", action="store_true", help=text)
    add_judge_flags(parser)
    either = parser.add_mutually_exclusive_group()
    text = "the same as --quality draft"
    either.add_argument("--fast", dest="quality", action="store_const", const="draft", help=text)
    for name, (kind, text) in DRAWING.items():
        group = either if name == "quality" else parser
        group.add_argument(flag(name), type=kind, choices=CHOICES.get(name), help=text)
    args = parser.parse_intermixed_args(argv)
    has_prompt = len(args.inputs) > 1 and args.story is None  # one word alone is an image
    args.images = args.inputs[:-1] if has_prompt else args.inputs
    args.prompt = args.inputs[-1] if has_prompt else None
    check_judge_flags(parser, args)
    if not args.rank:
        refuse_unused(parser, args, ("embedder",), without="--rank")
        if not args.describe:
            refuse_unused(parser, args, ("judge",), without="--rank or --describe")
    return args


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for loading a model, which the app shares."""
    add = parser.add_argument
    add("--weights", help="trained weights to put on the model: a folder, file or hub id")
    lora = "style LoRA to add to the model, on disk or on the hub; repeat it for several"
    add("--lora", metavar="FILE_OR_ID[:SCALE]", action="append", default=[], help=lora)
    add("--device", help="device to draw on: cpu, cuda or mps (the best available)")
    add("--offload", default="none", choices=OFFLOADS, help="how to offload the model to main memory (none)")
    add("--quantize", choices=("none", *QUANTIZED), help=QUANTIZE_HELP)
    cache = "skip work that a cache predicts: first-block, taylorseer or mag, with its strength (none)"
    add("--cache", metavar="NAME[:STRENGTH]", help=cache)
    add("--attention", metavar="NAME", help="attention backend of diffusers, such as _native_cudnn (native)")


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a vision-language model, which the app shares."""
    add = parser.add_argument
    add("--judge", help="compares and describes images: pocket, a folder, a hub id, or http://host/v1")
    add("--judge-model", metavar="NAME", help="name of the judge, on a server that has several models")
    add(
        "--embedder",
        metavar="MODEL",
        help="image encoder that ranks images: a folder or hub id (the model's)",
    )


def check_judge_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the command with one line if flags of `add_judge_flags` lack the one that they belong to."""
    if not args.judge:
        refuse_unused(parser, args, ("judge_model",), without="--judge")


def refuse_unused(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    names: Iterable[str],
    *,
    without: str = "",
    beside: str = "",
) -> None:
    """End the command with one line if flags were passed that have no effect without or beside another."""
    flags = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    passed = [flags[name] for name in names if getattr(args, name) != parser.get_default(name)]
    if passed:
        drop = "drop it" if len(passed) == 1 else "drop them"
        why = f"without {without}: add it, or {drop}" if without else f"beside {beside}: {drop}"
        parser.error(f"{' and '.join(passed)} would have no effect {why}")


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def drawing_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `Options` that flags were passed for."""
    return {name: value for name in DRAWING if (value := getattr(args, name)) is not None}


def way(args: argparse.Namespace) -> dict[str, str | None]:
    """Return how a model is held in memory, as options of `load_pipeline` and `load_teacher`."""
    quantize = None if args.quantize == "none" else args.quantize
    return {"device": args.device, "offload": args.offload, "quantize": quantize}


def speed(args: argparse.Namespace, recorded: "Speed | None" = None) -> dict[str, str | None]:
    """Return what makes drawing faster, as options of `load_pipeline`: from the flags, or as recorded."""
    names = ("cache", "attention", "quantize") if recorded else ("cache", "attention")
    values = {name: getattr(args, name) or (recorded and getattr(recorded, name)) for name in names}
    return {name: None if value == "none" else value for name, value in values.items()}
