"""Measure what makes FLUX draw faster on a GPU: `python -m train.bench flux --out flux.jsonl`.

One evaluation of FLUX.1-dev's architecture with random weights, as it comes, compiled, with attention
backends, in fp8, and with caches. Random weights say nothing about quality. A cache is measured on equal
inputs at every step, where it skips as much as it ever can: an upper bound. With --out, rows that are in the
file for this card are not measured again; failures are tried again.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.model import quantize
from dsd.model.presets import FLUX_DEV
from dsd.model.speed import attend, cache_config
from train.bench.gpu import FRAMES, Build, describe_failure, inputs, product_speed, transformer
from train.bench.timing import forget_peak, peak_bytes, shortest

STEPS = 28
ATTENTION = ("_native_cudnn", "_native_flash", "_native_efficient", "_flash_3_hub", "_flash_3")
CACHES = ("first-block", "taylorseer", "mag")
BITS = ("int8", "fp8", "fp8-compute")
PLAIN = "as it comes"
Change = Callable[[FluxTransformer2DModel], Callable[..., object]]  # prepares a model, returns its evaluation


def _plain(model: FluxTransformer2DModel) -> Callable[..., object]:
    return model


def _compiled(model: FluxTransformer2DModel) -> Callable[..., object]:
    model.compile_repeated_blocks(fullgraph=True, dynamic=True)  # as `dsd.model.compile` does
    return model


def _attention(model: FluxTransformer2DModel, name: str) -> Callable[..., object]:
    attend(model, name, model.device)
    return model


def _quantized(model: FluxTransformer2DModel, bits: str) -> Callable[..., object]:
    quantize.check(bits, "none", model.device)
    quantize.shrink_part(model, bits, model.device)
    return model


def _quantized_compiled(model: FluxTransformer2DModel, bits: str) -> Callable[..., object]:
    return _compiled(_quantized(model, bits))


def _cached(model: FluxTransformer2DModel, cache: str) -> Callable[..., object]:
    """Return a function that evaluates the same inputs at every step of a drawing."""
    config = cache_config(cache, STEPS, model.dtype)

    def draw(**given: object) -> None:
        model.enable_cache(config)
        try:
            for _ in range(STEPS):
                with model.cache_context("bench"):
                    model(**given)
        finally:
            model.disable_cache()

    return draw


VARIANTS: dict[str, tuple[Change, int]] = {  # name -> what it changes, evaluations in a call
    PLAIN: (_plain, 1),
    **{f"attention {name}": (partial(_attention, name=name), 1) for name in ATTENTION},
    **{f"cache {name}": (partial(_cached, cache=name), STEPS) for name in CACHES},
    "compiled": (_compiled, 1),
    **{bits: (partial(_quantized, bits=bits), 1) for bits in BITS},
    "fp8-compute, compiled": (partial(_quantized_compiled, bits="fp8-compute"), 1),
}


@torch.no_grad()
def measure(build: Build, variant: str, frames: tuple[int, ...], most: float) -> Iterator[Row]:
    """Yield seconds per evaluation, share of `most` FLOP/s and peak memory for each frame size."""
    change, evaluations = VARIANTS[variant]
    model = build()
    flops = {side: _count_flops(model, side) for side in frames}
    evaluate = change(model)
    for side in frames:
        forget_peak()
        seconds = shortest(partial(evaluate, **inputs(model, side)), 3) / evaluations
        row = {
            "frame": side, "s": round(seconds, 4), "peak GB": round(peak_bytes() / 1e9, 2),
            "share of a matrix product's speed": round(flops[side] / seconds / most, 3),
        }  # fmt: skip
        yield row | ({"note": "upper bound, quality not measured"} if evaluations > 1 else {})


def _count_flops(model: FluxTransformer2DModel, side: int) -> int:
    with FlopCounterMode(display=False) as counter:
        model(**inputs(model, side))
    return counter.get_total_flops()


def all_rows(
    build: Build, done: list[Row], *, card: str, frames: tuple[int, ...], most: float
) -> Iterator[list[Row]]:
    """Yield the rows of every variant that is not in `done`; a failure is a row that says why."""
    known = {(row["device"], row["variant"]) for row in done if row.get("measured", True)}
    for variant in VARIANTS:
        about = {"device": card, "model": FLUX_DEV.name, "variant": variant}
        if (card, variant) in known:
            continue
        try:  # as a list: a variant is in the file whole or not at all
            rows = [about | row for row in measure(build, variant, frames, most)]
        except Exception as error:  # kernels, compilers and packages raise errors of any type
            rows = [about | describe_failure(error)]
        forget_peak()
        yield rows


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows, and write each to the file --out; without CUDA, one row that says so."""
    if not torch.cuda.is_available():
        yield {"model": FLUX_DEV.name, "measured": False, "why": "no CUDA"}
        return
    device, card = torch.device("cuda"), torch.cuda.get_device_name()
    done = jsonl.read(args.out) if args.out else []
    options = {"card": card, "frames": FRAMES, "most": product_speed(device)}
    yield from keep(all_rows(partial(transformer, device), done, **options), args.out)


def keep(variants: Iterator[list[Row]], out: Path | None) -> Iterator[Row]:
    """Yield the rows, and append those of each variant to the file `out`."""
    with jsonl.writing(out) if out else nullcontext(lambda rows: None) as append:
        for rows in variants:
            append(rows)
            yield from rows
