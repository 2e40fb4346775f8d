"""Compare cost and quality: `python -m train.bench qualities`, one line of JSON for each way of drawing.

Every way draws the same held-out critters from the same seeds. Its cost is measured in CPU seconds, which
other load changes little, and in evaluations of the whole model per image, which other load does not change;
its quality is CP x PF. The first row, `best`, is the reference for the others. Run it again when the weights
change: `dsd.model.sampling.QUALITIES` is chosen from its table.
"""

import argparse
import contextlib
import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.scores import Case, Scores, difference, evaluate, measure_levels
from dsd.files.jsonl import Row
from dsd.generate.drawing import Options
from dsd.model.checkpoint import best_device
from dsd.model.sampling import QUALITIES, SOLVERS, Quality

BATCH = 16
BEST = "best"


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of drawing: a quality, and optionally one of diffusers' caches."""

    quality: Quality
    cache: Callable[[Any], Any] | None = None  # pipeline -> the cache's config
    together: bool | None = None  # branches in one call, else caches without contexts would mix them up


# ---------------------------------------------------------------- the ways


def ways() -> dict[str, Way]:
    """Return `best`, the other qualities, and all alternatives to them."""
    named = {f"quality {name}": Way(quality=quality) for name, quality in QUALITIES.items() if name != BEST}
    return {BEST: Way(quality=QUALITIES[BEST]), **named, **_windows(), **_solvers(), **_caches()}


def _windows() -> dict[str, Way]:
    """Return ways with guidance only up to a share of the steps; without guidance, all steps cost least."""
    stops = (0.0, 0.3, 0.5, 0.7)
    return {f"28 euler, guided to {stop:.0%}": _way(guidance_stop=stop) for stop in stops}


def _solvers() -> dict[str, Way]:
    """Return ways with fewer steps."""
    return {
        f"{steps} {solver}": _way(steps=steps, solver=solver, guidance_stop=stop)
        for steps, stop in ((14, 0.7), (8, 0.5), (6, 0.5))
        for solver in SOLVERS
    }


def _way(**settings: Any) -> Way:
    return Way(quality=Quality(**settings))


def _caches() -> dict[str, Way]:
    """Return a way for each of diffusers' caches that affects FLUX, with the other settings of `best`.

    Left out are SeaCache, which has no effect on FLUX, and TextKVCache, which supports only other models. PAB
    and FasterCache keep one state for all calls, whatever their context, so branches must stay in one call
    and guidance must be on from the first step.
    """
    import diffusers

    first = {
        f"first block, {t:g}": lambda pipe, t=t: diffusers.FirstBlockCacheConfig(t) for t in (0.05, 0.1, 0.2)
    }
    taylor = {f"taylor, every {n}": lambda pipe, n=n: _taylor(n) for n in (2, 3, 5)}
    lite = {f"taylor lite, every {n}": lambda pipe, n=n: _taylor(n, use_lite_mode=True) for n in (2, 3)}
    kept = {**first, **taylor, **lite, "mag, 0.06": _mag}
    mixed = {"PAB, every 2": _broadcast, "faster, every 2": _faster}
    best = QUALITIES[BEST]
    always = replace(best, guidance_start=0)
    return {name: Way(quality=best, cache=cache) for name, cache in kept.items()} | {
        name: Way(quality=always, cache=cache, together=True) for name, cache in mixed.items()
    }


def _taylor(interval: int, **options: Any) -> Any:
    from diffusers import TaylorSeerCacheConfig

    return TaylorSeerCacheConfig(cache_interval=interval, taylor_factors_dtype=torch.float32, **options)


def _mag(pipe: Any) -> Any:
    """Return a MagCache config with the checkpoint's ratios, measured on one image without guidance."""
    from diffusers import MagCacheConfig

    steps = QUALITIES[BEST].steps
    pipe.transformer.enable_cache(MagCacheConfig(num_inference_steps=steps, calibrate=True))
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # diffusers only prints the ratios
        black = Image.new("RGB", (pipe.frame_size, pipe.frame_size))
        pipe("on the beach", image=black, generator=torch.Generator().manual_seed(0))
    pipe.transformer.disable_cache()
    ratios = json.loads(re.search(r"\[[\d.].*\]", said.getvalue()).group())
    return MagCacheConfig(num_inference_steps=steps, mag_ratios=ratios)


def _time(pipe: Any) -> Callable[[], float]:
    """Return a function that returns the transformer's last timestep, 0..1000."""
    seen = [0.0]

    def look(model: torch.nn.Module, inputs: tuple, given: dict[str, Any]) -> None:
        seen[0] = 1000 * float(given["timestep"][0])

    pipe.transformer.register_forward_pre_hook(look, with_kwargs=True)
    return lambda: seen[0]


def _broadcast(pipe: Any) -> Any:
    from diffusers import PyramidAttentionBroadcastConfig

    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=_time(pipe)
    )


