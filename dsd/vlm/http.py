"""A vision-language model on an OpenAI-compatible server (vLLM, SGLang, a hosted one).

Many requests are in flight at a time; answers are returned in order. huggingface_hub's client is not used: it
changes requests to such servers, and HF_HUB_OFFLINE would block requests to a server on the same machine.
"""

import base64
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue

import httpx
from PIL import Image

from dsd.files.hub import LoadError
from dsd.vlm.base import VLM, Request, VLMError, check_options
from dsd.vlm.client import BudgetError, Limits, Line

KEY = "DSD_VLM_KEY"
Job = tuple[Request, "Future[str]"]
AHEAD = 2  # times in_flight: requests held, so that one slow answer does not stall the others


class HTTPVLM(VLM):
    """A model on a server, as opened by `open_http`."""

    def __init__(
        self, model: str, line: Line, *, max_tokens: int = 512, temperature: float = 0.7, in_flight: int = 32
    ):
        """Limit answers to `max_tokens`; `temperature` only affects requests with a seed."""
        check_options(max_tokens=max_tokens, temperature=temperature, in_flight=in_flight)
        self.name, self.batch, self.line = model, AHEAD * in_flight, line
        self.max_tokens, self.temperature, self.in_flight = max_tokens, temperature, in_flight
        self._slots = threading.Semaphore(in_flight)

    def __repr__(self) -> str:
        return f"HTTPVLM({self.name!r}, {self.line!r})"

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield answers in order, with `in_flight` requests at a time; hold at most `batch` in memory.

        Raise VLMError for a request that fails, after all answers before it. Raise BudgetError, a VLMError,
        when the budget is used up, after the answers to all requests already sent.
        """
        jobs: SimpleQueue[Job | None] = SimpleQueue()
        waiting: deque[Future[str]] = deque()
        stop, workers = threading.Event(), 0
        self.line.begin()
        try:
            for request in requests:
                try:
                    self.line.spend()
                except BudgetError:
                    yield from (future.result() for future in waiting)
                    raise
                waiting.append(Future())
                jobs.put((request, waiting[-1]))
                if workers < self.in_flight:
                    workers += self._hire(jobs, stop)
                while waiting and (len(waiting) >= self.batch or waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stop.set()
            for _ in range(workers):
                jobs.put(None)

    def _hire(self, jobs: "SimpleQueue[Job | None]", stop: threading.Event) -> int:
        """Start one worker as a daemon thread, so that Ctrl-C does not wait for a slow server."""
        threading.Thread(target=self._work, args=(jobs, stop), daemon=True).start()
        return 1

    def _work(self, jobs: "SimpleQueue[Job | None]", stop: threading.Event) -> None:
        while (job := jobs.get()) is not None:
            request, future = job
            try:
                with self._slots:
                    future.set_result(self._answer(request, stop))
            except BaseException as error:  # raised again by `result()`
                future.set_exception(error)

    def _answer(self, request: Request, stop: threading.Event) -> str:
        reply = self.line.post("/chat/completions", self._body(request), stopped=stop.is_set)
        try:
            content = reply["choices"][0]["message"]["content"] or ""  # None: reasoning used all tokens
            return self.line.hide(content).strip()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise VLMError(
                f"{self.line.address} does not speak the OpenAI protocol: {self.line.safe(reply)}"
            ) from None

    def _body(self, request: Request) -> dict:
        images = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
        content = [*images, {"type": "text", "text": request.question}] if images else request.question
        sampling = {"temperature": 0}
        if request.seed is not None:
            sampling = {"temperature": self.temperature, "seed": request.seed}
        message = {"role": "user", "content": content}
        return {"model": self.name, "messages": [message], "max_tokens": self.max_tokens, **sampling}


def open_http(
    address: str,
    *,
    model: str | None = None,
    key: str = KEY,
    max_tokens: int = 512,
    temperature: float = 0.7,
    in_flight: int = 32,
    timeout: float = Limits.timeout,
    retries: int = Limits.retries,
    patience: float = Limits.patience,
    budget: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> HTTPVLM:
    """Open a model on the server at `address` (`http://host/v1`), which must be running.

    `model` None takes the server's only model. `key` names the environment variable that holds the key; a
    local server needs none. `in_flight` is the number of requests at a time, `timeout` is seconds and
    `retries` a number per request, `patience` is seconds without any answer, and `budget` is the total number
    of requests (see `dsd.vlm.client`). Raise LoadError for an address or model that cannot be used, VLMError
    for invalid options.
    """
    check_options(max_tokens=max_tokens, temperature=temperature, in_flight=in_flight)
    limits = Limits(timeout=timeout, retries=retries, patience=patience, budget=budget)
    address = _checked_address(address)
    line = Line(address, _checked_key(key), limits, connections=in_flight, clock=clock, sleep=sleep)
    model = _model(line, model, key)
    return HTTPVLM(model, line, max_tokens=max_tokens, temperature=temperature, in_flight=in_flight)


def data_url(image: Image.Image) -> str:
    """Return the image as a data URL; PNG is lossless, so the judge sees the exact pixels."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=1)  # fast: the network outpaces zlib
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _checked_address(address: str) -> str:
    """Return the address without a trailing slash; raise LoadError if it is invalid.

    The error for an address with a password or query does not quote the address.
    """
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise LoadError(f"the judge's address cannot be read: {error}") from None
    if url.userinfo or url.query or url.fragment:
        raise LoadError(
            f"the judge's address at {url.host} must hold no password and no question mark: put the key in "
            f"the variable {KEY}"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise LoadError(f"the judge's address must be like http://host/v1, got {address!r}")
    if url.path.rstrip("/").endswith(("/chat/completions", "/models")):
        raise LoadError(f"give the judge's address up to /v1 only, got {address!r}")
    return str(url).rstrip("/")


def _checked_key(variable: str) -> str:
    """Return the key, or an empty string; errors never quote it."""
    key = os.environ.get(variable, "")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LoadError(
            f"the variable {variable} holds what no key has (a space, a line break?): set it again"
        )
    return key


def _model(line: Line, model: str | None, variable: str) -> str:
    """Return the model's name; listing the models reveals a wrong address or key before any work is done."""
    try:
        response = line.get("/models")
        if response.status_code in (401, 403):
            why = f"refuses the key in {variable}" if line.has_key else f"wants a key: set {variable}"
            raise LoadError(f"{line.address} {why}; it says {line.quote(response)}")
        if response.status_code in (404, 405, 501) and model is not None:  # some servers have no list
            return model
        listed = line.read(response).get("data")
    except VLMError as error:
        raise LoadError(str(error)) from None
    names = [str(entry["id"]) for entry in listed or [] if isinstance(entry, dict) and "id" in entry]
    if model is None and len(names) != 1:
        raise LoadError(f"{line.address} has {len(names)} models, so name one: {line.safe(', '.join(names))}")
    return model or names[0]
