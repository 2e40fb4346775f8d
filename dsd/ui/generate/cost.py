"""What a request costs: how often it needs the model, how long that takes here, what to ask of ZeroGPU.

Seconds are taken from the runs of this process. Before the first of them only an allowance is known, for
ZeroGPU, where something has to be asked for.
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

SECONDS_PER_EVALUATION = 0.35  # of a 512-pixel frame on a ZeroGPU device: an allowance, not a measurement
START_SECONDS = 15  # there: weights onto the device, text, reference and decoding; an allowance too
MARGIN = 1.5  # on measured seconds: ZeroGPU aborts what takes longer than it asked for


def evaluations(options: Options) -> int:
    """How often all pictures together need the model: once a step, and more where guidance acts."""
    plan = options.plan
    return options.count * (plan.steps + _more(options) * len(plan.guided))


def _more(options: Options) -> int:
    return len(branches(options.image_guidance, options.text_guidance)) - 1


def _in_first_step(options: Options) -> int:
    """Evaluations before the first `Progress`: those of the first batch."""
    return min(options.count, BATCH) * (1 + _more(options) * (0 in options.plan.guided))


class Pace:
    """How fast the model draws here: a running figure, moved halfway by every run that comes to its end."""

    def __init__(self, side: int) -> None:
        self.side = side  # pixels of a frame, where options name none
        self.rate: float | None = None  # seconds per evaluation of a megapixel; None before the first run
        self.start = 0.0  # seconds until drawing begins: words and reference

    def timed(self, steps: Iterator[Progress], options: Options) -> Iterator[Progress]:
        """The same steps; learns from them when they have come to their end.

        Timed where they arrive: on ZeroGPU they are drawn in another process, whose memory nobody reads.
        """
        begun, arrived = time.monotonic(), []
        with closing(steps):
            for progress in steps:
                arrived = [*arrived[:1], time.monotonic()]
                yield progress
        if len(arrived) > 1:
            self.learn(options, arrived[0] - begun, arrived[1] - arrived[0])

    def learn(self, options: Options, first: float, rest: float) -> None:
        """From a run whose first step was there after `first` seconds and whose last `rest` seconds later."""
        early, size = _in_first_step(options), self._megapixels(options)
        if evaluations(options) == early:
            return  # a single step: what came before it cannot be told from it
        rate = rest / (evaluations(options) - early) / size
        start = max(0.0, first - early * size * rate)
        known = self.rate is not None
        self.rate, self.start = ((self.rate + rate) / 2, (self.start + start) / 2) if known else (rate, start)

    def seconds(self, options: Options) -> float | None:
        """How long these options will take, if it is known yet."""
        return None if self.rate is None else self.start + self._drawing(options, self.rate)

    def gpu_seconds(self, image: Image.Image | None, options: Options) -> int:
        """What to ask of ZeroGPU: a visitor's quota refuses a call that asks for more than is left.

        The measured start is not in it, because there it holds the wait for a device.
        """
        if self.rate is not None:
            return math.ceil(START_SECONDS + MARGIN * self._drawing(options, self.rate))
        area = max(0.25, self._megapixels(options) * 1e6 / 512**2)  # small frames are hardly faster on a GPU
        return math.ceil(START_SECONDS + SECONDS_PER_EVALUATION * evaluations(options) * area)

    def line(self, options: Options) -> str:
        """A sentence for the visitor, before the click."""
        if space.is_zero():
            return self._asked(options)
        seconds = self.seconds(options)
        if seconds is None:
            return "The first picture will show how long it takes here."
        return f"Takes about {roughly(seconds)}."

    def _asked(self, options: Options) -> str:
        # How much is left to a visitor is not said: `spaces` learns it only when a call is refused, and that
        # refusal carries the number.
        asked = self.gpu_seconds(None, options)
        quota = f", which count as {counts} of your quota" if (counts := counted(asked)) != asked else ""
        known = "" if self.rate is not None else " That is an allowance: nothing has been timed here yet."
        return f"Asks for {asked} seconds of your GPU time{quota}.{known}"

    def _drawing(self, options: Options, rate: float) -> float:
        return rate * evaluations(options) * self._megapixels(options)

    def _megapixels(self, options: Options) -> float:
        return (options.width or self.side) * (options.height or self.side) / 1e6


def counted(seconds: int) -> int:
    """What ZeroGPU sets against a quota for `seconds`: more than these on its faster devices."""
    from spaces.zero.client import get_duration_seconds

    return round(get_duration_seconds(timedelta(seconds=seconds), None))