def _faster(pipe: Any) -> Any:
    from diffusers import FasterCacheConfig

    return FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 901),
        attention_weight_callback=lambda module: 0.5,
        is_guidance_distilled=True,  # else it looks for an unconditional half in the batch
        tensor_format="BCHW",
        current_timestep_callback=_time(pipe),
    )


# ---------------------------------------------------------------- measuring


@dataclass
class Cost:
    """The cost of drawing some images."""

    wall: float = 0.0  # seconds
    processor: float = 0.0  # seconds of all threads
    evaluations: float = 0.0  # of the whole transformer, for one image each


@contextlib.contextmanager
def counted(transformer: torch.nn.Module, cost: Cost) -> Iterator[None]:
    """Count the blocks that are evaluated; a block that a cache skips does not reach its first layer.

    A cache of attention alone (PAB, FasterCache, TaylorSeer by default) skips parts of a block, which only
    the seconds show.
    """
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    layers = [getattr(block, "norm1", None) or block.norm for block in blocks]

    def count(layer: torch.nn.Module, inputs: tuple) -> None:
        cost.evaluations += len(inputs[0]) / len(blocks)

    handles = [layer.linear.register_forward_pre_hook(count) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def draw(pipe: Any, way: Way, cases: list[Case], cost: Cost) -> list[Image.Image]:
    """Return the cases' images, drawn with the default guidance scales, and add their cost to `cost`."""
    usual = Options(prompt="-")
    config = way.cache and way.cache(pipe)
    images: list[Image.Image] = []
    with _cached(pipe, config), _branches(pipe, way.together), counted(pipe.transformer, cost):
        wall, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(cases), BATCH):
            part = cases[start : start + BATCH]
            images += pipe(
                [case.prompt for case in part],
                image=[case.reference for case in part],
                generator=[torch.Generator().manual_seed(case.seed) for case in part],
                quality=way.quality,
                image_guidance_scale=usual.image_guidance,
                text_guidance_scale=usual.text_guidance,
            ).images
        cost.wall += time.perf_counter() - wall
        cost.processor += time.process_time() - processor
    return images


@contextlib.contextmanager
def _cached(pipe: Any, config: Any) -> Iterator[None]:
    if config is not None:
        pipe.transformer.enable_cache(config)
    try:
        yield
    finally:
        if config is not None:
            pipe.transformer.disable_cache()


@contextlib.contextmanager
def _branches(pipe: Any, together: bool | None) -> Iterator[None]:
    before, pipe.batch_branches = pipe.batch_branches, together
    try:
        yield
    finally:
        pipe.batch_branches = before


def quality_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield a row for each way, `best` first; a way that fails in diffusers gets a row with the error."""
    from train.comparison import open_student

    pipe = open_student(args.model, base="pocket", device=args.device or best_device())
    cases = validation_set(0, args.subjects, args.prompts)
    with contextlib.redirect_stdout(sys.stderr):  # keep the hub's messages out of the rows
        scorer = CritterScorer()
    levels = measure_levels(cases, scorer)
    best: tuple[Scores, Cost] | None = None
    for name, way in chosen(args.only).items():
        cost = Cost()
        try:
            images = draw(pipe, way, cases, cost)
        except (RuntimeError, ValueError, AttributeError, TypeError) as error:
            yield {"way": name, "failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        found = evaluate(lambda *_, drawn=images: drawn, cases, scorer, levels=levels)
        best = best or (found, cost)
        yield row(name, found, cost, *best)


def chosen(only: list[str] | None) -> dict[str, Way]:
    """Return all ways, or `best` and those whose names contain one of the words; ValueError if none does."""
    every = ways()
    if not only:
        return every
    found = {name: way for name, way in every.items() if any(word in name for word in only)}
    if not found:
        raise ValueError(f"--only {' '.join(only)} fits no way; there are: {'; '.join(every)}")
    return {BEST: every[BEST], **found}


def row(name: str, found: Scores, cost: Cost, best: Scores, dearest: Cost) -> Row:
    """Return the row of a way: its cost per image, its scores, and both relative to `best`."""
    count, product = len(found.rows), found.means["product"]
    less = difference(found, best)["product"]
    return {
        "way": name,
        "images": count,
        "evaluations": round(cost.evaluations / count, 2),
        "cpu s": round(cost.processor / count, 3),
        "s": round(cost.wall / count, 3),
        "fewer evaluations": round(dearest.evaluations / cost.evaluations, 2),
        "times faster": round(dearest.processor / cost.processor, 2),
        "CP": round(found.means["identity"].mean, 4),
        "PF": round(found.means["following"].mean, 4),
        "CP x PF": round(product.mean, 4),
        "share of best": round(product.mean / best.means["product"].mean, 4),
        "difference, 95 %": [round(less.low, 4), round(less.high, 4)],
    }
