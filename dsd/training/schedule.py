"""The learning rate over the steps, and a report where a continued run makes it jump."""

import math
from dataclasses import replace

from dsd.training.options import TrainOptions
from dsd.training.state import Progress

FINAL_RATE = 0.02  # final rate of a decaying schedule, as a share of the peak
SMOOTH = 0.01  # change of the learning rate, as a share of the peak, that is not called a jump


def learning_rate(step: int, options: TrainOptions) -> float:
    """Return the rate: linear warmup, constant, then a half cosine to 1/50 over the last `decay` of steps."""
    start = options.steps * (1 - options.decay)
    progress = min(1.0, max(0.0, (step - start) / max(1.0, options.steps - start)))
    share = FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * progress)) / 2
    return options.lr * min(1.0, (step + 1) / max(1, options.warmup)) * share


def describe_jump(progress: Progress, options: TrainOptions) -> str | None:
    """Return a sentence if another number of steps than before makes the learning rate jump, else None."""
    step, planned = progress.step, progress.steps
    if not planned or planned == options.steps or step >= options.steps:
        return None
    old, now = replace(options, steps=planned), learning_rate(step, options)
    if abs(now - learning_rate(step, old)) < SMOOTH * options.lr:
        return None
    change = "raised" if options.steps > planned else "lowered"
    return (
        f"--steps was {change} from {planned} to {options.steps} after {step} steps, so the learning rate "
        f"goes from {learning_rate(step - 1, old):.3g} to {now:.3g} at step {step + 1}: pass another --out "
        "to start over with one smooth schedule"
    )
