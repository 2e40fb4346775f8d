"""Tuning the teacher for one subject from its one reference image: what two baselines share.

A method is a context manager: inside, the pipeline draws the subject by the words that it yields. Prompts
are those words and the requested context. Every subject starts from the teacher's own weights.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from diffusers import FluxPipeline
from PIL import Image
from torch import Tensor, nn

from dsd.evaluation.scores import Case, Draw
from dsd.files import jsonl
from dsd.model import canvas, flow, latents
from dsd.model.presets import DEFAULT_GUIDANCE
from dsd.pocket.words import describe_context, describe_critter
from dsd.training.cache import image_hash
from train.baselines.single_frame import encode_texts, transformer_inputs


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The settings of tuning for one subject."""

    rate: float = 1e-3
    steps: int = 200
    batch: int = 4
    rank: int = 16  # of DreamBooth's LoRA
    shift: float = 1.0  # of the times, as in the training of the others
    guidance: float = DEFAULT_GUIDANCE  # embedded, for distilled models; others ignore it
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """The words for the subject of a reference and for the context in which it stands there."""

    words: str
    context: str

    def caption(self, words: str | None = None) -> str:
        return f"a {words or self.words} {self.context}"


Tune = Callable[[FluxPipeline, Image.Image, Subject, Tuning], AbstractContextManager[str]]


def find_subjects(cases: Iterable[Case]) -> dict[str, Subject]:
    """Return the words for each reference of drawn critters, by the hash of its image."""
    return {
        image_hash(case.reference): Subject(
            describe_critter(case.facts.critter), describe_context(case.facts.reference)
        )
        for case in cases
    }


class Tuned(TypedDict):
    """What is read of a row of the clock's file."""

    key: str
    seconds: float


@dataclass(frozen=True)
class Clock:
    """The seconds that tuning took for each subject, kept in a file for a command that continues."""

    file: Path
    key: str  # of the method and its settings

    def add(self, subject: str, seconds: float) -> None:
        with jsonl.writing(self.file) as append:
            append([{"key": self.key, "subject": subject, "seconds": seconds}])

    @property
    def mean(self) -> float:
        rows = jsonl.read_typed(self.file, Tuned)
        seconds = [row["seconds"] for row in rows if row["key"] == self.key]
        if not seconds:
            raise ValueError(f"{self.file} has no seconds of these settings: delete it, and tune again")
        return sum(seconds) / len(seconds)


def by_tuning(
    tune: Tune,
    pipe: FluxPipeline,
    draw: Draw,
    subjects: dict[str, Subject],
    tuning: Tuning,
    clock: Clock,
) -> Draw:
    """Return a `Draw` that tunes for the subject of its references and draws with `draw`.

    Pass requests of one subject at a time, see `one_by_one`, so that each subject is tuned for once.
    """

    def draw_tuned(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        key, start = image_hash(references[0]), time.perf_counter()
        with tune(pipe, references[0], subjects[key], tuning) as words:
            clock.add(key, time.perf_counter() - start)
            return draw([f"a {words} {prompt}" for prompt in prompts], references, seeds)

    return draw_tuned


def one_by_one(draw: Draw) -> Draw:
    """Return a `Draw` that calls `draw` once for each reference, with all of its prompts."""

    def draw_all(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        groups: dict[str, list[int]] = {}
        for index, reference in enumerate(references):
            groups.setdefault(image_hash(reference), []).append(index)
        images: dict[int, Image.Image] = {}
        for group in groups.values():
            parts = ([column[index] for index in group] for column in (prompts, references, seeds))
            images |= zip(group, draw(*parts), strict=True)
        return [images[index] for index in range(len(prompts))]

    return draw_all


def freeze(pipe: FluxPipeline) -> None:
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)


@torch.enable_grad()
def fit(
    pipe: FluxPipeline,
    weights: list[nn.Parameter],
    image: Image.Image,
    texts: Callable[[], tuple[Tensor, Tensor]],
    side: int,
    tuning: Tuning,
) -> list[float]:
    """Train `weights` to draw `image` from `texts()`, one row of embeddings each, and return the losses."""
    data = _encode(pipe, image, side).expand(tuning.batch, -1, -1)  # [1, tokens, C] -> [B, tokens, C]
    positions = latents.positions(side, side, vae_scale=pipe.vae_scale_factor, device=data.device)
    guidance = tuning.guidance if pipe.transformer.config.guidance_embeds else None
    optimizer = torch.optim.AdamW(weights, tuning.rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(tuning.seed)
    losses = []
    for _ in range(tuning.steps):
        noise = torch.randn(data.shape, generator=generator).to(data)
        t = flow.sample_times(tuning.batch, shift=tuning.shift, generator=generator).to(data)
        rows = tuple(row.expand(tuning.batch, *row.shape[1:]) for row in texts())
        inputs = transformer_inputs(t, rows, positions, guidance)
        velocity = pipe.transformer(hidden_states=flow.interpolate(data, noise, t), **inputs)[0]
        error = flow.loss(velocity, flow.velocity(data, noise))
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(error.item())
    return losses


@torch.no_grad()
def _encode(pipe: FluxPipeline, image: Image.Image, side: int) -> Tensor:
    pixels = canvas.to_tensor([canvas.fit(image, side, side)]).to(pipe.vae.device)
    return latents.pack(latents.encode(pipe.vae, pixels)).to(pipe.transformer.dtype)


@torch.no_grad()
def fixed_texts(pipe: FluxPipeline, caption: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return `texts` for `fit` where the text encoders are not trained."""
    texts = encode_texts(pipe, [caption])
    return lambda: texts
