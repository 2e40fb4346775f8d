"""The settings of a training, with their defaults, checked before any work.

Defaults are the paper's where it states one, otherwise those of the closest published trainings. `training`
of a preset (`dsd.model.presets`) holds better ones for some models; an explicit setting takes precedence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from dsd.model import canvas
from dsd.model.presets import ATTENTION, DEFAULT_GUIDANCE

FREE = (  # may change when a run is resumed, but batch x accumulate x processes must not
    "steps", "batch", "accumulate", "gradient_checkpointing", "save_every", "validate_every", "log_every",
    "cache", "cache_gb",
)  # fmt: skip
ADDED = {"references": 1, "optimizer": "adamw"}  # the states of earlier versions lack these settings
LORA_ONLY = ("rank", "alpha", "lora_dropout", "targets")  # a training of all weights does not use them


class TrainingError(ValueError):
    """A training that cannot start or resume; the message says what to do."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


Limit = tuple[str, Callable[[Any], bool]]  # the allowed values of a setting, as text and as a test
COUNT = "a whole number, at least 1", lambda value: _is_whole(value) and value >= 1
WHOLE = "a whole number, at least 0", lambda value: _is_whole(value) and value >= 0
MOST = 4  # references of one image
REFERENCES = f"a whole number from 1 to {MOST}", lambda value: _is_whole(value) and 1 <= value <= MOST
TOKENS = "a whole number from 1 to 512", lambda value: _is_whole(value) and 1 <= value <= 512
POSITIVE = "a number above 0", lambda value: _is_number(value) and value > 0
NOT_NEGATIVE = "a number, at least 0", lambda value: _is_number(value) and value >= 0
SHARE = "a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1
BELOW_ONE = "a number, at least 0 and below 1", lambda value: _is_number(value) and 0 <= value < 1
PRECISION = "one of bf16, fp32", lambda value: value in ("bf16", "fp32")
OPTIMIZER = "one of adamw, muon", lambda value: value in ("adamw", "muon")
BITS = "one of 8bit, 4bit", lambda value: value in ("8bit", "4bit")
ANY = "anything", lambda value: True


