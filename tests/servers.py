"""A judge behind an address, for tests: time that does not pass, and answers by script."""

import socket
import threading

from dsd.vlm.open import Request, open_vlm
from tests.loopback import Reply


class Clock:
    """Time that only sleeping moves."""

    def __init__(self):
        self.now, self.slept, self.lock = 0.0, [], threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self.lock:
            self.now += seconds
            self.slept.append(seconds)


def judge(address: str, clock: Clock, **options):
    vlm = open_vlm(address, **options)
    vlm.client.clock, vlm.client.sleep = clock, clock.sleep
    return vlm


def script(*replies: Reply | None):
    """Answers in this order, then `fine`; the list grows by every chat that arrives."""
    seen, left = [], list(replies)

    def answer(body: dict) -> Reply | None:
        seen.append(body)
        return left.pop(0) if left else Reply("fine")

    return answer, seen


def words(count: int) -> list[Request]:
    return [Request(f"question {i}") for i in range(count)]


def question(body: dict) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
