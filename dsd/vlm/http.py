"""A vision-language model on an OpenAI-compatible server (vLLM, SGLang, a hosted one).

Many requests are in flight at a time; answers are returned in order. huggingface_hub's client is not used: it
changes requests to such servers, and HF_HUB_OFFLINE would block requests to a server on the same machine.

A request asks for JSON of its schema. If a server refuses a parameter (`response_format`, `temperature`,
`seed`, or `max_tokens` in place of `max_completion_tokens`), the request is sent again without it, as are all
later ones.
"""

import base64
import io
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue

import httpx
from PIL import Image

from dsd.files.hub import LoadError
from dsd.files.rgb import JUDGED, to_rgb
from dsd.vlm.base import LABEL, REFUSED, VLM, Request, VLMError
from dsd.vlm.client import KEY, BudgetError, HTTPOptions, RetryingClient, UnacceptedError

LARGE = 2**20  # bytes of a PNG above which a JPEG is sent
SURROGATE = "[\ud800-\udfff]"  # half of a character, which no file can hold
OPTIONAL = ("max_tokens", "temperature", "seed", "response_format")  # a server may refuse these
FILTER = (
    r"(?i)content.?filter|content.?management|content.?policy|safety system|ResponsibleAI|moderation|"
    r"data_inspection_failed|inappropriate content"
)


