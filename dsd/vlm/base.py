"""The interface of vision-language models, local or remote: a question and images in, text out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

MINIMUM = {"max_tokens": 1, "batch": 1, "in_flight": 1, "budget": 1, "retries": 0, "patience": 0}
REFUSED = "[refused by the server's content filter] "  # begins what stands for an answer
AGAIN = 1_000_000  # a seed for a question whose answer could not be read; votes count theirs from 1
LABEL = "Image {}:"  # comes before each image, where a question has several

Schema = dict[str, Any]  # a JSON schema


def is_refused(answer: str) -> bool:
    return answer.startswith(REFUSED)


class VLMError(ValueError):
    """A model failed to answer; the message says why and what to do."""


class UnusableError(VLMError):
    """The model answered, and its answers cannot be used: ask anew rather than read them again."""


@dataclass(frozen=True)
class Request:
    """One question. `seed` None asks for the most likely answer; a seed samples one, for votes.

    A server that supports schemas answers with JSON of `schema`; everything else ignores it.
    """

    question: str
    images: tuple[Image.Image, ...] = ()
    seed: int | None = None
    schema: Schema | None = None
    # Gets the answer as soon as it is there, before those to earlier requests; a model may leave it uncalled.
    on_answer: Callable[[str], None] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class VLMOptions:
    """The options of every model; invalid ones raise VLMError."""

    max_tokens: int = 512  # of an answer
    temperature: float = 0.7  # of answers to requests with a seed

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in MINIMUM and value is not None and value < MINIMUM[name]:
                raise VLMError(f"{name} must be at least {MINIMUM[name]}, got {value}")
            if name in ("temperature", "timeout") and not value > 0:
                raise VLMError(f"{name} must be above 0, got {value}")


class VLM(Protocol):
    """A model that reads images and answers in text."""

    name: str  # name of the model, for the rows
    weights: str | None = None  # hash of a local model's weights: further training changes it
    batch: int  # number of requests to pass at a time, to keep the model busy
    options: VLMOptions = VLMOptions()

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield one answer for each request, in order; requests are consumed as needed.

        Where a content filter refuses a request, its message after `REFUSED` stands for the answer.
        """
        ...

    def ask(self, question: str, images: Sequence[Image.Image] = (), *, seed: int | None = None) -> str:
        """Return the answer to one question about any number of images, or none."""
        (answer,) = self.ask_many([Request(question, tuple(images), seed)])
        return answer
