"""Options that make drawing faster and change the image: caches and attention backends of diffusers.

All are off by default. A cache skips blocks of the transformer whose output it can predict. First Block Cache
decides from the data, so with a cache each image and each branch of guidance is evaluated alone: an image
drawn again alone is the same. How much a cache changes the images of a model has to be looked at: MagCache's
ratios were measured with FLUX.1-dev.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FirstBlockCacheConfig,
    MagCacheConfig,
    ModelMixin,
    TaylorSeerCacheConfig,
)
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    attention_backend,
    dispatch_attention_fn,
)

from dsd.files.hub import LoadError

# Strength of each cache, as diffusers has it: a threshold, steps between two full ones, a threshold. Blocks
# are never skipped at 0, 1 and 0.
CACHES = {"first-block": 0.05, "taylorseer": 5.0, "mag": 0.06}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What makes a loaded pipeline faster; recorded with each image."""

    cache: str | None = None  # NAME or NAME:STRENGTH, see CACHES
    attention: str | None = None  # one of diffusers' AttentionBackendName; None: PyTorch's choice
    quantize: str | None = None  # one of `dsd.model.memory.QUANTIZED`
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.cache is not None:
            parse_cache(self.cache)


def from_settings(values: object) -> Speed:
    """Return the Speed of an image's settings; those of older images lack it. Raise ValueError if damaged."""
    if values is None:
        return Speed()
    names = {field.name for field in fields(Speed)}
    if not isinstance(values, dict) or not values.keys() <= names:
        raise ValueError(f"the settings in this image contain an unreadable speed: {values!r}")
    if not all(isinstance(value, str | bool | type(None)) for value in values.values()):
        raise ValueError(f"the settings in this image contain an unreadable speed: {values!r}")
    return Speed(**values)


def parse_cache(text: str) -> tuple[str, float]:
    """Return the name and the strength of `NAME` or `NAME:STRENGTH`; raise ValueError for anything else."""
    name, _, strength = text.partition(":")
    if name not in CACHES:
        raise ValueError(f"cache must be one of {', '.join(CACHES)}, with :STRENGTH or without, got {text!r}")
    try:
        value = float(strength or CACHES[name])
    except ValueError:
        value = -1.0
    if name == "taylorseer" and (value < 1 or value != int(value)):
        raise ValueError(f"the strength of taylorseer must be a whole number of steps from 1, got {text!r}")
    if not isfinite(value) or value < 0:
        raise ValueError(f"the strength of {name} must be a number from 0, got {text!r}")
    return name, value


def cache_config(cache: str, steps: int, dtype: torch.dtype) -> Any:
    """Return diffusers' config of a cache for a drawing of `steps` steps."""
    name, strength = parse_cache(cache)
    if name == "first-block":
        return FirstBlockCacheConfig(threshold=strength)
    if name == "taylorseer":
        return TaylorSeerCacheConfig(cache_interval=int(strength), taylor_factors_dtype=dtype)
    threshold = strength or -1.0  # MagCache skips a step whose ratio is exactly 1 at a threshold of 0
    return MagCacheConfig(threshold=threshold, num_inference_steps=steps, mag_ratios=FLUX_MAG_RATIOS)


@contextmanager
def caching(pipe: DiffusionPipeline, steps: int) -> Iterator[None]:
    """Use the pipeline's cache for a drawing of `steps` steps; drawings may overlap.

    Raise ValueError if one of another number of steps is running, because MagCache counts them.
    """
    if pipe.speed.cache is None:
        yield
        return
    running = vars(pipe).setdefault("cached_drawings", [])  # the steps of each drawing that runs
    if running and set(running) != {steps}:
        raise ValueError(f"a drawing of {running[0]} steps is running with a cache: finish or close it first")
    if not running:
        pipe.transformer.enable_cache(cache_config(pipe.speed.cache, steps, pipe.transformer.dtype))
    running.append(steps)
    try:
        yield
    finally:
        running.remove(steps)
        if not running:
            pipe.transformer.disable_cache()


def attend(model: ModelMixin, name: str, device: torch.device) -> None:
    """Let a model use an attention backend; raise LoadError if it cannot be used on this device."""
    try:
        with attention_backend(AttentionBackendName.NATIVE):  # diffusers would set it for other models, too
            model.set_attention_backend(name)
            sample = torch.randn(1, 64, 1, 64, device=device, dtype=model.dtype)
            dispatch_attention_fn(sample, sample, sample, backend=AttentionBackendName(name.lower()))
    except Exception as error:  # missing packages, kernels and devices raise errors of any type
        reason = str(error).splitlines()[0][:300]
        raise LoadError(f"attention={name!r} cannot be used on {device.type}: {reason}") from error
