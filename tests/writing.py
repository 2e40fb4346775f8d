"""Prompts written in tests: a small run, and a writer whose answers are known."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from dsd.files import jsonl
from dsd.grids import writers
from dsd.grids.prompts import PromptOptions, write_prompts
from dsd.vlm.base import AGAIN, VLM, Request

PETS = [
    "a photo of a red fox in the snow",
    "A grey cat sleeping on a sofa.",
    "a wooden toy robot, studio light",
]
FOX = "subject: small red fox\n1: in deep snow\n2: on a beach"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def options(**changes) -> PromptOptions:
    return PromptOptions(**{"count": 12, "seed": 3} | changes)


def written(run: Path, captions: Iterable[str] | None = None, vlm=None, **changes) -> list[jsonl.Row]:
    write_prompts(run, options(**changes), captions=captions, vlm=vlm)
    return jsonl.read(run / "prompts.jsonl")


class Fake(VLM):
    """A writer that says yes to every caption and knows the answers to some; others it makes up."""

    name, batch = "fake", 4

    def __init__(
        self, answers: dict[str, str] | None = None, clear: dict[str, str] | None = None, wait: float = 0
    ):
        self.answers, self.clear, self.wait = answers or {}, clear or {}, wait
        self.asked: list[str] = []

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        for request in requests:
            assert request.seed in (None, AGAIN) and not request.images
            self.asked.append(request.question)
            time.sleep(self.wait)
            caption = request.question.split('"')[1]
            yes = "Answer with one word" in request.question
            yield self.clear.get(caption, "Yes.") if yes else self.answers.get(caption) or invented(caption)


def invented(caption: str) -> str:
    generator = rng(sum(map(ord, caption)))
    places = "".join(f"\n{i}: {place}." for i, place in enumerate(writers.pick_places(generator, 2), 1))
    return f"Subject: {caption.replace('photo', 'toy')}{places}\n"


def pairs(**changes) -> dict:
    """Options of grids of two panels for a grown writer."""
    return {"recipe": "identity", "rows": 1, "columns": 2} | changes
