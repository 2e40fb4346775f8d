"""A guidance sheet: one image per pair of guidance scales, all from one seed, to choose the scales by eye."""

from dataclasses import replace

from dsd.generate.drawing import Options

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
