"""Cost of a request: model evaluations, time on this machine, and the time to request from ZeroGPU.

Times are measured on the runs of this process; before the first, ZeroGPU is asked for an allowance.
"""

import math
from collections.abc import Sequence
from datetime import timedelta

from PIL import Image

from dsd.doctor import space
from dsd.generate.drawing import Options
from dsd.ui.messages import roughly

SECONDS_PER_EVALUATION = 0.35  # for a 512-pixel frame on a ZeroGPU device; an allowance, not a measurement
START_SECONDS = 15  # on ZeroGPU: loading weights, encoding text and reference, decoding; also an allowance
RANK_SECONDS = 15  # on ZeroGPU, to rank the images of a request; an allowance as well
MARGIN = 1.5  # on measured seconds: ZeroGPU aborts calls that run longer than requested
UNTIMED = ", and some time to rank the images"
FIRST = "The first image will show how long it takes here."


def evaluations(options: Options) -> int:
    """Return the number of model evaluations for all images: one per step, more where guidance is active."""
    extra = len(options.guided) - 1
    return options.count * (options.loop.steps + extra * len(options.loop.guided))


class Pace:
    """Running estimate of the drawing speed on this machine; every complete run moves it halfway."""

    def __init__(self, side: int) -> None:
        self.side = side  # pixels of a frame, used if the options have no size
        self.rate: float | None = None  # seconds per evaluation and megapixel; None before the first run
        self.rank_rate: float | None = None  # seconds to rank an image; None before the first ranking

    def learn(self, options: Options, seconds: float) -> None:
        """Update the estimate from the seconds that a run took where it was drawn."""
        rate = seconds / evaluations(options) / self._megapixels(options)
        self.rate = rate if self.rate is None else (self.rate + rate) / 2

    def learn_rank(self, count: int, seconds: float) -> None:
        """Update the estimate from the seconds that it took to rank so many images."""
        rate = seconds / count
        self.rank_rate = rate if self.rank_rate is None else (self.rank_rate + rate) / 2

    def seconds(self, *parts: Options) -> float | None:
        """Return the seconds that these options take together, or None before the first measured run."""
        if self.rate is None:
            return None
        return sum(self.rate * evaluations(options) * self._megapixels(options) for options in parts)

    def _ranking(self, *parts: Options) -> float:
        """Return the seconds to rank the images of these options; 0 before the first measured ranking."""
        return (self.rank_rate or 0.0) * sum(options.count for options in parts)

    def gpu_seconds(self, image: Image.Image | None, options: Options) -> int:
        """Return the seconds to request from ZeroGPU, which refuses more than the visitor's quota."""
        return self.gpu_seconds_of(image, [options])

    def gpu_seconds_of(self, image: Image.Image | None, cells: Sequence[Options]) -> int:
        """Return the seconds to request from ZeroGPU for several options in one call."""
        seconds = self.seconds(*cells)
        if seconds is not None:
            return math.ceil(START_SECONDS + MARGIN * seconds)
        # Small frames are hardly faster on a GPU.
        areas = [max(0.25, self._megapixels(options) * 1e6 / 512**2) for options in cells]
        work = sum(evaluations(options) * area for options, area in zip(cells, areas, strict=True))
        return math.ceil(START_SECONDS + SECONDS_PER_EVALUATION * work)

    def line(self, *parts: Options, rank: bool = False) -> str:
        """Return a sentence on the expected time, shown to the visitor before the click."""
        seconds = self.seconds(*parts)
        if not space.is_zero():
            if seconds is None:
                return FIRST
            more = UNTIMED if rank and self.rank_rate is None else ""
            return f"Takes about {roughly(seconds + self._ranking(*parts) * rank)}{more}."
        # The remaining quota is not shown: `spaces` learns it only when a call is refused, and that error
        # message contains the number.
        seconds = self.gpu_seconds_of(None, parts) + RANK_SECONDS * rank
        quota = f", which count as {count(seconds)} of your quota" if count(seconds) != seconds else ""
        caveat = "" if self.rate is not None else " This is an allowance: nothing has been timed here yet."
        return f"Asks for {seconds} seconds of your GPU time{quota}.{caveat}"

    def _megapixels(self, options: Options) -> float:
        return math.prod(options.size(self.side)) / 1e6


def count(seconds: int) -> int:
    """Return the seconds that ZeroGPU deducts from a quota for `seconds`: more on its faster devices."""
    from spaces.zero.client import get_duration_seconds

    return round(get_duration_seconds(timedelta(seconds=seconds), None))
