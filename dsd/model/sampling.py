"""How much time a picture may take: `draft`, `balanced` and `best`, as named settings of the drawing loop.

What makes a picture cheaper is fewer steps, a solver that does more with each, and guidance, which costs
up to three evaluations a step, only where it decides something. What a name stands for is chosen from the
table of `python -m train.bench qualities`. torch comes in on first use: the command's --help reads the names.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

NAMES = ("draft", "balanced", "best", "own")
MOST = 1000  # of any number here
SOLVERS = ("euler", "heun", "unipc", "dpm++")  # DEIS misses the end of even a straight flow


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How a picture is drawn. Shares are of the steps."""

    name: str = "own"  # one of NAMES
    steps: int = 28  # evaluations of the model without guidance
    solver: str = "euler"  # one of SOLVERS
    shift: float = 1.0  # on top of the model's own: above 1, more of the steps are spent near noise
    guidance_start: int = 2  # the step from which the two guidance scales act
    guidance_stop: float = 1.0  # the share of the steps after which they rest again

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}, got {self.solver!r}")
        if self.name not in NAMES:
            raise ValueError(f"a quality's name is one of {', '.join(NAMES)}, got {self.name!r}")
        for name, kind, low in (("steps", int, 1), ("shift", float | int, 0.01), ("guidance_start", int, 0)):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= MOST:
                raise ValueError(f"{name} must be a number from {low} to {MOST}, got {value!r}")
        if self.solver == "heun" and self.steps % 2 == 0:
            raise ValueError(f"heun evaluates twice a step, but for its last: {self.steps} must be odd")
        if not isinstance(self.guidance_stop, float | int) or not 0 <= self.guidance_stop <= 1:
            raise ValueError(f"guidance_stop is a share of the steps, 0 to 1, got {self.guidance_stop!r}")

    @property
    def guided(self) -> range:
        """The steps at which the two guidance scales act."""
        return range(self.guidance_start, round(self.guidance_stop * self.steps))


# The caches of diffusers are not among these. They spare less than fewer steps do at the same score, and the
# best of them, First Block, decides by the whole batch: no picture would be the same when made again alone.
# "best" is the published way.
QUALITIES = {
    quality.name: quality
    for quality in (
        Quality(name="draft", steps=6, solver="unipc", guidance_stop=0.5),
        Quality(name="balanced", steps=14, guidance_stop=0.7),
        Quality(name="best"),
    )
}


def find(quality: str | Quality) -> Quality:
    """The quality of that name; one that was made by hand is taken as it is."""
    if isinstance(quality, Quality):
        return quality
    if not isinstance(quality, str) or quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}")
    return QUALITIES[quality]


def settings(quality: Quality) -> dict[str, Any]:
    """All of it as plain values, for a picture's file."""
    return asdict(quality)


def from_settings(values: object) -> Quality:
    """What `settings` wrote. From a stranger's file, so whatever else stands there is a ValueError."""
    try:
        return Quality(**values)
    except TypeError as error:
        raise ValueError(
            f"the settings in this picture hold a quality that cannot be read: {error}"
        ) from error


def schedule(
    quality: Quality, own: "SchedulerMixin", tokens: int, *, device: "torch.device | str" = "cpu"
) -> "tuple[SchedulerMixin, torch.Tensor]":
    """The solver, and the times [steps], in 0..1000, of a canvas of so many tokens.

    "euler" with a shift of 1 is a copy of `own`, the pipeline's flow-matching scheduler: it counts steps, and
    a drawing that is cancelled may still take its last one when the next has begun. For all others a dynamic
    shift of `mu` is a static one of exp(mu), and as shifts in a row multiply, one number says all.
    """
    from dsd.model import latents

    if quality.solver == "euler" and quality.shift == 1.0:
        own = copy.deepcopy(own)
        return own, latents.timesteps(own, quality.steps, tokens, device=device)
    dynamic = own.config.get("use_dynamic_shifting", False)
    base = math.exp(latents.dynamic_shift(own, tokens)) if dynamic else own.config.get("shift", 1.0)
    solver = _solver(quality.solver, base * quality.shift, own.config.num_train_timesteps)
    if quality.solver == "euler":
        return solver, latents.timesteps(solver, quality.steps, tokens, device=device)
    steps = (quality.steps + 1) // 2 if quality.solver == "heun" else quality.steps
    solver.set_timesteps(steps, device=device)
    return solver, solver.timesteps


def _solver(name: str, shift: float, times: int) -> "SchedulerMixin":
    import diffusers

    if name in ("euler", "heun"):
        kind = {"euler": "FlowMatchEulerDiscreteScheduler", "heun": "FlowMatchHeunDiscreteScheduler"}[name]
        return getattr(diffusers, kind)(num_train_timesteps=times, shift=shift)
    kind = {"unipc": "UniPCMultistep", "dpm++": "DPMSolverMultistep"}[name]
    return getattr(diffusers, f"{kind}Scheduler")(
        num_train_timesteps=times, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
