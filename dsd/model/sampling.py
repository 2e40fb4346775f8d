"""Named settings of the drawing loop that trade quality for time: `draft`, `balanced` and `best`.

An image takes less time with fewer steps, with a solver that needs fewer, and with guidance, which costs up
to three evaluations per step, only on the steps where it matters. `python -m train.bench qualities` compares
them. torch is imported on first use, because --help needs only the names.
"""

import copy
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline, SchedulerMixin

NAMES = ("draft", "balanced", "best", "own")
MOST = 1000  # upper limit of steps
SOLVERS = ("euler", "unipc")


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The settings of the drawing loop for one image."""

    name: str = "own"  # one of NAMES
    steps: int = 28  # model evaluations when guidance is off
    solver: str = "euler"  # one of SOLVERS; a model's stochastic scheduler takes its place
    guidance_start: int = 2  # the first step with guidance
    guidance_stop: float = 1.0  # share of the steps after which guidance stops

    def __post_init__(self) -> None:
        for name, allowed in (("name", NAMES), ("solver", SOLVERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        check_whole("steps", self.steps, 1, MOST)
        check_whole("guidance_start", self.guidance_start, 0, MOST)
        if not isinstance(self.guidance_stop, float | int) or not 0 <= self.guidance_stop <= 1:
            raise ValueError(f"guidance_stop must be from 0 to 1, got {self.guidance_stop!r}")

    @property
    def guided(self) -> range:
        """Return the steps at which the two guidance scales apply."""
        return range(self.guidance_start, round(self.guidance_stop * self.steps))


# These do not use diffusers' caches. At the same score a cache saves less than fewer steps do, and the best
# one, First Block, decides for the whole batch: an image drawn again alone would not be the same.
# "best" is the published setting.
QUALITIES = {
    quality.name: quality
    for quality in (
        Quality(name="draft", steps=6, solver="unipc"),
        Quality(name="balanced", steps=14, guidance_stop=0.7),
        Quality(name="best"),
    )
}


def find(quality: str | Quality) -> Quality:
    """Return the quality of that name, or the given Quality itself."""
    if isinstance(quality, Quality):
        return quality
    if not isinstance(quality, str) or quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}")
    return QUALITIES[quality]


def from_settings(values: object) -> Quality:
    """Return the Quality of these fields; version 0 also wrote a shift of 1.

    Raise ValueError for anything else, because the file may come from a stranger.
    """
    if isinstance(values, dict) and values.get("shift") == 1:
        values = {name: value for name, value in values.items() if name != "shift"}
    try:
        return Quality(**values)
    except TypeError as error:
        raise ValueError(f"the settings in this image contain an unreadable quality: {error}") from error


def schedule(
    quality: Quality, own: "SchedulerMixin", tokens: int, *, device: "torch.device | str" = "cpu"
) -> "tuple[SchedulerMixin, torch.Tensor]":
    """Return the solver and its times [steps], in 0..1000, for a canvas of `tokens` tokens.

    "euler" is a copy of `own`, the pipeline's scheduler, because schedulers count steps, and a canceled
    drawing may still take its last step after the next has begun. "unipc" gets its shift as a static one: a
    dynamic shift of `mu` equals a static shift of exp(mu). A stochastic `own` solves at every quality.
    """
    from diffusers import UniPCMultistepScheduler

    from dsd.model import latents

    if quality.solver == "euler" or is_stochastic(own):
        own = copy.deepcopy(own)
        return own, latents.timesteps(own, quality.steps, tokens, device=device)
    is_dynamic = own.config.get("use_dynamic_shifting", False)
    shift = math.exp(latents.dynamic_shift(own, tokens)) if is_dynamic else own.config.get("shift", 1.0)
    solver = UniPCMultistepScheduler(
        num_train_timesteps=own.config.num_train_timesteps, prediction_type="flow_prediction",
        use_flow_sigmas=True, flow_shift=shift,
    )  # fmt: skip
    solver.set_timesteps(quality.steps, device=device)
    return solver, solver.timesteps


def is_stochastic(scheduler: "SchedulerMixin") -> bool:
    """Return whether each step replaces the remaining noise by new noise, as the scheduler's config says.

    An error of the model in one step is then no part of the next one's input: pocket draws cleaner outlines.
    """
    return bool(scheduler.config.get("stochastic_sampling"))


def make_stochastic(pipe: "DiffusionPipeline") -> None:
    """Give the pipeline a stochastic scheduler of the same times, which its folder records."""
    pipe.register_modules(scheduler=_stochastic(pipe.scheduler))


def stochastic_with(scheduler: "SchedulerMixin", generators: "list[torch.Generator]") -> "SchedulerMixin":
    """Return a stochastic scheduler of the same times that takes its noise from the images' generators.

    Diffusers' own pipelines pass none to `step`, which then takes it from torch's global generator.
    """
    own = _stochastic(scheduler)
    own.step = functools.partial(own.step, generator=generators)
    return own


def _stochastic(scheduler: "SchedulerMixin") -> "SchedulerMixin":
    return type(scheduler).from_config(dict(scheduler.config), stochastic_sampling=True)


def advance(
    solver: "SchedulerMixin",
    velocity: "torch.Tensor",
    timestep: "torch.Tensor",
    sample: "torch.Tensor",
    generator: "torch.Generator | list[torch.Generator] | None",
) -> "torch.Tensor":
    """Return the `sample` [B, tokens, C] after one step; new noise comes from the images' generators."""
    noise = {"generator": generator} if is_stochastic(solver) else {}
    return solver.step(velocity, timestep, sample, **noise, return_dict=False)[0].to(sample.dtype)
