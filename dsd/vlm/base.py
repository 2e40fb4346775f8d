"""What can be asked of a vision-language model, wherever it runs: a question and pictures in, words out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class VLMError(ValueError):
    """A model that gives no answer; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """One question. `seed` None asks for the likeliest answer; a seed draws one, for votes."""

    question: str
    images: tuple[Image.Image, ...] = ()
    seed: int | None = None


class VLM(Protocol):
    """A model that sees pictures and answers in words."""

    name: str  # who answered, for the rows
    weights: str | None = None  # names a local model's weights: one that was trained on is another
    batch: int  # how many requests to hand over at a time, to keep it busy

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """One answer for each request, in their order; requests are taken as they are needed."""
        ...

    def ask(self, question: str, images: Sequence[Image.Image] = (), *, seed: int | None = None) -> str:
        """One answer to one question about any number of pictures, or about none."""
        (answer,) = self.ask_many([Request(question, tuple(images), seed)])
        return answer


def check_options(*, max_tokens: int, temperature: float, **counts: int) -> None:
    """VLMError for options that no model can follow."""
    for name, value in {"max_tokens": max_tokens, **counts}.items():
        if value < 1:
            raise VLMError(f"{name} must be at least 1, got {value}")
    if not temperature > 0:
        raise VLMError(
            f"temperature must be above 0, got {temperature}: it only acts on answers drawn with a seed, "
            "all others are the likeliest ones"
        )
