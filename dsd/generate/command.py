"""The command line of `python -m dsd.generate`: takes an image and a prompt, writes PNG files.

After a user error, the command prints one line on standard error and exits with code 2. Drawing options
default to None here: their defaults are defined once, in `Options`, and `--from` needs to know which options
were passed. Slow modules are imported inside the functions, so that `--help` and mistyped flags respond at
once.
"""

import argparse
import logging
import os
import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dsd.files.errors import printable
from dsd.model.memory import OFFLOADS, QUANTIZED, Way, is_out_of_memory
from dsd.model.presets import PRESETS
from dsd.model.sampling import QUALITIES

if TYPE_CHECKING:
    from PIL import Image

    from dsd.generate.drawing import Options, Result

DRAWING = {  # field of Options -> type and help; the flag is the name with dashes
    "seed": (int, "seed of the first image; each further image adds 1 (-1 or left out: random)"),
    "quality": (str, "speed against image quality: draft, balanced or best (best)"),
    "steps": (int, "number of denoising steps (set by --quality: 28 for best)"),
    "image_guidance": (float, "how strongly to keep the subject (1.5; 1 is off)"),
    "text_guidance": (float, "how strongly to follow the prompt (1; 1 is off)"),
    "guidance": (float, "embedded guidance (3.5), for models that were distilled with it, such as flux-dev"),
    "count": (int, "number of images (1); several are written as OUT-1.png, OUT-2.png, ..."),
    "width": (int, "width in pixels, a multiple of 16 (the model's frame size)"),
    "height": (int, "height in pixels, a multiple of 16 (the model's frame size)"),
    "fit": (str, "crop the image to the frame, or pad it with white (crop)"),
}
CHOICES = {"fit": ("crop", "pad"), "quality": tuple(QUALITIES)}
ROUNDING = 2  # levels of 255 by which batching and threads may change a pixel


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the options)\n")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command's flags; exit with one line if they are wrong."""
    parser = _Parser(prog="dsd.generate", description="Draw the subject of an image somewhere new.")
    add = parser.add_argument
    add("image", nargs="?", help="image of the subject")
    add("prompt", nargs="?", help="where the subject should be")
    add("-o", "--output", metavar="OUT.png", help="PNG file to write")
    add("--from", dest="source", metavar="OUT.png", help="draw a saved image again from its settings")
    add("--model", help="model to draw with: a name, folder or hub id (pocket)")
    add_loading_flags(parser)
    add("--fast", dest="quality", action="store_const", const="draft", help="the same as --quality draft")
    for name, (kind, text) in DRAWING.items():
        add(_flag(name), type=kind, choices=CHOICES.get(name), help=text)
    return parser.parse_args(argv)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for loading a model, which the app shares."""
    add = parser.add_argument
    add("--weights", help="trained weights to put on the model: a folder, file or hub id")
    lora = "style LoRA to add to the model, on disk or on the hub; repeat it for several"
    add("--lora", metavar="FILE_OR_ID[:SCALE]", action="append", default=[], help=lora)
    add("--device", help="device to draw on: cpu, cuda or mps (the best available)")
    add("--offload", default="none", choices=OFFLOADS, help="how to offload the model to main memory (none)")
    add("--quantize", choices=QUANTIZED, help="store weights in fewer bits (NVIDIA GPU and bitsandbytes)")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit code."""
    from dsd.doctor import doctor

    try:
        _draw_again(args) if args.source else _draw_new(args)
        return 0
    except (ValueError, OSError) as error:
        return _fail(doctor.remedy(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = doctor.suggest_change(args.model or "pocket", Way(args.offload, args.quantize))
        return _fail(f"not enough memory: choose a smaller size or --count, or {hint}")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _fail(message: str) -> int:
    print(f"dsd.generate: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2


def quiet() -> None:
    """Silence the warnings and progress bars of the libraries; only entry points call this."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _draw_new(args: argparse.Namespace) -> None:
    from dsd.files import intake
    from dsd.generate import drawing
    from dsd.model import known_words
    from dsd.model.request import embedded_guidance

    if args.image is None or args.prompt is None or args.output is None:
        raise ValueError("pass an image, a prompt and -o OUT.png, or --from OUT.png (--help shows more)")
    fields = _drawing_flags(args)
    fields["seed"] = drawing.pick_seed(fields.get("seed"))
    options = drawing.Options(prompt=args.prompt, **fields)
    targets = _check_targets(Path(args.output), options.count)
    image = intake.open_image(args.image)
    names = {"model": args.model or "pocket", "weights": args.weights}
    pipe = open_model(**names, lora=args.lora, **_way(args))
    embedded_guidance(options, pipe)  # raises ValueError before the notes below
    unknown = known_words.notice(known_words.unknown_words(pipe, options.prompt))
    for notice in (intake.image_notice(image), intake.prompt_notice(pipe, options.prompt), unknown):
        if notice:
            print(f"note: {printable(notice)}", file=sys.stderr)
    _draw(pipe, image, options, targets, **names)


def _drawing_flags(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in DRAWING if (value := getattr(args, name)) is not None}


def _draw_again(args: argparse.Namespace) -> None:
    from dsd.files import intake
    from dsd.generate import drawing, provenance
    from dsd.model.checkpoint import has_embedded_guidance

    flags = [_flag(name) for name in _drawing_flags(args)]
    if args.image is not None or flags:
        raise ValueError(f"--from takes all settings from the image: leave out {', '.join(flags) or 'IMAGE'}")
    source = Path(args.source)
    original = intake.open_image(source)
    settings = provenance.read_settings(original)
    options, frame = drawing.options_from(settings), provenance.read_reference(original)
    target = Path(args.output) if args.output else source.with_name(f"{source.stem}-again.png")
    targets = _check_targets(target, 1)
    _check_choice(args, settings)
    names = {"model": args.model or settings.get("model") or "pocket", "weights": args.weights}
    pipe = open_model(**names, lora=args.lora, **_way(args))
    if not has_embedded_guidance(pipe):  # --model may name a different model
        options = replace(options, guidance=None)
    (result,) = _draw(pipe, frame, options, targets, **names)
    _compare(original, settings, result)


def _check_choice(args: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Raise ValueError if the image names more than a preset: a stranger's file must not choose downloads."""
    styles = settings.get("lora") or []
    made_with = {"--model": [settings.get("model") or "pocket"], "--weights": [settings.get("weights")]}
    made_with["--lora"] = styles if isinstance(styles, list) else [styles]
    passed = {"--model": args.model, "--weights": args.weights, "--lora": args.lora}
    if made_with["--model"][0] in list(PRESETS):
        del made_with["--model"]
    missing = [
        f"{flag} {shlex.quote(str(value))}"
        for flag, values in made_with.items()
        if not passed[flag]
        for value in values
        if value
    ]
    if missing:
        raise ValueError(
            f"the image was made with {' '.join(missing)}, and a file does not choose what is opened: add "
            "this to the command if you trust it, with the place where it lies now"
        )


def _compare(original: "Image.Image", settings: dict[str, Any], result: "Result") -> None:
    """Print whether the new image is identical to the original."""
    from PIL import ImageChops

    if settings.get("model_hash") != result.settings["model_hash"]:
        print("warning: another model made the original image, so the new one differs", file=sys.stderr)
        return
    extrema = ImageChops.difference(original.convert("RGB"), result.image).getextrema()
    worst = max(high for _, high in extrema)
    if worst == 0:
        print("identical to the original")
    elif worst <= ROUNDING:
        print(f"the same as the original except for rounding (at most {worst} of 255 levels)")
    else:
        reason = f"made with other versions ({settings.get('versions')}) or on another device"
        difference = f"differs from the original by up to {worst} of 255 levels"
        print(printable(f"warning: {difference}: the original was edited, or {reason}"), file=sys.stderr)


def _check_targets(output: Path, count: int) -> list[Path]:
    """Return the output paths; raise ValueError before drawing if one cannot be written."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"-o must end in .png, which is lossless and holds the settings, got {output}")
    if not output.parent.is_dir():
        raise ValueError(f"there is no folder {output.parent}: create it first")
    paths = [output] if count == 1 else [output.with_name(f"{output.stem}-{i + 1}.png") for i in range(count)]
    for path in paths:
        places = [path.parent, path] if path.exists() else [path.parent]  # it is written beside and renamed
        if path.is_dir() or not all(os.access(place, os.W_OK) for place in places):
            raise ValueError(f"{path} cannot be written: choose another file")
    return paths


def _way(args: argparse.Namespace) -> dict[str, str | None]:
    return {"device": args.device, "offload": args.offload, "quantize": args.quantize}


def open_model(model: str, *, weights: str | None, **options: Any) -> Any:
    """Load a pipeline, as `load_pipeline` does, without a progress bar; say how much of each style acts."""
    from dsd.model.checkpoint import load_pipeline, resolve

    pipe = load_pipeline(model, weights=weights, **options)
    pipe.set_progress_bar_config(disable=True)
    for style in pipe.styles:
        print(style.report)
    if weights and pipe.license != resolve(model).license:
        print(f"note: with these weights the license is: {pipe.license}", file=sys.stderr)
    return pipe


def _draw(
    pipe: Any, image: "Image.Image", options: "Options", targets: list[Path], **names: str | None
) -> list["Result"]:
    """Draw with a progress bar, write the images, and print the seeds."""
    from tqdm import tqdm

    from dsd.generate import drawing

    print(f"seed {options.seed}")
    frame = drawing.fit_reference(pipe, image, options)
    with tqdm(total=options.loop.steps * options.count, unit="step", leave=False) as bar:
        for progress in drawing.stream(pipe, frame, options, **names):
            bar.update(progress.step - bar.n)
    for result, target in zip(progress.results, targets, strict=True):
        print(f"{drawing.save(result, target)} (seed {result.seed})")
    return progress.results
