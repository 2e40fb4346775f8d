"""The settings of a training, with their defaults, checked before any work.

Defaults are the paper's where it states one, otherwise those of the closest published trainings. `training`
of a preset (`dsd.model.presets`) holds better ones for some models; an explicit setting takes precedence.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from dsd.model import canvas
from dsd.model.request import DEFAULT_GUIDANCE

ATTENTION = (  # all projections of FLUX's attention: for image tokens, then for text tokens
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
PRECISIONS = ("bf16", "fp32")
QUANTIZED = ("8bit", "4bit")
FREE = (  # may change when a run is resumed, but batch x accumulate x processes must not
    "steps", "batch", "accumulate", "gradient_checkpointing", "save_every", "validate_every", "log_every",
    "cache",
)  # fmt: skip


class TrainingError(ValueError):
    """A training that cannot start or resume; the message says what to do."""


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


# Settings that a training of all weights does not use.
OF_LORA = ("rank", "alpha", "lora_dropout", "targets")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The settings of a training, named as on the command line with _ for -."""

    model: str = _option("pocket", "text-to-image model to start from: a name, a folder or a hub id")
    steps: int = _option(100_000, "optimizer steps")
    batch: int = _option(4, "pairs that one process handles at a time")
    accumulate: int = _option(
        5, "batches to a step; 4 x 5 x 8 processes are the 160 pairs a step of the paper"
    )
    lr: float = _option(1e-4, "peak learning rate of AdamW")
    beta2: float = _option(0.999, "AdamW's second beta")
    weight_decay: float = _option(1e-2, "AdamW's weight decay")
    clip: float = _option(2.0, "largest norm of a gradient")
    warmup: int = _option(500, "steps over which the rate rises to its peak")
    decay: float = _option(0.0, "share of the steps, at the end, over which it falls to a fiftieth")
    ema: float = _option(0.0, "decay of a running average of the weights, saved in their place; 0 is off")
    full: bool = _option(False, "train all weights, not LoRA and the new input columns")
    rank: int = _option(128, "rank of the LoRA")
    alpha: float | None = _option(None, "its alpha; the rank when left out")
    lora_dropout: float = _option(0.1, "its dropout")
    targets: tuple[str, ...] = _option(ATTENTION, "layers that get one, by the end of their names")
    columns_start: float = _option(
        0.0, "at the start the new input columns are so many times the old ones; the paper's are zero"
    )
    text_dropout: float = _option(
        0.1, "share of samples that see the empty prompt, which text guidance needs"
    )
    image_dropout: float = _option(0.1, "share of samples that see no reference, which image guidance needs")
    instruction_share: float = _option(
        0.5, "share of samples that see the instruction in the caption's place"
    )
    reference_weight: float = _option(1.0, "of the reference frame in the loss")
    target_weight: float = _option(1.0, "of the target frame in the loss")
    shift: float = _option(1.0, "of the logit-normal times; above 1 there are more of them near noise")
    guidance: float = _option(
        DEFAULT_GUIDANCE, "embedded guidance, for models distilled with it: what drawing passes too"
    )
    sizes: tuple[str, ...] = _option(
        (), "frames such as 512x512 384x640; a pair gets the nearest shape; the model's own when left out"
    )
    text_tokens: int | None = _option(
        None, "tokens of a text, in training and then in drawing; as many as the base takes when left out"
    )
    precision: str | None = _option(None, "bf16 or fp32; bf16 on a GPU and fp32 elsewhere when left out")
    quantize: str | None = _option(
        None, "8bit or 4bit: keep the frozen weights so, for cards of 24 GB and less"
    )
    gradient_checkpointing: bool = _option(
        False, "compute activations twice in place of keeping them: less memory"
    )
    distilled_base: bool = _option(
        False, "train although the model was distilled to few steps, which LoRA breaks"
    )
    seed: int = _option(0, "of everything random")
    save_every: int = _option(500, "steps between two states to continue from")
    validate_every: int = _option(1000, "steps between two validations")
    log_every: int = _option(20, "steps that one point of the curves is the mean of")
    cache: str | None = _option(
        None, "folder of encoded images and texts; trainings can share one; OUT/run/cache when left out"
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "rank", "save_every", "validate_every", "log_every"):
            self._check_whole(name, 1)
        for name in ("warmup", "seed"):
            self._check_whole(name, 0)
        for name in ("lr", "clip", "shift"):
            self._check_number(name, above=0)
        for name in ("weight_decay", "reference_weight", "target_weight", "guidance", "columns_start"):
            self._check_number(name, low=0)
        for name in ("text_dropout", "image_dropout", "instruction_share", "decay"):
            self._check_number(name, low=0, high=1)
        for name in ("lora_dropout", "beta2", "ema"):
            self._check_number(name, low=0, below=1)
        self._check_optional()
        self._check_choices()
        self.frames  # noqa: B018 (checks the sizes)

    @property
    def frames(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes as (width, height) in pixels; empty for the model's own size."""
        return tuple(_frame(size) for size in self.sizes)

    def _check_optional(self) -> None:
        if self.alpha is not None:
            self._check_number("alpha", above=0)
        if self.text_tokens is not None:
            self._check_whole("text_tokens", 1, 512)

    def _check_choices(self) -> None:
        for name, allowed in (("precision", PRECISIONS), ("quantize", QUANTIZED)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise TrainingError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.quantize and self.full:
            raise TrainingError(
                f"quantize={self.quantize} keeps weights that do not move, and full moves all: drop one"
            )
        if not self.reference_weight + self.target_weight:
            raise TrainingError("reference_weight and target_weight are both 0: nothing would be learnt")
        if not self.full and not self.targets:
            raise TrainingError("targets is empty: name the layers that get a LoRA, or train all with full")

    def _check_whole(self, name: str, low: int, high: int | None = None) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low or value > (high or value):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise TrainingError(f"{name} must be a whole number, {bounds}, got {value!r}")

    def _check_number(self, name: str, **bounds: float) -> None:
        value = getattr(self, name)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not usable or not _within(value, **bounds):
            said = ", ".join(f"{_WORDS[bound]} {limit}" for bound, limit in bounds.items())
            raise TrainingError(f"{name} must be a number, {said}, got {value!r}")

    def binding(self) -> dict[str, Any]:
        """Return the settings that must not change when a run is resumed."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in FREE}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


_WORDS = {"low": "at least", "high": "at most", "above": "above", "below": "below"}


def _within(
    value: float, *, low: float = -math.inf, high: float = math.inf,
    above: float = -math.inf, below: float = math.inf,
) -> bool:  # fmt: skip
    return low <= value <= high and above < value < below


def _frame(size: str) -> tuple[int, int]:
    """Parse `512x384` or `512` into (width, height)."""
    width, cross, height = size.partition("x")
    if not width.isdecimal() or (cross and not height.isdecimal()):
        raise TrainingError(f"sizes are written like 512x512, got {size!r}")
    frame = int(width), int(height or width)
    try:
        canvas.check_size(*frame)
    except ValueError as error:
        raise TrainingError(f"size {size}: {error}") from error
    return frame
