"""What the commands of `python -m dsd.generate` share: a model with its notes, files, and a progress bar.

Slow modules are imported inside the functions, as in `dsd/generate/command.py`.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.generate.flags import speed, way
from dsd.generate.words import check_trained, find_task, suggest
from dsd.model.presets import choose

if TYPE_CHECKING:
    from PIL import Image

    from dsd.generate.drawing import Options, Result
    from dsd.generate.ranking import Ranker


def model_names(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the names that a model is loaded by, for `open_model` and for the settings of an image."""
    return {"model": args.model or "pocket", "weights": args.weights}


def open_noted(
    args: argparse.Namespace, images: "Sequence[Image.Image]", requests: "Sequence[Options]"
) -> Any:
    """Load the pipeline of the flags, and print notes on the images and the prompts that it is to draw."""
    from dsd.files import intake
    from dsd.model import known_words
    from dsd.model.request import embedded_guidance

    task = find_task(args)
    pipe = open_model(**model_names(args), lora=args.lora, **way(args), **speed(args))
    if task:
        check_trained(task, pipe)
    compile_pipe(pipe, args.compile)
    embedded_guidance(requests[0], pipe)  # raises ValueError before the notes below
    prompts = [options.prompt for options in requests]
    cut = [intake.prompt_notice(pipe, prompt) for prompt in prompts]
    unknown = known_words.notice(known_words.unknown_words(pipe, "\n".join(prompts)))
    unknown = f"{unknown} Some {suggest(task)}." if unknown and task else unknown
    for notice in filter(None, (*map(intake.image_notice, images), *cut, unknown)):
        print_note(notice)
    return pipe


def suit(options: "Options", args: argparse.Namespace, pipe: Any) -> "Options":
    """Return the options with the guidance scales that suit the model, but for those that flags name."""
    return replace(options, **choose(vars(args), pipe.scales))


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


def compile_pipe(pipe: Any, is_wanted: bool) -> None:
    """Compile the model's blocks, if the flags say so."""
    if is_wanted:
        from dsd.model.compile import compile_blocks

        print_note(compile_blocks(pipe))


def print_note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# ---------------------------------------------------------------- files


def check_output(output: Path, count: int) -> list[Path]:
    """Return the paths of the images; raise ValueError before drawing if one cannot be written."""
    if output.suffix.lower() != ".png":
        raise ValueError(f"-o must end in .png, which is lossless and holds the settings, got {output}")
    return check_writable([output] if count == 1 else number(output, count))


def number(output: Path, count: int) -> list[Path]:
    """Return the paths of several images: OUT-1.png, OUT-2.png, ..."""
    return [output.with_name(f"{output.stem}-{i + 1}.png") for i in range(count)]


def check_writable(paths: list[Path]) -> list[Path]:
    """Return these paths of one folder; raise ValueError if one cannot be written."""
    if not paths[0].parent.is_dir():
        raise ValueError(f"there is no folder {paths[0].parent}: create it first")
    for path in paths:
        places = [path.parent, path] if path.exists() else [path.parent]  # it is written beside and renamed
        if path.is_dir() or not all(os.access(place, os.W_OK) for place in places):
            raise ValueError(f"{path} cannot be written: choose another file")
    return paths


# ---------------------------------------------------------------- drawing


def draw_each(
    pipe: Any, images: "Sequence[Image.Image]", requests: "Sequence[Options]", **names: str | None
) -> Iterator["Result"]:
    """Draw with a progress bar, and yield each image as soon as it is finished."""
    from tqdm import tqdm

    from dsd.generate import drawing

    print(f"seed {requests[0].seed}")
    frames, done = [drawing.fit_reference(pipe, image, requests[0]) for image in images], 0
    with tqdm(total=drawing.count_steps(requests), unit="step", leave=False) as bar:
        for progress in drawing.stream_each(pipe, frames, requests, **names):
            bar.update(progress.step - bar.n)
            yield from progress.results[done:]
            done = len(progress.results)


def draw(
    pipe: Any,
    images: "Sequence[Image.Image]",
    options: "Options",
    targets: list[Path],
    ranker: "Ranker | None" = None,
    **names: str | None,
) -> list["Result"]:
    """Draw and write the images, each as soon as it is finished, or the best first if ranked."""
    from dsd.generate import ranking

    results: list[Result] = []
    try:
        for result in draw_each(pipe, images, [options], **names):
            results.append(result)
            if ranker is None:
                write(result, targets[len(results) - 1])
        results = ranking.rank(results, ranker) if ranker else results
    finally:  # images that could not be ranked are written as they were drawn
        for result, target in zip(results, targets, strict=False) if ranker else ():
            write(result, target)
    return results


def write(result: "Result", target: Path) -> None:
    """Save an image, and print its path, seed and scores above the progress bar."""
    from tqdm import tqdm

    from dsd.generate import drawing, ranking

    score = ranking.read_score(result.settings)
    scores = f", {ranking.in_words(score)}" if score else ""
    tqdm.write(f"{drawing.save(result, target)} (seed {result.seed}{scores})")