class HTTPVLM(VLM):
    """A model on a server, as opened by `open_http`."""

    def __init__(self, model: str, client: RetryingClient, options: HTTPOptions):
        self.model, self.client, self.options = model, client, options
        self.name = client.redact(model)  # a server may list the key that it was sent as a model
        self.batch = 2 * options.in_flight  # so that one slow answer does not stall the others
        self._unsupported: set[str] = set()  # parameters that the server has refused
        self._slots = threading.Semaphore(options.in_flight)

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield answers in order, with `in_flight` requests at a time; hold at most `batch` in memory.

        Raise VLMError for a request that fails, after all answers before it. Raise BudgetError, a VLMError,
        when the budget is used up, after the answers to all requests already sent.
        """
        jobs: SimpleQueue[tuple[Request, Future[str]]] = SimpleQueue()
        pending: deque[Future[str]] = deque()
        stop = threading.Event()
        try:
            for request in requests:
                try:
                    self.client.spend()
                except BudgetError:
                    yield from (future.result() for future in pending)
                    raise
                pending.append(Future())
                jobs.put((request, pending[-1]))
                # A daemon thread, so that Ctrl-C does not wait for a slow server.
                threading.Thread(target=self._work, args=(jobs, stop), daemon=True).start()
                while pending and (len(pending) >= self.batch or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except VLMError:
            stop.set()
            wait(pending)  # for those that are paid: `on_answer` gets their answers
            raise
        finally:
            stop.set()

    def _work(self, jobs: SimpleQueue, stop: threading.Event) -> None:
        """Answer the next request once a slot is free."""
        with self._slots:
            request, future = jobs.get()
            try:
                text = self._answer(request, stop)
                if request.on_answer:
                    request.on_answer(text)
                future.set_result(text)
            except BaseException as error:  # raised again by `result()`
                future.set_exception(error)

    def _answer(self, request: Request, stop: threading.Event) -> str:
        """Return the answer; ask again without the parameters that the server does not accept."""
        unsupported = set(self._unsupported)
        while True:
            body = self._build_body(request, unsupported)
            try:
                reply = self.client.post("/chat/completions", body, is_stopped=stop.is_set)
            except UnacceptedError as error:
                if re.search(FILTER, error.text):
                    return f"{REFUSED}{self.client.shorten(error.text)}"
                if (name := _find_unaccepted(body, error.text)) is None:
                    raise
                unsupported.add(name)  # nothing was answered, so the budget counts both as one request
            else:
                self._unsupported |= unsupported  # only now is it known that they were the reason
                return self._read(reply)

    def _read(self, reply: dict) -> str:
        try:
            text = self.client.redact(read_choice(reply["choices"][0])).strip()
            return re.sub(SURROGATE, "\ufffd", text)
        except (KeyError, TypeError, AttributeError, IndexError):
            problem = f"{self.client.address} does not speak the OpenAI protocol"
            raise VLMError(f"{problem}: {self.client.shorten(reply)}") from None

    def _build_body(self, request: Request, unsupported: set[str]) -> dict:
        body = {"model": self.model, "messages": [{"role": "user", "content": _build_content(request)}]}
        tokens = "max_completion_tokens" if "max_tokens" in unsupported else "max_tokens"
        body |= {tokens: self.options.max_tokens, "temperature": 0}
        if request.seed is not None:
            body |= {"temperature": self.options.temperature, "seed": request.seed}
        if request.schema is not None:
            schema = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return {name: value for name, value in body.items() if name not in unsupported}


def _build_content(request: Request) -> str | list[dict]:
    """Return the images, each after its number if there are several, and the question."""
    parts = []
    for number, image in enumerate(request.images, 1):
        parts += [{"type": "text", "text": LABEL.format(number)}] if len(request.images) > 1 else []
        parts += [{"type": "image_url", "image_url": {"url": data_url(image)}}]
    return [*parts, {"type": "text", "text": request.question}] if parts else request.question


def _find_unaccepted(body: dict, message: str) -> str | None:
    """Return the parameter that a server refuses: one that it names, or the schema, or None."""
    named = (name for name in OPTIONAL if name in body and name in message)
    return next(named, "response_format" if "response_format" in body else None)


def read_choice(choice: dict) -> str:
    """Return the text of a choice; raise VLMError if the server took the answer itself for thinking."""
    message, reason = choice["message"], choice.get("finish_reason")
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    if not text and (message.get("refusal") or reason == "content_filter"):
        return f"{REFUSED}{message.get('refusal') or reason}"
    if text or not thoughts:
        return text
    if reason == "length":
        return f"<think>{thoughts}"  # unreadable, and kept
    raise VLMError(
        "the server put the whole answer into `reasoning_content` and left `content` empty: start it without "
        "--reasoning-parser or with the one of this model, or turn thinking off"
    )


def open_http(address: str, options: HTTPOptions) -> HTTPVLM:
    """Open a model on a running server; raise LoadError for an address, key or model that cannot be used."""
    client = RetryingClient(_check_address(address), _read_key(options.key), options)
    return HTTPVLM(_find_model(client, options), client, options)


def data_url(image: Image.Image) -> str:
    """Return the image as a data URL: lossless PNG, or JPEG where the PNG is large, as of photographs."""
    image, kind, file = to_rgb(image, JUDGED), "png", io.BytesIO()
    image.save(file, kind, compress_level=1)  # fast: the network outpaces zlib
    if file.tell() > LARGE:
        kind, file = "jpeg", io.BytesIO()
        image.save(file, kind, quality=95)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _check_address(address: str) -> str:
    """Return the address without a trailing slash; raise LoadError, which quotes no password, if invalid."""
    try:
        url = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise LoadError(f"the judge's address cannot be read: {error}") from None
    if url.userinfo or url.query or url.fragment:
        raise LoadError(
            f"the judge's address at {url.host} must not contain a password or a question mark: put the key "
            f"into the variable {KEY}"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise LoadError(f"the judge's address must be like http://host/v1, got {address!r}")
    if url.path.rstrip("/").endswith(("/chat/completions", "/models")):
        raise LoadError(f"the judge's address must end in /v1 or the like, got {address!r}")
    return str(url).rstrip("/")


def _read_key(variable: str) -> str:
    """Return the key, or an empty string; errors never quote it."""
    key = os.environ.get(variable, "")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LoadError(f"the variable {variable} contains a character that no key has: set it again")
    return key


def _find_model(client: RetryingClient, options: HTTPOptions) -> str:
    """Return the model's name; listing the models reveals a wrong address or key before any work is done."""
    try:
        response = client.get("/models")
        if response.status_code in (404, 405, 501) and options.model is not None:  # some have no list
            return options.model
        entries = client.read(response).get("data") or []
    except VLMError as error:
        raise LoadError(str(error)) from None
    names = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
    if options.model is None and len(names) != 1:
        listed = client.shorten(", ".join(names))
        raise LoadError(f"{client.address} has {len(names)} models, so name one: {listed}")
    return options.model or names[0]
