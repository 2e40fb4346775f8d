"""A local server that speaks the OpenAI protocol and gives prepared answers, without a model.

It serves as a judge in tests. `python -m tests.loopback` prints how many times as fast 32 requests in flight
are as one, with a server that takes 200 ms for an answer.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dsd.vlm.open import Request, open_vlm
from tests import local_server
from tests.local_server import QuietHandler

ROOT = Path(__file__).parents[1]
MODELS = {"data": [{"id": "loopback"}]}


@dataclass(frozen=True)
class Reply:
    """A response of the server; a text becomes the answer to a chat, a dict is sent as it is."""

    content: str | dict
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        if isinstance(self.content, dict):
            return json.dumps(self.content).encode()
        if self.status != 200:
            return self.content.encode()
        return json.dumps({"choices": [{"message": {"content": self.content}}]}).encode()


@contextmanager
def serving(
    answer: Callable[[dict], Reply | None],
    *,
    models: Callable[[], Reply | None] = lambda: Reply(MODELS),
) -> Iterator[str]:
    """Answer every chat with `answer(body)`, each on its own thread, and yield the address.

    If the answer is None, the connection is closed instead.
    """

    class Handler(QuietHandler):
        def do_GET(self):
            self.send(models())

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            self.send(answer({**json.loads(self.rfile.read(length)), "headers": dict(self.headers)}))

        def send(self, reply: Reply | None):
            if reply is None:
                self.close_connection = True
                return
            body = reply.body()
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with local_server.serving(Handler) as address:
        yield f"{address}/v1"


@contextmanager
def elsewhere(delay: float) -> Iterator[str]:
    """Run the server in a separate process, like a real one, with `delay` seconds for each answer."""
    command = [sys.executable, "-m", "tests.loopback", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def answers_per_second(address: str, in_flight: int, count: int) -> float:
    """Return how many answers a second the server gives with `in_flight` requests in flight."""
    vlm = open_vlm(address, in_flight=in_flight)
    start = time.perf_counter()
    answered = sum(1 for _ in vlm.ask_many(Request("same?") for _ in range(count)))
    return answered / (time.perf_counter() - start)


def speedup(in_flight: int = 32, *, rounds: int = 10, delay: float = 0.2) -> float:
    """Return how many times as fast `in_flight` requests at a time are as one, over `rounds` rounds each."""
    with elsewhere(delay) as address:
        many = answers_per_second(address, in_flight, rounds * in_flight)
        return many / answers_per_second(address, 1, rounds)


def main() -> None:
    if len(sys.argv) == 1:
        print(f"32 in flight against 1: {speedup():.1f} times as fast")
        return
    delay = float(sys.argv[1])

    def late(_: dict) -> Reply:
        time.sleep(delay)
        return Reply("same")

    with serving(late) as address:
        print(address, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
