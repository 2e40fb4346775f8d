"""Measure the speed of training: `python -m train.bench training`, one line of JSON a row.

The loop of `dsd.training.loop` runs on cached latents and texts, and then again with the work that a usual
script does in each step: opening the step's images, and encoding them and their texts. CPU time is reported
beside the wall time, because other work on the machine changes it little.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from PIL import Image

from dsd.evaluation.critters import validation_set
from dsd.files.contact_sheet import png
from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from dsd.model import canvas, latents
from dsd.model.checkpoint import best_device, resolve
from dsd.training import loop
from dsd.training.options import TrainOptions
from dsd.training.student import find_base, open_encoders
from train.bench.timing import Seconds, peak_bytes

SIDES = {"pocket": (64, 96, 128)}  # sides of the table's frames, in pixels
OTHER_SIDES = (256, 512, 768)
WARM_UP = 4  # first steps, which are not measured


class Pairs(Sequence):
    """Pairs of the drawn world with true targets, stored as PNG bytes: each access opens two images."""

    def __init__(self, count: int) -> None:
        self.rows = [
            {"id": case.subject, "conditioning": png(case.reference), "target": png(case.truth),
             "caption": case.caption, "instruction": case.prompt}
            for case in validation_set(0, count, 1)
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        row = self.rows[index]
        return row | {name: Image.open(io.BytesIO(row[name])) for name in ("conditioning", "target")}


@dataclass(frozen=True)
class Cost:
    """The cost of a training run: medians over its steps, without the first `WARM_UP` steps."""

    step: Seconds
    waiting: float  # share of a step spent waiting for data
    loss: float  # of the last step
    peak: float  # MB


def measure(pairs: Pairs, options: TrainOptions, out: Path, *, encodes: bool = False) -> Cost:
    """Train in a process with its own peak memory; if `encodes`, encode the pairs of each step as well."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_measure, pairs, replace(options, log_every=1), out, encodes).result()


def _measure(pairs: Pairs, options: TrainOptions, out: Path, encodes: bool) -> Cost:
    quiet()
    encode = build_encoder(pairs, options) if encodes else lambda step: None
    marks, rows = [], []

    def on_step(step: int, values: dict[str, float]) -> None:
        encode(step)
        marks.append(Seconds(time.perf_counter(), time.process_time()))
        rows.append(values)

    loop.train(pairs, options, out, on_step=on_step)
    steps = list(zip(marks, marks[1:], strict=False))[WARM_UP - 1 :]
    step = Seconds(median(b.wall - a.wall for a, b in steps), median(b.cpu - a.cpu for a, b in steps))
    waiting = median(values["waiting"] for values in rows[WARM_UP:])
    return Cost(step, waiting, rows[-1]["loss"], peak_bytes() / 1e6)


def build_encoder(pairs: Pairs, options: TrainOptions) -> Callable[[int], None]:
    """Return a function that opens and encodes the pairs of a step with encoders that stay on the device."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    pipe, frame = open_encoders(find_base(options), dtype).to(best_device()), options.frames[0]
    tokens = options.text_tokens or min(pipe.tokenizer_2.model_max_length, 512)
    count = options.batch * options.accumulate

    def open_frames(rows: list[Row], name: str) -> torch.Tensor:  # [B, 3, H, W]
        return canvas.to_tensor([canvas.fit(row[name], *frame) for row in rows])

    @torch.no_grad()
    def encode(step: int) -> None:
        rows = [pairs[(step * count + i) % len(pairs)] for i in range(count)]
        references, targets = open_frames(rows, "conditioning"), open_frames(rows, "target")
        for right in (targets, torch.full_like(targets, canvas.BLACK)):
            frames = torch.cat([references, right], dim=3)  # [B, 3, H, 2W]
            latents.pack(latents.encode(pipe.vae, frames.to(pipe.vae.device, pipe.vae.dtype)))
        words = [row["caption"] for row in rows]
        pipe.encode_prompt(words, None, device=pipe.vae.device, max_sequence_length=tokens)

    return encode


def cache_rows(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield steps per second and peak memory of cached training, compared with encoding at every step."""
    cached = measure(pairs, options, folder / "cached")
    usual = measure(pairs, options, folder / "usual", encodes=True)
    yield {
        "part": "cached against encoding at every step", **_about(options), "steps": options.steps,
        "steps/s": round(1 / cached.step.wall, 3), "usual steps/s": round(1 / usual.step.wall, 3),
        "times as fast": round(usual.step.wall / cached.step.wall, 2),
        "in CPU time": round(usual.step.cpu / cached.step.cpu, 2), "loss": round(cached.loss, 4),
    }  # fmt: skip
    yield {
        "part": "peak memory", **_about(options), "MB": round(cached.peak), "usual MB": round(usual.peak),
        "share of the usual": round(cached.peak / usual.peak, 3),
    }  # fmt: skip


def size_rows(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield the cost of a step for each canvas and batch, and the share of it spent waiting for data."""
    for side in SIDES.get(options.model, OTHER_SIDES):
        for batch in sorted({max(1, options.batch // 6), options.batch}):
            sized = replace(options, sizes=(f"{side}",), batch=batch, steps=2 * WARM_UP)
            cost = measure(pairs, sized, folder / f"{side}-{batch}")
            per_pair = 1000 * cost.step.wall / (batch * sized.accumulate)
            yield {
                "part": "a step", **_about(sized), "s": round(cost.step.wall, 3),
                "CPU s": round(cost.step.cpu, 3), "ms a pair": round(per_pair, 1),
                "waiting": round(cost.waiting, 5),
            }  # fmt: skip


def save_rows(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield the time to save the state, and its share at the default interval."""
    short = replace(options, steps=3 * WARM_UP)
    step = measure(pairs, short, folder / "without-saves").step.wall
    saving_step = measure(pairs, replace(short, save_every=1), folder / "saves").step.wall
    seconds = max(0.0, saving_step - step)
    yield {
        "part": "saving", "batch": options.batch, "s": round(seconds, 3), "every steps": options.save_every,
        "share": round(seconds / (seconds + options.save_every * step), 6),
    }  # fmt: skip


def _about(options: TrainOptions) -> Row:
    frame = options.frames[0]
    return {"canvas": f"{2 * frame[0]}x{frame[1]}", "batch": options.batch}


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows; raise ValueError if too few steps remain after the warm-up."""
    least, steps = 2 * WARM_UP, args.steps or 64  # of the cache comparison
    if args.steps is not None and args.steps < least:
        error = f"--steps must be at least {least}, got {args.steps}: the first {WARM_UP} are not measured"
        raise ValueError(error)
    sizes = (f"{SIDES.get(args.model, (512,))[0]}",)
    settings = resolve(args.model).training | {"model": args.model, "sizes": sizes, "steps": steps}
    options, pairs = TrainOptions(**settings), Pairs(args.count)
    with tempfile.TemporaryDirectory() as folder:
        for rows in (cache_rows, size_rows, save_rows):
            yield from rows(pairs, options, Path(folder))
