"""The fake server: a model that answers in one style, behind one dialect of OpenAI's protocol."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests import local_server
from tests.chat import answers, faults
from tests.chat.faults import Fault
from tests.chat.styles import STYLES
from tests.local_server import QuietHandler

PIECES = 8  # of a body that drips


@dataclass(kw_only=True)
class Chat:
    """A server's behavior. `before` are faults that come first, one for each chat."""

    style: str = "plain"
    models: tuple[str, ...] = ("judge-7b",)
    schemas: bool = False  # honors `response_format`; otherwise it is ignored, as old servers do
    reasoning_model: bool = False  # refuses `max_tokens` and any temperature but 1
    key: str | None = None
    before: list[Fault] = field(default_factory=list)
    refuses: Callable[[str, list], Fault | None] = lambda words, images: None  # by what is asked
    seen: list[dict] = field(default_factory=list)  # every body of a chat
    lock: Any = field(default_factory=threading.Lock)

    def answer(self, body: dict, key: str) -> Fault:
        """Return the response to a chat."""
        with self.lock:
            self.seen.append(body)
            early = self.before.pop(0) if self.before else None
        if refusal := self._refusal(body, key):
            return refusal
        words, images = answers.asked(body)
        return (
            early
            or self.refuses(words, images)
            or Fault(json.dumps(self._chat(body, words, images)).encode())
        )

    def _refusal(self, body: dict, key: str) -> Fault | None:
        """Return what the dialect does not accept in a request."""
        if self.key and key != self.key:
            return faults.error(401, f"Incorrect API key provided: {key}")
        if body.get("model") not in self.models:
            return faults.error(404, f"The model `{body.get('model')}` does not exist")
        if self.reasoning_model and "max_tokens" in body:
            return faults.unsupported("max_tokens", "max_completion_tokens")
        if self.reasoning_model and body.get("temperature", 1) != 1:
            return faults.unsupported("temperature")
        return None

    def _chat(self, body: dict, words: str, images: list) -> dict:
        schema = _schema(body) if self.schemas else None
        fields = answers.fields(words, images, answers.names(schema or {}))
        if schema is None:
            choice = STYLES[self.style](fields)
        else:
            content = json.dumps(answers.by_schema(schema, fields))
            choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": content}}
        usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
        named = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return {**named, "choices": [{"index": 0, **choice}], "usage": usage}

    def listed(self) -> dict:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}


def _schema(body: dict) -> dict | None:
    """Return the schema of `response_format`, or None for another or no format."""
    asked = body.get("response_format") or {}
    return asked["json_schema"]["schema"] if asked.get("type") == "json_schema" else None


def _handler(chat: Chat) -> type[QuietHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/models":
                return self.send(Fault(json.dumps(chat.listed()).encode()))
            self.send(faults.web_page() if self.path in ("/", "/models") else faults.error(404, "Not Found"))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = (self.headers["Authorization"] or "").removeprefix("Bearer ")
            known = self.path == "/v1/chat/completions"
            self.send(chat.answer(body, key) if known else faults.error(404, "Not Found"))

        def send(self, response: Fault) -> None:
            time.sleep(response.wait)
            if response.reset:
                # With this option, closing sends RST at once.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            if response.reset or response.closed:
                self.close_connection = True
                return
            if response.crawl:
                self.close_connection = True
                return self.write(b"HTTP/1.1 200 OK\r\nX-Slow: ".ljust(60), 1, response.crawl)
            self.head(response)
            self.body(response)

        def head(self, response: Fault) -> None:
            self.send_response_only(response.status)
            headers = {"Content-Type": "application/json", **response.headers}
            for name, value in {**headers, "Content-Length": str(len(response.body))}.items():
                self.send_header(name, value)
            self.end_headers()

        def body(self, response: Fault) -> None:
            whole = response.body[: response.cut]
            size = max(1, len(whole) // PIECES) if response.drip else max(1, len(whole))
            self.write(whole, size, response.drip)
            self.close_connection |= response.cut is not None

        def write(self, whole: bytes, size: int, seconds: float) -> None:
            """Send pieces of so many bytes with a pause before each."""
            try:
                for start in range(0, len(whole), size):
                    time.sleep(seconds)
                    self.wfile.write(whole[start : start + size])
                    self.wfile.flush()
            except OSError:  # the client had enough
                self.close_connection = True

        def finish(self) -> None:
            try:
                super().finish()
            except (OSError, ValueError):  # reset above
                pass

    return Handler


@contextmanager
def serving(chat: Chat) -> Iterator[str]:
    """Serve the chat and yield the address, which ends in /v1."""
    with local_server.serving(_handler(chat)) as address:
        yield f"{address}/v1"
