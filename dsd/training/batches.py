"""The batches of every step; all random choices are functions of the seed and the sample's number.

Samples are numbered over the whole training, whatever the number of processes. Two processes therefore draw
the same samples as one, and a resumed run draws the same as an uninterrupted one.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsd.model import flow, latents
from dsd.training.cache import Record, text_hash
from dsd.training.data import Data, Frame
from dsd.training.options import TrainOptions

BUCKETS, ORDER, CHOICES, TIMES = range(4)  # independent random streams


class Batch(NamedTuple):
    """One batch of model inputs and training targets; all samples have the same frame size."""

    data: Tensor  # [B, tokens, C], packed latents of [reference | target]
    condition: Tensor  # [B, tokens, C], packed [reference | black]; zeros where it is dropped
    noise: Tensor  # [B, tokens, C]
    t: Tensor  # [B]
    embeds: Tensor  # [B, T, D]
    pooled: Tensor  # [B, P]
    frame: Frame


class Order:
    """The rows of each step: all of one frame size, and each row of a size once before any repeats."""

    def __init__(self, buckets: np.ndarray, group: int, seed: int) -> None:
        self.members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self.group, self.seed = group, seed
        self._shares = np.array([len(rows) for rows in self.members]) / len(buckets)

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, [group]; its frame size is drawn in proportion to its rows."""
        lots = _random(self.seed, BUCKETS).random(step + 1)  # a longer draw starts with the same values
        buckets = np.searchsorted(self._shares.cumsum()[:-1], lots, side="right")
        bucket, before = int(buckets[step]), int((buckets[:step] == buckets[step]).sum())
        members = self.members[bucket]
        rounds, places = np.divmod(np.arange(self.group) + before * self.group, len(members))
        orders = {turn: _permutation(self.seed, bucket, turn, len(members)) for turn in set(rounds.tolist())}
        return members[[orders[turn][place] for turn, place in zip(rounds.tolist(), places, strict=True)]]


@lru_cache(maxsize=32)
def _permutation(seed: int, bucket: int, turn: int, count: int) -> np.ndarray:
    return _random(seed, ORDER, bucket, turn).permutation(count)


def _random(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng((seed, *place))


class Batches:
    """The batches of one process, assembled one step ahead."""

    def __init__(self, data: Data, options: TrainOptions, process: int = 0, processes: int = 1) -> None:
        self.data, self.options = data, options
        self.process, self.processes = process, processes
        self.order = Order(data.buckets, options.batch * options.accumulate * processes, options.seed)

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """Yield the `accumulate` batches of each step from `start`, preparing the next step meanwhile."""
        with ThreadPoolExecutor(1) as worker:
            future = None
            for step in range(start, self.options.steps):
                batches = (future or worker.submit(self.step, step)).result()
                if step + 1 < self.options.steps:
                    future = worker.submit(self.step, step + 1)
                yield batches

    def step(self, step: int) -> list[Batch]:
        """Return all of this process's batches for a step."""
        options, rows = self.options, self.order.rows(step)
        chances = _random(options.seed, CHOICES, step).random((len(rows), 3))
        seed = int(_random(options.seed, TIMES, step).integers(2**32))
        generator = torch.Generator().manual_seed(seed)
        t = flow.sample_times(len(rows), shift=options.shift, generator=generator)
        starts = range(self.process * options.batch, len(rows), self.processes * options.batch)
        parts = [range(start, start + options.batch) for start in starts]  # samples within the step
        return [self._batch(step * len(rows), part, rows, chances, t) for part in parts]

    def _batch(self, first: int, part: range, rows: np.ndarray, chances: np.ndarray, t: Tensor) -> Batch:
        samples = [self._sample(int(rows[i]), *chances[i]) for i in part]
        canvases, conditions, embeds, pooled = (torch.stack(column) for column in zip(*samples, strict=True))
        data = latents.pack(canvases.float())  # [B, C, h, 2w] -> [B, tokens, 4C]
        noise = [_sample_noise(self.options.seed, first + i, data.shape[1:]) for i in part]
        return Batch(
            data=data,
            condition=latents.pack(conditions.float()),
            noise=torch.from_numpy(np.stack(noise)),
            t=t[part.start : part.stop],
            embeds=embeds.float(),
            pooled=pooled.float(),
            frame=self.data.frames[self.data.buckets[rows[part.start]]],
        )

    def _sample(self, row: int, instruction: float, text: float, condition: float) -> Record:
        """Return canvas, condition (zeros if dropped), embeds and pooled; the chances are in 0..1."""
        entry = self.data.entries[row]
        clean, reference = self._canvas(entry.canvas), self._canvas(entry.condition)
        if condition < self.options.condition_dropout:
            reference = torch.zeros_like(reference)  # guidance expects zeros for no image, not a black image
        key = entry.caption
        if entry.instruction and instruction < self.options.instruction_prob:
            key = entry.instruction
        if text < self.options.text_dropout:
            key = text_hash("")
        return clean, reference, *self.data.texts.read(key)

    def _canvas(self, keys: list[str]) -> Tensor:
        """Return latents [C, h, 2w]: one record, or those of both frames side by side."""
        return torch.cat([self.data.latents.read(key)[0] for key in keys], dim=-1)


def _sample_noise(seed: int, sample: int, shape: torch.Size) -> np.ndarray:
    """Draw from Philox, which gives each sample its own stream without a warm-up."""
    bits = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32)
