"""The command line of `python -m dsd.generate`: takes an image and a prompt, writes PNG files.

A user error prints one line on standard error and exits with code 2. Drawing options default to None here:
their defaults are defined once, in `Options`, and `--from` can tell which options were given.
"""

import argparse
import logging
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from dsd.model.memory import QUANTIZED, Way, is_shortage
from dsd.model.sampling import QUALITIES

DRAWING = {  # field of Options -> type and help; the flag is the name with dashes
    "seed": (int, "seed of the first image, the next ones count up; a new one when left out, or -1"),
    "quality": (str, "how much time to take for how good an image: draft, balanced or best (best)"),
    "steps": (int, "denoising steps (the quality's: 28 at best)"),
    "image_guidance": (float, "how strongly to keep the subject (1.5; 1 is off)"),
    "text_guidance": (float, "how strongly to follow the prompt (1; off)"),
    "guidance": (
        float,
        "embedded guidance (3.5), only for models that were distilled with it, such as flux-dev",
    ),
    "count": (int, "images (1); more than one are written as OUT-1.png, OUT-2.png, ..."),
    "width": (int, "width in pixels, a multiple of 16 (the model's own)"),
    "height": (int, "height in pixels, a multiple of 16 (the model's own)"),
    "fit": (str, "crop the image to the frame, or pad it with white (crop)"),
}
ROUNDING = 2  # levels of 255 by which batching and threads may change a pixel


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the options)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dsd.generate", description="Draw the subject of an image somewhere new.")
    parser.add_argument("image", nargs="?", help="image of the subject")
    parser.add_argument("prompt", nargs="?", help="where the subject should be")
    parser.add_argument("-o", "--output", metavar="OUT.png", help="file to write")
    parser.add_argument(
        "--from", dest="source", metavar="OUT.png", help="make a saved image again from its settings"
    )
    parser.add_argument("--model", help="name, folder or hub id (pocket)")
    parser.add_argument("--weights", help="trained weights to put on the model: a folder, file or hub id")
    parser.add_argument("--device", help="cpu, cuda, mps; the best there is when left out")
    parser.add_argument(
        "--offload",
        default="none",
        choices=("none", "model", "group", "sequential"),
        help="keep parts of a large model in main memory",
    )
    parser.add_argument(
        "--quantize", choices=tuple(QUANTIZED), help="weights in fewer bits; an NVIDIA GPU and bitsandbytes"
    )
    parser.add_argument(
        "--fast", dest="quality", action="store_const", const="draft", help="the same as --quality draft"
    )
    for name, (kind, text) in DRAWING.items():
        choices = {"fit": ("crop", "pad"), "quality": tuple(QUALITIES)}.get(name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, choices=choices, help=text)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return the exit code."""
    args = _parser().parse_args(argv)
    quiet()
    # Imported here so that `--help` and mistyped flags respond at once.
    from dsd.doctor import doctor
    from dsd.model.checkpoint import LoadError

    try:
        return _again(args) if args.source else _new(args)
    except (ValueError, LoadError, OSError) as error:
        return _fail(doctor.remedy(error))
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        hint = doctor.hint(args.model or "pocket", Way(args.offload, args.quantize))
        return _fail(f"not enough memory: choose a smaller size or --count, or {hint}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"dsd.generate: {' '.join(message.split())}", file=sys.stderr)
    return 2


def quiet() -> None:
    """Silence the warnings and progress bars of the libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _new(args: argparse.Namespace) -> int:
    from dsd.files import intake
    from dsd.generate import drawing
    from dsd.model import known_words

    if args.image is None or args.prompt is None or args.output is None:
        raise ValueError(
            "an image, a prompt and -o OUT.png are needed, or --from OUT.png (--help shows more)"
        )
    given = {name: getattr(args, name) for name in DRAWING if getattr(args, name) is not None}
    given["seed"] = drawing.pick_seed(given.get("seed"))
    options = drawing.Options(prompt=args.prompt, **given)
    targets = _targets(Path(args.output), options.count)
    image = intake.open_image(args.image)
    pipe = _load(args, args.model or "pocket", args.weights)
    drawing.check(pipe, options)
    unknown = known_words.notice(known_words.unknown_words(pipe, options.prompt))
    for notice in (intake.image_notice(image), intake.prompt_notice(pipe, options.prompt), unknown):
        if notice:
            print(f"note: {notice}", file=sys.stderr)
    print(f"seed {options.seed}")
    results = _draw(pipe, image, options, model=args.model or "pocket", weights=args.weights)
    for result, target in zip(results, targets, strict=True):
        print(f"{drawing.save(result, target)} (seed {result.seed})")
    return 0


