"""A guidance sheet: one image per pair of guidance scales, all from one seed, to choose the scales by eye."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from PIL import Image

from dsd.generate import drawing
from dsd.generate.drawing import Clock, Options, Progress

SIDE = 3  # values of each scale
STEP = 1.0  # between two values; half of it hardly shows
NEUTRAL, HIGHEST = 1.0, 10.0  # other values than the present one stay within


def around(value: float) -> list[float]:
    """Return `value` with one below and one above it, or with the next two at an end of the range."""
    if value <= NEUTRAL:
        return [value, value + STEP, value + 2 * STEP]
    if value >= HIGHEST:
        return [value - 2 * STEP, value - STEP, value]
    return [max(NEUTRAL, value - STEP), value, min(HIGHEST, value + STEP)]


def cells(options: Options) -> list[Options]:
    """Return the options of each cell, row by row: a row has one image scale, a column one text scale."""
    return [
        replace(options, count=1, image_guidance=image, text_guidance=text)
        for image in around(options.image_guidance)
        for text in around(options.text_guidance)
    ]


def stream(pipe: Any, frame: Image.Image, sheet: Sequence[Options], **settings: Any) -> Iterator[Progress]:
    """Draw the cells one after the other, and yield a Progress after each step; closing stops within one.

    `settings` are those of `dsd.generate.drawing.stream`. The last Progress has a result for each cell.
    """
    clock, results = Clock(sum(cell.loop.steps for cell in sheet), None), []
    for cell in sheet:
        begun = clock.done
        with closing(drawing.stream(pipe, frame, cell, **settings)) as steps:
            for progress in steps:
                clock.tick(begun + progress.step - clock.done)
                yield clock.progress(None, [*results, *progress.results])
        results += progress.results
