"""The batches of every step; all random choices are functions of the seed and the sample's number.

Samples are numbered over the whole training, whatever the number of processes. Two processes therefore draw
the same samples as one, and a resumed run draws the same as an uninterrupted one.
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

BUCKETS, ORDER, CHOICES, TIMES = range(4)  # independent random streams


@dataclass(frozen=True)
class Batch:
    """One batch of model inputs and training targets; all samples have the same frame size."""

    data: Tensor  # [B, tokens, C], packed latents of [reference | target]
    condition: Tensor  # [B, tokens, C], packed [reference | black]; zeros where it is dropped
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
    """The rows of each step: all of one frame size, and each row of a size once before any repeats."""

    def __init__(self, buckets: np.ndarray, group: int, seed: int) -> None:
        self.members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self.group, self.seed = group, seed
        self._shares = np.array([len(rows) for rows in self.members]) / len(buckets)
        self._turns = np.zeros(0, dtype=int)

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, [group]."""
        bucket, before = self._turn(step)
        members, start = self.members[bucket], before * self.group
        places = np.arange(start, start + self.group)
        rounds = [members[self._shuffled(bucket, turn)] for turn in np.unique(places // len(members))]
        return np.concatenate(rounds)[places - places[0] // len(members) * len(members)]

    def _turn(self, step: int) -> tuple[int, int]:
        """Return the step's bucket, drawn in proportion to size, and how many earlier steps drew it."""
        if len(self.members) == 1:
            return 0, step
        if step >= len(self._turns):  # a longer draw starts with the same values
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
    """The batches of one process, assembled one step ahead."""

    def __init__(self, data: Data, options: TrainOptions, process: int = 0, processes: int = 1) -> None:
        self.data, self.options = data, options
        self.process, self.processes = process, processes
        self.order = Order(data.buckets, options.batch * options.accumulate * processes, options.seed)
        self.damaged: set[int] = set()

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """Yield the `accumulate` batches of each step from `start`, preparing the next step meanwhile."""
        with ThreadPoolExecutor(1) as worker:
            coming = None
            for step in range(start, self.options.steps):
                batches = (coming or worker.submit(self.step, step)).result()
                if step + 1 < self.options.steps:
                    coming = worker.submit(self.step, step + 1)
                yield batches

    def step(self, step: int) -> list[Batch]:
        """Return all of this process's batches for a step."""
        rows = self.order.rows(step)
        chances = _random(self.options.seed, CHOICES, step).random((len(rows), 3))
        t = _times(step, len(rows), self.options)
        return [self._batch(step * len(rows), part, rows, chances, t) for part in self._parts()]

    def _parts(self) -> list[range]:
        """Return the sample ranges of this process's batches within a step."""
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
        """Return canvas, condition (zeros if dropped), embeds and pooled; skip to the next row if damaged."""
        while True:
            try:
                canvas = self._canvas(self.data.canvases[row])
                condition = self._canvas(self.data.conditions[row])
                embeds, pooled = self.data.texts.read(self._text(row, instructed, wordless))
                break
            except DamagedRecord as error:
                row = self._next(row, error)
        if blind < self.options.image_dropout:
            condition = torch.zeros_like(condition)  # guidance expects zeros for no image, not a black image
        return canvas, condition, embeds, pooled

    def _canvas(self, places: np.ndarray) -> Tensor:
        """Return latents [C, h, 2w]: one record, or those of both frames side by side."""
        return torch.cat([self.data.latents.read(place)[0] for place in places], dim=-1)

    def _text(self, row: int, instructed: float, wordless: float) -> tuple[int, int]:
        if wordless < self.options.text_dropout:
            return self.data.empty
        instruction = self.data.instructions[row]
        takes_it = instructed < self.options.instruction_share and instruction[0] >= 0
        return instruction if takes_it else self.data.captions[row]

    def _next(self, row: int, error: DamagedRecord) -> int:
        """Return the next row of the same frame size; raise TrainingError if too many are damaged."""
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
    """Draw from Philox, which gives each sample its own stream without a warm-up."""
    bits = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32)
