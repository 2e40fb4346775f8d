"""Cost of a request: model evaluations, time on this machine, and the time to request from ZeroGPU.

Times are measured on the runs of this process. Before the first run, only an allowance is known. It is used
for ZeroGPU, where every call must request its time.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

from PIL import Image

from dsd.doctor import space
from dsd.generate.drawing import BATCH, Options, Progress
from dsd.model.guidance import branches
from dsd.ui.messages import roughly

SECONDS_PER_EVALUATION = 0.35  # for a 512-pixel frame on a ZeroGPU device; an allowance, not a measurement
START_SECONDS = 15  # on ZeroGPU: loading weights, encoding text and reference, decoding; also an allowance
MARGIN = 1.5  # on measured seconds: ZeroGPU aborts calls that run longer than requested


def evaluations(options: Options) -> int:
    """Return the number of model evaluations for all images: one per step, more where guidance is active."""
    plan = options.plan
    return options.count * (plan.steps + _more(options) * len(plan.guided))


def _more(options: Options) -> int:
    return len(branches(options.image_guidance, options.text_guidance)) - 1


def _in_first_step(options: Options) -> int:
    """Return the evaluations before the first `Progress`, which are those of the first batch."""
    return min(options.count, BATCH) * (1 + _more(options) * (0 in options.plan.guided))


class Pace:
    """Running estimate of the drawing speed on this machine; every complete run moves it halfway."""

    def __init__(self, side: int) -> None:
        self.side = side  # pixels of a frame, used if the options have no size
        self.rate: float | None = None  # seconds per evaluation and megapixel; None before the first run
        self.start = 0.0  # seconds before drawing begins, for the prompt and the reference

    def timed(self, steps: Iterator[Progress], options: Options) -> Iterator[Progress]:
        """Yield the steps unchanged, and learn from their times when all have arrived.

        Steps are timed where they arrive: ZeroGPU draws in another process, whose memory is not accessible
        here.
        """
        begun, arrived = time.monotonic(), []
        with closing(steps):
            for progress in steps:
                arrived = [*arrived[:1], time.monotonic()]
                yield progress
        if len(arrived) > 1:
            self.learn(options, arrived[0] - begun, arrived[1] - arrived[0])

    def learn(self, options: Options, first: float, rest: float) -> None:
        """Update the estimate from a run: `first` seconds to its first step, then `rest` to its last."""
        early, size = _in_first_step(options), self._megapixels(options)
        if evaluations(options) == early:
            return  # a single step: its time cannot be separated from the start
        rate = rest / (evaluations(options) - early) / size
        start = max(0.0, first - early * size * rate)
        known = self.rate is not None
        self.rate, self.start = ((self.rate + rate) / 2, (self.start + start) / 2) if known else (rate, start)

    def seconds(self, options: Options) -> float | None:
        """Return the seconds that these options take, or None before the first measured run."""
        return None if self.rate is None else self.start + self._drawing(options, self.rate)

    def gpu_seconds(self, image: Image.Image | None, options: Options) -> int:
        """Return the seconds to request from ZeroGPU, which refuses a call that exceeds the visitor's quota.

        The measured start is left out, because on ZeroGPU it includes the wait for a device.
        """
        if self.rate is not None:
            return math.ceil(START_SECONDS + MARGIN * self._drawing(options, self.rate))
        area = max(0.25, self._megapixels(options) * 1e6 / 512**2)  # small frames are hardly faster on a GPU
        return math.ceil(START_SECONDS + SECONDS_PER_EVALUATION * evaluations(options) * area)

    def line(self, options: Options) -> str:
        """Return a sentence on the expected time, shown to the visitor before the click."""
        if space.is_zero():
            return self._asked(options)
        seconds = self.seconds(options)
        if seconds is None:
            return "The first image will show how long it takes here."
        return f"Takes about {roughly(seconds)}."

    def _asked(self, options: Options) -> str:
        # The remaining quota is not shown: `spaces` learns it only when a call is refused, and that
        # error message contains the number.
        asked = self.gpu_seconds(None, options)
        quota = f", which count as {counts} of your quota" if (counts := counted(asked)) != asked else ""
        known = "" if self.rate is not None else " That is an allowance: nothing has been timed here yet."
        return f"Asks for {asked} seconds of your GPU time{quota}.{known}"

    def _drawing(self, options: Options, rate: float) -> float:
        return rate * evaluations(options) * self._megapixels(options)

    def _megapixels(self, options: Options) -> float:
        return (options.width or self.side) * (options.height or self.side) / 1e6


def counted(seconds: int) -> int:
    """Return the seconds that ZeroGPU deducts from a quota for `seconds`: more on its faster devices."""
    from spaces.zero.client import get_duration_seconds

    return round(get_duration_seconds(timedelta(seconds=seconds), None))
