"""The interface of vision-language models, local or remote: a question and images in, text out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class VLMError(ValueError):
    """A model failed to answer; the message says why and what to do."""


@dataclass(frozen=True)
class Request:
    """One question. `seed` None asks for the most likely answer; a seed samples one, for votes."""

    question: str
    images: tuple[Image.Image, ...] = ()
    seed: int | None = None


class VLM(Protocol):
    """A model that reads images and answers in text."""

    name: str  # name of the model, for the rows
    weights: str | None = None  # hash of a local model's weights: further training changes it
    batch: int  # number of requests to pass at a time, to keep the model busy

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield one answer for each request, in order; requests are consumed as needed."""
        ...

    def ask(self, question: str, images: Sequence[Image.Image] = (), *, seed: int | None = None) -> str:
        """Return the answer to one question about any number of images, or none."""
        (answer,) = self.ask_many([Request(question, tuple(images), seed)])
        return answer


def check_options(*, max_tokens: int, temperature: float, **counts: int) -> None:
    """Raise VLMError for invalid options."""
    for name, value in {"max_tokens": max_tokens, **counts}.items():
        if value < 1:
            raise VLMError(f"{name} must be at least 1, got {value}")
    if not temperature > 0:
        raise VLMError(
            f"temperature must be above 0, got {temperature}: it only acts on answers drawn with a seed, "
            "all others are the likeliest ones"
        )
