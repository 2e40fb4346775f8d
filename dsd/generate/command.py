"""The command line of `python -m dsd.generate`: takes an image and a prompt, writes PNG files.

After a user error, the command prints one line on standard error and exits with code 2. Slow modules are
imported inside the functions, so that `--help` and mistyped flags respond at once.
"""

import argparse
import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.files import signals
from dsd.generate.flags import drawing_flags, flag, speed, way
from dsd.generate.story_command import draw_story
from dsd.generate.terminal import check_output, compile_pipe, draw, model_names, open_model, open_noted, suit
from dsd.generate.words import find_task, suggest
from dsd.model.memory import Way, is_out_of_memory
from dsd.model.presets import PRESETS

if TYPE_CHECKING:
    from PIL import Image

    from dsd.generate.drawing import Result
    from dsd.generate.ranking import Ranker
    from dsd.model.speed import Speed
    from dsd.vlm.base import VLM

ROUNDING = 2  # levels of 255 by which batching and threads may change a pixel


def run(args: argparse.Namespace) -> int:
    """Run the command and return the exit code."""
    try:
        _pick(args)(args)
        return 0
    except BaseException as error:
        return _explain(error, args)


def _explain(error: BaseException, args: argparse.Namespace) -> int:
    """Print why the command ends and return the exit code; raise the error again if it is a bug."""
    if signals.code_of(error):
        return stop(error)
    from dsd.doctor import doctor

    if isinstance(error, ValueError | OSError):
        return _fail(doctor.remedy(error))
    if not is_out_of_memory(error):
        raise error
    hint = doctor.suggest_change(args.model or "pocket", Way(args.offload, way(args)["quantize"]))
    return _fail(f"not enough memory: choose a smaller size or --count, or {hint}")


def stop(error: BaseException) -> int:
    """Print that a signal stopped the command, and return the exit code."""
    print("stopped", file=sys.stderr)
    return signals.code_of(error)


def _pick(args: argparse.Namespace) -> Callable[[argparse.Namespace], None]:
    """Return what these flags ask for."""
    if args.source:
        return _draw_again
    return draw_story if args.story is not None else _draw_new


def _fail(message: str) -> int:
    print(f"dsd.generate: {' '.join(message.split())}", file=sys.stderr)
    return 2


def quiet() -> None:
    """Silence the warnings and progress bars of the libraries; only entry points call this."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("dsd.model").setLevel(logging.WARNING)  # such as a LoRA that fits in part
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _draw_new(args: argparse.Namespace) -> None:
    from dsd.files import intake
    from dsd.generate import drawing

    task = find_task(args)
    if task and args.images and args.prompt is None:
        raise ValueError(f"{args.images[0]} has no prompt beside it; {suggest(task)}")
    if not args.images or args.prompt is None or args.output is None:
        raise ValueError("pass an image, a prompt and -o OUT.png, or --from OUT.png (--help shows more)")
    fields = drawing_flags(args)
    fields["seed"] = drawing.pick_seed(fields.get("seed"))
    options = drawing.Options(prompt=args.prompt, **fields)
    targets = check_output(Path(args.output), options.count)
    images = [intake.open_image(image) for image in args.images]
    with _keeping_answers(_answers(args)):
        if args.describe:
            options = replace(options, prompt=_describe(images[0], args.prompt, args))
        ranker = _open_ranker(args) if args.rank else None
        pipe = open_noted(args, images, [options])
        draw(pipe, images, suit(options, args, pipe), targets, ranker, **model_names(args))


def _answers(args: argparse.Namespace) -> Path:
    """Return the folder, beside the image, in which a server's answers are kept until it is written."""
    output = Path(args.output)
    return output.with_name(f".{output.name}.answers")


@contextmanager
def _keeping_answers(folder: Path) -> Iterator[None]:
    """Remove the answers after the block; a command that was stopped or cut off leaves them to the next."""
    from dsd.vlm.base import UnusableError

    try:
        yield
    except UnusableError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _open_ranker(args: argparse.Namespace) -> "Ranker":
    from dsd.evaluation.rankers import open_ranker
    from dsd.model.checkpoint import resolve

    judge = _open_judge(args.judge, args) if args.judge else None
    preset = resolve(args.model or "pocket")
    return open_ranker(preset, embedder=args.embedder, judge=judge, device=args.device)


