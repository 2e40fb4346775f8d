"""The batches of every step; all random choices are functions of the seed and the sample's number.

Samples are numbered over the whole training, whatever the number of processes. Two processes therefore draw
the same samples as one, and a resumed run draws the same as an uninterrupted one.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsd.model import flow, latents
from dsd.model.pipeline import DSDPipeline
from dsd.training import references
from dsd.training.cache import Record, text_hash
from dsd.training.data import Data, Frame
from dsd.training.options import TrainOptions
from dsd.training.order import CHOICES, TIMES, random
from dsd.training.streamed import StreamedData


class Batch(NamedTuple):
    """One batch of model inputs and training targets; all samples have the same frame size."""

    data: Tensor  # [B, tokens, C], packed latents of [reference | target] and any further references
    condition: Tensor  # [B, tokens, C], [reference | black] and further ones; zeros where it is dropped
    noise: Tensor  # [B, tokens, C]
    t: Tensor  # [B]
    embeds: Tensor  # [B, T, D]
    pooled: Tensor  # [B, P]
    frame: Frame


class Batches:
    """The batches of one process, assembled one step ahead."""

    def __init__(
        self, data: Data | StreamedData, options: TrainOptions, process: int = 0, processes: int = 1
    ) -> None:
        self.data, self.options = data, options
        self.process, self.processes = process, processes
        self.order = data.order(options.batch * options.accumulate * processes, options.seed)

    def steps(self, start: int) -> Iterator[list[Batch]]:
        """Yield the `accumulate` batches of each step from `start`, assembling the next step meanwhile."""
        with ThreadPoolExecutor(1) as worker:

            def begin(step: int) -> Future:
                self.data.prepare(self.order.rows(step))
                return worker.submit(self.step, step)

            future = begin(start) if start < self.options.steps else None
            for step in range(start, self.options.steps):
                batches = future.result()
                if step + 1 < self.options.steps:
                    future = begin(step + 1)
                yield batches

    def step(self, step: int) -> list[Batch]:
        """Return all of this process's batches for a step."""
        options, rows = self.options, self.order.rows(step)
        chances = random(options.seed, CHOICES, step).random((len(rows), 3))
        seed = int(random(options.seed, TIMES, step).integers(2**32))
        generator = torch.Generator().manual_seed(seed)
        t = flow.sample_times(len(rows), shift=options.shift, generator=generator)
        starts = range(self.process * options.batch, len(rows), self.processes * options.batch)
        parts = [range(start, start + options.batch) for start in starts]  # samples within the step
        shown = [[int(row)] for row in rows]  # of each sample, the rows whose references it shows
        if options.references > 1:
            shown = references.choose(self.data.further, rows, options.seed, step)
        return [self._batch(step * len(rows), part, shown, chances, t) for part in parts]

    def _batch(
        self, first: int, part: range, shown: list[list[int]], chances: np.ndarray, t: Tensor
    ) -> Batch:
        columns = zip(*(self._sample(shown[i], *chances[i]) for i in part), strict=True)
        canvases, clean, seen, embeds, pooled = (torch.stack(column).float() for column in columns)
        data = latents.pack_canvas(canvases, clean[:, 1:])  # [B, C, h, 2w] -> [B, tokens, 4C]
        noise = [_sample_noise(self.options.seed, first + i, data.shape[1:]) for i in part]
        return Batch(
            data=data,
            condition=latents.pack_canvas(seen[:, 0], seen[:, 1:]),
            noise=torch.from_numpy(np.stack(noise)),
            t=t[part.start : part.stop],
            embeds=embeds,
            pooled=pooled,
            frame=self.data.frames[self.data.buckets[shown[part.start][0]]],
        )

    def _sample(self, shown: list[int], instruction: float, text: float, condition: float) -> Record:
        """Return canvas, references, condition (zeros if dropped), embeds and pooled; chances are in 0..1."""
        entry, images, texts = self.data.find(shown[0])
        canvases = [entry.canvas]
        if self.options.shows_references:
            canvases += [self.data.find(row)[0].condition for row in shown]
        whole, *clean = (  # one record each, or those of both frames
            torch.cat([images.read(key)[0] for key in keys], dim=-1)  # [C, h, 2w]
            for keys in canvases
        )
        # [references, C, h, 2w], each `[reference | black]`
        clean = seen = torch.stack(clean or [torch.zeros_like(whole)])
        if condition < self.options.condition_dropout:
            seen = torch.zeros_like(clean)  # guidance expects zeros for no image, not a black image
        key = entry.caption
        if entry.instruction and instruction < self.options.instruction_prob:
            key = entry.instruction
        if text < self.options.text_dropout:
            key = text_hash("")
        return whole, clean, seen, *texts.read(key)


def other_inputs(batch: Batch, options: TrainOptions, pipe: DSDPipeline) -> dict[str, Any]:
    """Return the transformer's keyword arguments for a batch, besides the tokens of its images."""
    device, (width, height) = batch.data.device, batch.frame
    has_guidance, frames = pipe.transformer.config.guidance_embeds, count_references(batch, pipe)
    scale = pipe.vae_scale_factor
    return {
        "timestep": batch.t,
        "guidance": torch.full_like(batch.t, options.guidance) if has_guidance else None,
        "encoder_hidden_states": batch.embeds,
        "pooled_projections": batch.pooled,
        "txt_ids": torch.zeros(batch.embeds.shape[1], 3, device=device),
        "img_ids": latents.canvas_positions(frames, height, width, vae_scale=scale, device=device),
        "return_dict": False,
    }


def count_references(batch: Batch, pipe: DSDPipeline) -> int:
    """Return how many references the canvas of a batch holds."""
    width, height = batch.frame
    return latents.count_references(batch.data.shape[1], height, width, vae_scale=pipe.vae_scale_factor)


def _sample_noise(seed: int, sample: int, shape: torch.Size) -> np.ndarray:
    """Draw from Philox, which gives each sample its own stream without a warm-up."""
    bits = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))
    return np.random.Generator(bits).standard_normal(tuple(shape), dtype=np.float32)
