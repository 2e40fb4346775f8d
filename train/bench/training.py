"""Measure the speed of training: `python -m train.bench training`, one line of JSON a row.

The loop of `dsd.training.loop` runs unchanged in two processes: on cached latents and texts, and as the usual
script does it, with images and texts encoded at every step. The two take turns in short rounds and medians
are taken, so that other work on the machine slows both alike. The processes' CPU time, which other work
affects less, is reported beside the wall time.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

from dsd.evaluation.critters import validation_set
from dsd.files.contact_sheet import png
from dsd.files.jsonl import Row
from dsd.generate.command import quiet
from dsd.model import canvas, latents
from dsd.model.presets import training_defaults
from dsd.training import loop as training
from dsd.training.batches import Batch, Batches, _noise
from dsd.training.options import TrainOptions
from dsd.training.state import TrainState

SIDES = {"pocket": (64, 96, 128)}  # sides of the table's frames, in pixels
OTHER_SIDES = (256, 512, 768)
ROUND = 4  # steps
HOW = "medians of rounds by turns, without the first"


class Pairs(Sequence):
    """True pairs of the drawn world, stored as in files: each access opens two PNGs."""

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


# ---------------------------------------------------------------- the usual way


class Uncached:
    """A replacement for the loop's cached dataset: the pairs, and the encoders, which stay on the device."""

    skipped, name = 0, "uncached"

    def __init__(self, pairs: Pairs, pipe: Any, options: TrainOptions, *place: Any) -> None:
        self.pairs, self.pipe = pairs, pipe.to(place[1])
        self.frames = options.frames or ((pipe.frame_size, pipe.frame_size),)
        self.tokens = options.text_tokens or min(pipe.tokenizer_2.model_max_length, 512)
        self.buckets = np.zeros(len(pairs), dtype=int)

    def __len__(self) -> int:
        return len(self.pairs)


class Encoding(Batches):
    """Batches encoded when they are needed; a worker opens images ahead, as data loaders do."""

    def steps(self, start: int) -> Iterator[list[Batch]]:
        for loaded in super().steps(start):
            yield [self._encode(*part) for part in loaded]

    def _batch(self, first: int, part: range, rows: np.ndarray, chances: np.ndarray, t: Tensor) -> tuple:
        samples = [self._sample(int(rows[i]), *chances[i]) for i in part]
        return samples, first + part.start, t[part.start : part.stop]

    def _sample(self, row: int, instructed: float, wordless: float, blind: float) -> tuple:
        """Return both frames [2, 3, H, W], the words, and whether the reference is dropped."""
        pair, frame = self.data.pairs[row], self.data.frames[0]
        frames = canvas.to_tensor([canvas.fit(pair[name], *frame) for name in ("conditioning", "target")])
        words = pair["instruction"] if instructed < self.options.instruction_prob else pair["caption"]
        empty = wordless < self.options.text_dropout
        return frames, "" if empty else words, blind < self.options.condition_dropout

    @torch.no_grad()
    def _encode(self, samples: list[tuple], first: int, t: Tensor) -> Batch:
        frames, words, blind = zip(*samples, strict=True)
        references, targets = torch.stack(frames).unbind(1)
        data = self._latents(torch.cat([references, targets], dim=3))  # [B, 3, H, 2W]
        black = torch.full_like(targets, canvas.BLACK)
        condition = self._latents(torch.cat([references, black], dim=3))
        condition[torch.tensor(blind)] = 0
        pipe = self.data.pipe
        embeds, pooled, _ = pipe.encode_prompt(
            list(words), None, device=pipe.vae.device, max_sequence_length=self.data.tokens
        )
        noise = [_noise(self.options.seed, first + i, data.shape[1:]) for i in range(len(samples))]
        return Batch(
            data=data,
            condition=condition,
            noise=torch.from_numpy(np.stack(noise)),
            t=t,
            embeds=embeds.float(),
            pooled=pooled.float(),
            frame=self.data.frames[0],
        )

    def _latents(self, canvases: Tensor) -> Tensor:
        vae = self.data.pipe.vae
        return latents.pack(latents.encode(vae, canvases.to(vae.device, vae.dtype)).float())


# ---------------------------------------------------------------- a process for each way


def _watched(pairs: Pairs, options: TrainOptions, out: Path, wait: Callable[[Row], object]) -> None:
    """Train, and call `wait` with the cost of each round of steps; the next begins when it returns."""
    began = [time.perf_counter(), time.process_time()]

    def on_step(step: int, values: dict[str, float]) -> None:
        took = [time.perf_counter() - began[0], time.process_time() - began[1]]
        waited = values["waiting"] * values["seconds_per_step"]
        each = {"wall": took[0] / options.log_every, "cpu": took[1] / options.log_every}
        wait({"step": step, "loss": values["loss"], "waited": waited, **each})
        began[:] = time.perf_counter(), time.process_time()

    training.train(pairs, options, out, on_step=on_step)


def _child(cached: bool, pairs: Pairs, options: TrainOptions, out: Path, parent: Connection) -> None:
    """Train one way, a round for each message of the parent; send the peak memory at the end."""
    quiet()
    if not cached:
        training.encode, training.Batches = Uncached, Encoding

    def wait(round_: Row) -> None:
        parent.send(round_)
        parent.recv()

    _watched(pairs, options, out, wait)
    parent.send(_peak())