def _option(default: Any, text: str, limit: Limit = ANY) -> Any:
    return field(default=default, metadata={"help": text, "limit": limit})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Settings, named as on the command line with _ for -; raise TrainingError for one outside its limits."""

    model: str = _option("pocket", "text-to-image model to start from: a name, a folder or a hub id")
    start_from: str | None = _option(
        None, "student of that model to continue: a folder, a hub id or a LoRA file (default: none)"
    )
    steps: int = _option(100_000, "optimizer steps", COUNT)
    batch: int = _option(4, "pairs per process and forward pass", COUNT)
    accumulate: int = _option(5, "batches per step; 4 x 5 x 8 processes are the paper's 160 pairs", COUNT)
    optimizer: str = _option(
        "adamw", "adamw, or muon for the matrices of the blocks and AdamW for the rest (full only)", OPTIMIZER
    )
    lr: float = _option(1e-4, "peak learning rate", POSITIVE)
    beta2: float = _option(0.999, "second beta of AdamW", BELOW_ONE)
    weight_decay: float = _option(1e-2, "weight decay", NOT_NEGATIVE)
    clip: float = _option(2.0, "clip gradients to this norm", POSITIVE)
    warmup: int = _option(500, "steps in which the learning rate rises to its peak", WHOLE)
    decay: float = _option(0.0, "share of the steps, at the end, in which it falls to a fiftieth", SHARE)
    ema: float = _option(0.0, "decay of the EMA of the weights, which is saved instead; 0 is off", BELOW_ONE)
    full: bool = _option(False, "train all weights instead of a LoRA and the new input columns")
    rank: int = _option(128, "rank of the LoRA", COUNT)
    alpha: float | None = _option(None, "alpha of the LoRA (default: its rank)", POSITIVE)
    lora_dropout: float = _option(0.1, "dropout of the LoRA", BELOW_ONE)
    targets: tuple[str, ...] = _option(ATTENTION, "layers that get a LoRA, by the ends of their names")
    condition_init_scale: float = _option(
        0.0, "start the new input columns at this multiple of the old ones; 0 as in the paper", NOT_NEGATIVE
    )
    text_dropout: float = _option(0.1, "share of samples with an empty prompt, for text guidance", SHARE)
    references: int = _option(
        1, f"most references of a pair, which are further kept panels of its grid; 1 to {MOST}", REFERENCES
    )
    condition_dropout: float = _option(0.1, "share of samples with no reference, for image guidance", SHARE)
    instruction_prob: float = _option(0.5, "share of samples with the instruction as the prompt", SHARE)
    reference_weight: float = _option(1.0, "weight of the reference frame in the loss", NOT_NEGATIVE)
    target_weight: float = _option(1.0, "weight of the target frame in the loss", NOT_NEGATIVE)
    shift: float = _option(1.0, "shift of the logit-normal times; above 1 is more noise", POSITIVE)
    guidance: float = _option(DEFAULT_GUIDANCE, "embedded guidance, for distilled models", NOT_NEGATIVE)
    sizes: tuple[str, ...] = _option(
        (),
        "frame sizes such as 512x512 384x640, the first to draw at; a pair gets the closest shape (default: "
        "the model's size)",
    )
    text_tokens: int | None = _option(None, "tokens per text (default: as many as the base reads)", TOKENS)
    precision: str | None = _option(None, "bf16 or fp32 (default: bf16 on a GPU)", PRECISION)
    quantize: str | None = _option(None, "keep frozen weights in 8bit or 4bit", BITS)
    gradient_checkpointing: bool = _option(False, "compute activations twice to save memory")
    distilled_base: bool = _option(False, "train a model although it was distilled to few steps")
    seed: int = _option(0, "seed of all random numbers", WHOLE)
    save_every: int = _option(500, "save a state to resume from every N steps", COUNT)
    validate_every: int = _option(1000, "validate every N steps", COUNT)
    log_every: int = _option(20, "report the mean loss of every N steps", COUNT)
    cache: str | None = _option(None, "folder of encoded images and texts (default: OUT/run/cache)")
    cache_gb: float = _option(
        0.0,
        "encode while training and keep this many GB; 0 encodes all rows before",
        NOT_NEGATIVE,
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            value, (text, is_allowed) = getattr(self, one.name), one.metadata["limit"]
            is_unset = value is None and one.default is None
            if not is_unset and not is_allowed(value):
                raise TrainingError(f"{one.name} must be {text}, got {value!r}")
        if self.quantize and self.full:
            raise TrainingError(
                f"quantize={self.quantize} is for frozen weights, but full trains all weights: drop one"
            )
        if self.optimizer == "muon" and not self.full:
            raise TrainingError(
                "optimizer=muon trains whole matrices, but a LoRA has narrow ones: use optimizer=adamw, or "
                "train all weights with full"
            )
        if not self.reference_weight + self.target_weight:
            raise TrainingError("reference_weight and target_weight are both 0; set one of them above 0")
        if self.cache_gb and len(self.sizes) > 1:
            raise TrainingError(
                f"cache_gb={self.cache_gb:g} encodes while training, which takes one of the sizes, got "
                f"{', '.join(self.sizes)}: choose one, or encode all rows first with cache_gb=0"
            )
        if self.cache_gb and self.references > 1:
            raise TrainingError(
                f"references={self.references} needs all rows of a grid, but cache_gb={self.cache_gb:g} "
                "encodes some rows at a time: encode all rows first with cache_gb=0"
            )
        if not self.full and not self.targets:
            raise TrainingError("targets is empty; name the layers that get a LoRA, or train all with full")
        self.frames  # noqa: B018 (checks the sizes)

    @property
    def frames(self) -> tuple[tuple[int, int], ...]:
        """Return the sizes as (width, height) in pixels; empty for the model's own size."""
        return tuple(_parse_frame(size) for size in self.sizes)

    @property
    def shows_references(self) -> bool:
        """Return whether any sample shows its reference, so that conditions must be encoded."""
        return self.condition_dropout < 1 or self.references > 1

    def binding(self) -> dict[str, Any]:
        """Return the settings that must not change when a run is resumed."""
        values = {name: value for name, value in vars(self).items() if name not in FREE}
        values = {name: value for name, value in values.items() if ADDED.get(name) != value}
        values |= {"cache_gb": "above 0"} if self.cache_gb else {}  # changes the order of the rows
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _parse_frame(size: str) -> tuple[int, int]:
    """Parse `512x384` or `512` into (width, height)."""
    width, cross, height = size.partition("x")
    if not width.isdecimal() or (cross and not height.isdecimal()):
        raise TrainingError(f"sizes must be written like 512x512, got {size!r}")
    frame = int(width), int(height or width)
    try:
        canvas.check_size(*frame)
    except ValueError as error:
        raise TrainingError(f"size {size}: {error}") from error
    return frame
