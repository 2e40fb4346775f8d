"""Which samples make a step, and what is random about each: functions of the seed and the sample's number.

Samples are counted over the whole training, whatever the number of processes, so that two processes draw what
one would, and a continued run what an unbroken one would have drawn.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dsd.model import flow, latents
from dsd.training.cache import TOLERATED, DamagedRecord, Record
from dsd.training.data import Data, Frame
from dsd.training.options import TrainingError, TrainOptions

logger = logging.getLogger(__name__)

BUCKETS, ORDER, CHOICES, TIMES = range(4)  # streams of random numbers


@dataclass(frozen=True)
class Batch:
    """What the model is shown and what it is to answer; all of one frame size."""

    data: Tensor  # [B, tokens, C], packed latents of [reference | target]
    condition: Tensor  # [B, tokens, C], of [reference | black]; zeros where the image is dropped
    noise: Tensor  # [B, tokens, C]
    t: Tensor  # [B]
    embeds: Tensor  # [B, T, D]
    pooled: Tensor  # [B, P]
    frame: Frame

    def to(self, device: torch.device) -> "Batch":
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in values.items() if isinstance(v, Tensor)}
        return Batch(**{**values, **moved})


class Order:
    """Which rows make each step: all of one frame size, each row once before any comes again."""

    def __init__(self, buckets: np.ndarray, group: int, seed: int) -> None:
        self.members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self.group, self.seed = group, seed
        self._shares = np.array([len(rows) for rows in self.members]) / len(buckets)
        self._turns = np.zeros(0, dtype=int)

    def rows(self, step: int) -> np.ndarray:
        """The rows [group] of a step."""
        bucket, before = self._turn(step)
        members, start = self.members[bucket], before * self.group
        places = np.arange(start, start + self.group)
        rounds = [members[self._shuffled(bucket, turn)] for turn in np.unique(places // len(members))]
        return np.concatenate(rounds)[places - places[0] // len(members) * len(members)]

    def _turn(self, step: int) -> tuple[int, int]:
        """Whose turn it is, by lot in proportion to size, and how often it was before."""
        if len(self.members) == 1:
            return 0, step
        if step >= len(self._turns):  # a longer draw begins like a shorter one
            lots = _random(self.seed, BUCKETS).random(max(1024, 2 * step + 1))
            self._turns = np.searchsorted(self._shares.cumsum()[:-1], lots, side="right")
        bucket = self._turns[step]
        return int(bucket), int((self._turns[:step] == bucket).sum())

    def _shuffled(self, bucket: int, turn: int) -> np.ndarray:
        return _permutation(self.seed, bucket, turn, len(self.members[bucket]))


@lru_cache(maxsize=32)
def _permutation(seed: int, bucket: int, turn: int, count: int) -> np.ndarray:
    return _random(seed, ORDER, bucket, turn).permutation(count)


def _random(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng((seed, *place))


class Batches:
    """The batches of one process, assembled ahead of the step that needs them."""

    def __init__(self, data: Data, options: TrainOptions, process: int = 0, processes: int = 1) -> None:
        self.data, self.options = data, options
        self.process, self.processes = process, processes
        self.order = Order(data.buckets, options.batch * options.accumulate * processes, options.seed)
        self.damaged: set[int] = set()

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """For each step from `start` on its `accumulate` batches; one step is made while another is used."""
        with ThreadPoolExecutor(1) as worker:
            coming = None
            for step in range(start, self.options.steps):
                batches = (coming or worker.submit(self.step, step)).result()
                if step + 1 < self.options.steps:
                    coming = worker.submit(self.step, step + 1)
                yield batches

    def step(self, step: int) -> list[Batch]:
        """All of this process's batches of a step."""
        rows = self.order.rows(step)
        chances = _random(self.options.seed, CHOICES, step).random((len(rows), 3))
        t = _times(step, len(rows), self.options)
        return [self._batch(step * len(rows), part, rows, chances, t) for part in self._parts()]

    def _parts(self) -> list[range]:
        """Where this process's batches are among the samples of a step."""
        batch = self.options.batch
        turns = range(self.process, self.options.accumulate * self.processes, self.processes)
        return [range(turn * batch, (turn + 1) * batch) for turn in turns]

    def _batch(self, first: int, part: range, rows: np.ndarray, chances: np.ndarray, t: Tensor) -> Batch:
        samples = [self._sample(int(rows[i]), *chances[i]) for i in part]
        canvases, conditions, embeds, pooled = (torch.stack(column) for column in zip(*samples, strict=True))
        data = latents.pack(canvases.float())  # [B, C, h, 2w] -> [B, tokens, 4C]
        noise = [_noise(self.options.seed, first + i, data.shape[1:]) for i in part]
        return Batch(
            data=data,
            condition=latents.pack(conditions.float()),
            noise=torch.from_numpy(np.stack(noise)),
            t=t[part.start : part.stop],
            embeds=embeds.float(),
            pooled=pooled.float(),
            frame=self.data.frames[self.data.buckets[rows[part.start]]],
        )

    def _sample(self, row: int, instructed: float, wordless: float, blind: float) -> Record:
        """Canvas, condition (zeros if dropped), embeddings, pooled; the next row in a damaged one's place."""
        while True:
            try:
                canvas = self._canvas(self.data.canvases[row])
                condition = self._canvas(self.data.conditions[row])
                embeds, pooled = self.data.texts.read(self._text(row, instructed, wordless))
                break
            except DamagedRecord as error:
                row = self._next(row, error)
        if blind < self.options.image_dropout:
            condition = torch.zeros_like(condition)  # what guidance means by no picture, not a black one
        return canvas, condition, embeds, pooled

    def _canvas(self, places: np.ndarray) -> Tensor:
        """Latents [C, h, 2w]: one record, or its frames' side by side."""
        return torch.cat([self.data.latents.read(place)[0] for place in places], dim=-1)

    def _text(self, row: int, instructed: float, wordless: float) -> tuple[int, int]:
        if wordless < self.options.text_dropout:
            return self.data.empty
        instruction = self.data.instructions[row]
        takes_it = instructed < self.options.instruction_share and instruction[0] >= 0
        return instruction if takes_it else self.data.captions[row]

    def _next(self, row: int, error: DamagedRecord) -> int:
        """The row after a damaged one, of the same frame size; an error where too many are damaged."""
        if row not in self.damaged:
            self.damaged.add(row)
            logger.warning("skipped a row: %s", error)
        if len(self.damaged) > TOLERATED * len(self.data):
            raise TrainingError(
                f"{len(self.damaged)} of {len(self.data)} rows are damaged in the cache, over 1 %: the "
                f"disk may be failing. Delete {self.data.latents.folder.parent}, and all is encoded again"
            )
        members = np.flatnonzero(self.data.buckets == self.data.buckets[row])
        return int(members[(np.searchsorted(members, row) + 1) % len(members)])


def _times(step: int, count: int, options: TrainOptions) -> Tensor:
    seed = int(_random(options.seed, TIMES, step).integers(2**32))
    return flow.sample_times(count, shift=options.shift, generator=torch.Generator().manual_seed(seed))


def _noise(seed: int, sample: int, shape: torch.Size) -> np.ndarray:
    """Philox gives every sample a stream of its own at no cost, where others have to be warmed up."""
    bits = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32)