def _peak() -> float:
    """Return the peak memory so far in MB, of the GPU or of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows: psutil reads it
        return psutil.Process().memory_info().peak_wset / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def by_turns(pairs: Pairs, options: TrainOptions, folder: Path) -> dict[bool, tuple[list[Row], float]]:
    """Return, for cached and not, the cost of each round without the first, and the peak memory in MB."""
    context, ends, children = get_context("spawn"), {}, []
    for cached in (True, False):
        ends[cached], theirs = context.Pipe()
        job = (cached, pairs, options, folder / f"{cached}", theirs)
        children.append(context.Process(target=_child, args=job, daemon=True))
        children[-1].start()
        theirs.close()  # so that a child's failure ends `recv`
    rounds: dict[bool, list[Row]] = {True: [], False: []}
    for end in ends.values():  # both have started and done the warm-up round
        _hear(end)
    for _ in range(options.steps // options.log_every - 1):
        for cached, end in ends.items():
            end.send(None)
            rounds[cached].append(_hear(end))
    peaks = {}
    for cached, end in ends.items():
        end.send(None)
        peaks[cached] = _hear(end)
    for child in children:
        child.join()
    return {cached: (mine, peaks[cached]) for cached, mine in rounds.items()}


def _hear(child: Connection) -> Any:
    try:
        return child.recv()
    except EOFError as error:
        raise RuntimeError("one of the two trainings ended too early: see above") from error


# ---------------------------------------------------------------- rows


def bench_ways(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield steps per second and peak memory of cached training against encoding at every step."""
    measured = by_turns(pairs, options, folder)
    (cached, memory), (usual, usual_memory) = measured[True], measured[False]
    wall, cpu = ([median(row[name] for row in way) for way in (cached, usual)] for name in ("wall", "cpu"))
    yield {
        "part": "cached against encoding at every step", **_about(options), "rounds": len(cached),
        "steps/s": round(1 / wall[0], 3), "usual steps/s": round(1 / wall[1], 3),
        "times as fast": round(wall[1] / wall[0], 2), "in CPU time": round(cpu[1] / cpu[0], 2),
        "loss": round(cached[-1]["loss"], 4), "usual loss": round(usual[-1]["loss"], 4), "how": HOW,
    }  # fmt: skip
    yield {
        "part": "peak memory", **_about(options), "MB": round(memory), "usual MB": round(usual_memory),
        "share of the usual": round(memory / usual_memory, 3),
    }  # fmt: skip


def bench_sizes(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield the cost of a step for each canvas and batch, and the share of it spent waiting for data.

    The values are medians of consecutive steps, without the first. No turns are taken, because batches made
    between turns would hide the waiting.
    """
    for side in SIDES.get(options.model, OTHER_SIDES):
        for batch in sorted({max(1, options.batch // 6), options.batch}):
            asked = replace(options, sizes=(f"{side}",), batch=batch, steps=8, log_every=1)
            took: list[Row] = []
            _watched(pairs, asked, folder / f"{side}-{batch}", took.append)
            wall, cpu = (median(row[name] for row in took[1:]) for name in ("wall", "cpu"))
            waiting = median(row["waited"] / row["wall"] for row in took[1:])
            yield {
                "part": "a step", **_about(asked), "s": round(wall, 3), "CPU s": round(cpu, 3),
                "ms a pair": round(1000 * wall / (batch * asked.accumulate), 1), "waiting": round(waiting, 5),
            }  # fmt: skip


def bench_save(pairs: Pairs, options: TrainOptions, folder: Path) -> Iterator[Row]:
    """Yield the time to save the state, measured at every step, and its share at the default interval."""
    took, saves, save = [], [], TrainState.save

    def timed(self: TrainState, progress: Any) -> None:
        began = time.perf_counter()
        save(self, progress)
        saves.append(time.perf_counter() - began)

    every = options.save_every
    asked = replace(options, save_every=1, steps=8, log_every=1)
    TrainState.save = timed
    try:
        _watched(pairs, asked, folder / "saves", took.append)
    finally:
        TrainState.save = save
    seconds = median(saves)
    # The time between two reports includes the save before it.
    step = median(row["wall"] - before for row, before in zip(took[1:], saves, strict=False))
    yield {
        "part": "saving", "batch": options.batch, "s": round(seconds, 3), "every steps": every,
        "share": round(seconds / (seconds + every * step), 6), "how": "medians of saves and steps",
    }  # fmt: skip


def _about(options: TrainOptions) -> Row:
    frame = options.frames[0]
    return {"canvas": f"{2 * frame[0]}x{frame[1]}", "batch": options.batch}


def training_rows(count: int, steps: int | None, model: str = "pocket") -> Iterator[Row]:
    """Yield all rows, on `count` pairs; `steps` is the length of the comparison, in rounds of `ROUND`.

    Raise ValueError for fewer than two rounds.
    """
    if steps is not None and steps < 2 * ROUND:
        raise ValueError(
            f"--steps must be at least {2 * ROUND}, as the first {ROUND} do not count, got {steps}"
        )
    suited = training_defaults(model)
    own = SIDES["pocket"][0] if model == "pocket" else 512
    changed = {"model": model, "sizes": (f"{own}",), "steps": steps or 64, "log_every": ROUND}
    options = TrainOptions(**{**suited, **changed})
    pairs = Pairs(count)
    with tempfile.TemporaryDirectory() as folder:
        for bench in (bench_ways, bench_sizes, bench_save):
            yield from bench(pairs, options, Path(folder))