def _open_judge(judge: str, args: argparse.Namespace) -> "VLM":
    from dsd.vlm.open import open_vlm
    from dsd.vlm.recorded import Recorded

    if "://" not in judge:
        return open_vlm(judge, model=args.judge_model, device=args.device)
    return Recorded(open_vlm(judge, model=args.judge_model), _answers(args))


def _describe(image: "Image.Image", prompt: str, args: argparse.Namespace) -> str:
    """Return the prompt with the subject's looks, and print it; the judge is not kept in memory."""
    from dsd.curation import captions
    from dsd.curation.enhancement import enhance
    from dsd.grids.recipes import recipe_of
    from dsd.model.checkpoint import resolve
    from dsd.pocket.scorer import warning

    preset = resolve(args.model or "pocket")
    judge = args.judge or (preset.name if preset.judge else None)
    if judge is None:
        raise ValueError("--describe needs a vision-language model: name one with --judge")
    vlm = _open_judge(judge, args)
    count = captions.counter(captions.tokenizer_of(preset.base))
    text = enhance(vlm, image, prompt, recipe_of(judge), count=count, warn=warning)
    print(f"prompt: {text}")
    return text


def _draw_again(args: argparse.Namespace) -> None:
    from dsd.files import intake
    from dsd.generate import drawing, provenance
    from dsd.model import speed as speeds
    from dsd.model.checkpoint import has_embedded_guidance

    _check_alone(args)
    source = Path(args.source)
    original = intake.open_image(source)
    settings = provenance.read_settings(original)
    options, frames = drawing.options_from(settings), provenance.read_references(original)
    target = Path(args.output) if args.output else source.with_name(f"{source.stem}-again.png")
    targets = check_output(target, 1)
    recorded = speeds.from_settings(settings.get("speed"))
    _check_choice(args, settings, recorded)
    names = {**model_names(args), "model": args.model or settings.get("model") or "pocket"}
    pipe = _open_again(args, names, recorded)
    if not has_embedded_guidance(pipe):  # --model may name a different model
        options = replace(options, guidance=None)
    (result,) = draw(pipe, frames, options, targets, **names)
    _compare(original, settings, result)


def _check_alone(args: argparse.Namespace) -> None:
    """Raise ValueError for what --from takes from the image."""
    flags = [flag(name) for name in drawing_flags(args)] + ["--describe"] * args.describe
    flags += ["--task"] * (args.task is not None) + ["--rank"] * args.rank
    flags += ["--story"] * (args.story is not None)
    if args.images or flags:
        raise ValueError(f"--from takes all settings from the image: leave out {', '.join(flags) or 'IMAGE'}")


def _open_again(args: argparse.Namespace, names: dict[str, str | None], recorded: "Speed") -> Any:
    """Load the pipeline as it was sped up for the image; the error says how to draw without that."""
    used = speed(args, recorded)
    try:
        pipe = open_model(**names, lora=args.lora, **{**way(args), **used})
        compile_pipe(pipe, args.compile or recorded.compiled)
    except ValueError as error:
        flags = [f"--{name} none" for name, value in used.items() if value]
        raise ValueError(f"{error} ({', '.join(flags)} draws without)" if flags else f"{error}") from error
    return pipe


def _check_choice(args: argparse.Namespace, settings: dict[str, Any], recorded: "Speed") -> None:
    """Raise ValueError if the image names more than the shipped preset: a file must not choose downloads."""
    styles = settings.get("lora") or []
    made_with = {"--model": [settings.get("model") or "pocket"], "--weights": [settings.get("weights")]}
    made_with["--lora"] = styles if isinstance(styles, list) else [styles]
    passed = {"--model": args.model, "--weights": args.weights, "--lora": args.lora}
    if "hub" in (recorded.attention or ""):  # diffusers would download this backend's code and run it
        made_with["--attention"], passed["--attention"] = [recorded.attention], args.attention
    if made_with["--model"][0] in [name for name, preset in PRESETS.items() if preset.embedded]:
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
        print(f"warning: {difference}: the original was edited, or {reason}", file=sys.stderr)
