"""The command line of a story: `python -m dsd.generate --story LINES.txt IMAGE -o STRIP.png`."""

import argparse
from pathlib import Path

from dsd.generate.flags import drawing_flags
from dsd.generate.terminal import (
    check_writable,
    draw_each,
    model_names,
    number,
    open_noted,
    print_note,
    suit,
    write,
)


def draw_story(args: argparse.Namespace) -> None:
    """Draw a panel for each line, write it as soon as it is finished, and at the end the strip.

    The strip is also written after an interruption, with the panels that are finished.
    """
    from dsd.files import intake
    from dsd.generate import drawing, story

    fields = _check_flags(args)
    lines = story.read_lines(_read_text(Path(args.story)))
    fields["seed"] = drawing.pick_seed(fields.get("seed"))
    panels = story.plan(lines, drawing.Options(prompt=lines[0], **fields))
    strip, *targets = _check_output(Path(args.output), len(lines))
    images = [intake.open_image(image) for image in args.images]
    if notice := story.font_notice(lines):
        print_note(notice)
    results = []
    try:
        pipe = open_noted(args, images, panels)
        panels = [suit(panel, args, pipe) for panel in panels]
        drawn = draw_each(pipe, images, panels, **model_names(args))
        for result, target in zip(drawn, targets, strict=True):
            write(result, target)
            results.append(result)
    finally:
        if results:
            print(story.save_strip(strip, results))


def _check_flags(args: argparse.Namespace) -> dict[str, int | float | str]:
    """Return the drawing flags; raise ValueError for those that a story needs or cannot take."""
    if not args.images or args.output is None:
        raise ValueError("--story needs an image and -o STRIP.png or STRIP.pdf (--help shows more)")
    fields = drawing_flags(args)
    refused = ["--describe"] * args.describe + ["--rank"] * args.rank + ["--count"] * ("count" in fields)
    if refused:
        raise ValueError(f"--story draws one image for each line: leave out {', '.join(refused)}")
    return fields


def _check_output(output: Path, count: int) -> list[Path]:
    """Return the path of the strip and those of its panels."""
    from dsd.generate import story

    if output.suffix.lower() not in story.SUFFIXES:
        raise ValueError(f"-o must end in {' or '.join(story.SUFFIXES)} for a story, got {output}")
    return check_writable([output, *number(output, count)])


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the story {path} cannot be read ({error}): pass a text file in UTF-8") from error