def _again(args: argparse.Namespace) -> int:
    from dsd.files import intake
    from dsd.generate import drawing, provenance

    given = [f"--{name.replace('_', '-')}" for name in DRAWING if getattr(args, name) is not None]
    if args.image is not None or given:
        raise ValueError(
            f"--from takes every setting from the image: leave out {', '.join(given) or 'IMAGE'}"
        )
    source = Path(args.source)
    original = intake.open_image(source)
    settings = provenance.read_settings(original)
    options, frame = drawing.options_from(settings), provenance.read_reference(original)
    (target,) = _targets(
        Path(args.output) if args.output else source.with_name(f"{source.stem}-again.png"), 1
    )
    model, weights = args.model or settings.get("model") or "pocket", args.weights or settings.get("weights")
    try:
        pipe = _load(args, model, weights)
    except ValueError as error:
        raise ValueError(
            f"{error} (the image was made by {model!r}: --model says where that is now)"
        ) from error
    print(f"seed {options.seed}")
    (result,) = _draw(pipe, frame, _known(pipe, options), model=model, weights=weights)
    print(f"{drawing.save(result, target)} (seed {result.seed})")
    _compare(original, settings, result)
    return 0


def _known(pipe: Any, options: Any) -> Any:
    """Drop the embedded guidance if the model has none: `--model` may name a different model."""
    from dsd.model.checkpoint import has_embedded_guidance

    return options if has_embedded_guidance(pipe) else replace(options, guidance=None)


def _compare(original: Any, settings: dict[str, Any], result: Any) -> None:
    """Print whether the new image is identical to the original."""
    from PIL import ImageChops

    if settings.get("model_hash") != result.settings["model_hash"]:
        print(
            "warning: the model is not the one that made the image, so the new one differs", file=sys.stderr
        )
        return
    difference = ImageChops.difference(original.convert("RGB"), result.image)
    worst = max(high for _, high in difference.getextrema())
    if worst == 0:
        print("identical to the original")
    elif worst <= ROUNDING:
        print(f"the same as the original but for rounding (at most {worst} of 255 levels)")
    else:
        print(
            f"warning: differs from the original by up to {worst} of 255 levels: it was edited, or made with "
            f"other versions ({settings.get('versions')}) or on another device",
            file=sys.stderr,
        )


def _targets(output: Path, count: int) -> list[Path]:
    """Return the output paths; raise ValueError before drawing if one cannot be written."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"-o must end in .png, which is lossless and carries the settings, got {output}")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent}: make it first")
    names = [output] if count == 1 else [output.with_name(f"{output.stem}-{i + 1}.png") for i in range(count)]
    for name in names:
        if name.is_dir() or not os.access(name if name.exists() else name.parent, os.W_OK):
            raise ValueError(f"{name} cannot be written: choose another place")
    return names


def open_model(
    model: str, *, weights: str | None, device: str | None, offload: str, quantize: str | None = None
) -> Any:
    """Load a pipeline without a progress bar; raise ValueError for a device that does not exist."""
    from dsd.model.checkpoint import load_pipeline

    try:
        pipe = load_pipeline(model, weights=weights, device=device, offload=offload, quantize=quantize)
    except (AssertionError, RuntimeError) as error:  # torch raises either for a missing device
        if device is None or is_shortage(error):
            raise
        raise ValueError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load(args: argparse.Namespace, model: str, weights: str | None) -> Any:
    return open_model(
        model, weights=weights, device=args.device, offload=args.offload, quantize=args.quantize
    )


def _draw(pipe: Any, image: Any, options: Any, **labels: str | None) -> list[Any]:
    from tqdm import tqdm

    from dsd.generate import drawing

    with tqdm(total=options.steps * options.count, unit="step", leave=False) as bar:
        return drawing.generate(pipe, image, options, lambda done, _: bar.update(done - bar.n), **labels)
