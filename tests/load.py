"""The app under load from many clients: `python -m tests.load`, one line of JSON for each part.

A real app process with the embedded model gets requests over HTTP from patient clients and from others: some
cancel, some disconnect, and some send what is refused.
"""

import argparse
import json
import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dsd.files.jsonl import Row
from tests.visiting import DONE, App, Client, serving

WARM = 120  # images before memory is first read: by then the app keeps the maximum number of sessions
LONG = 100  # steps of an image that will be canceled
FULL = "queue full"
MOODS = {"patient": 7, "fickle": 1, "vanishing": 1, "bad": 1}  # of ten requests
# What a bad client sends in place of good values, and a word of the sentence that refuses it.
BAD = (
    ({"steps": "many"}, "steps"),
    ({"prompt": ""}, "prompt"),
    ({"image": None}, "image"),
    ({"image": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "image"),
    ({"width": -1}, "width"),
    ({"bogus": 1}, "bogus"),
)


@dataclass
class Tally:
    """The outcomes of all requests."""

    ends: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # from request to image
    places: list[int] = field(default_factory=list)  # in the queue, as reported to clients
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, end: str, seconds: float | None = None) -> None:
        with self.lock:
            self.ends[end] += 1
            self.seconds += [] if seconds is None else [seconds]


def once(client: Client, tally: Tally, steps: int, mood: str = "patient") -> str:
    """Follow one request to its end and return the outcome.

    A fickle client cancels and a vanishing one disconnects, both when drawing has begun; a bad one sends what
    is refused.
    """
    if mood == "bad":
        return _refused(client)
    began = time.monotonic()
    joined = client.join(steps)
    if joined is None:
        return FULL
    ticket, seed = joined
    for message in client.follow(ticket):
        if message["msg"] == "estimation":
            tally.places.append(message["rank"])
        if message["msg"] == "process_generating" and mood == "vanishing":
            return "vanished"
        if message["msg"] == "process_generating" and mood == "fickle":
            client.cancel(ticket)
            return "cancelled"
        if message["msg"] == DONE:
            return _end(client, tally, message, seed, time.monotonic() - began)
    return "no answer"


def _refused(client: Client) -> str:
    values, word = client.random.choice(BAD)
    said = client.refusal(**values)
    if "queue is full" in said.lower():
        return FULL
    return "refused" if word in said.lower() else f"error: {values} got {said!r}"[:160]


def _end(client: Client, tally: Tally, message: dict, seed: int, seconds: float) -> str:
    if not message["success"]:
        return f"error: {str(message['output'].get('error'))[:80]}"
    if not client.owns(message["output"], seed):
        return "somebody else's image"
    with tally.lock:
        tally.seconds.append(seconds)
    return "image"


def crowd(app: App, clients: int, seconds: float, steps: int) -> Row:
    """Run all clients at once, request after request, in changing `MOODS`; watch the app's memory."""
    tally, until, memory = Tally(), time.monotonic() + seconds, [app.memory]
    people = [Client(app, number) for number in range(clients)]

    def live(client: Client) -> None:
        while time.monotonic() < until:
            mood = client.random.choices([*MOODS], [*MOODS.values()])[0]
            try:
                end = once(client, tally, steps, mood)
            except Exception as error:  # count it: a dead thread would hide the error
                end = f"error: {error!r}"[:80]
            tally.add(end)
            if end == FULL:
                time.sleep(client.random.uniform(0.5, 1.5))  # as a person would before a retry

    threads = [threading.Thread(target=live, args=(client,)) for client in people]
    [thread.start() for thread in threads]
    while any(thread.is_alive() for thread in threads):
        memory.append(app.memory)
        time.sleep(1)
    about = {"part": "crowd", "clients": clients, "seconds": round(seconds), "steps": steps}
    return about | _summed(tally) | {"MB before": round(memory[0]), "MB at most": round(max(memory))}


def _summed(tally: Tally) -> Row:
    bad = [end for end in tally.ends if end.startswith("error")]
    known = ("image", FULL, "cancelled", "vanished", "refused", "no answer", "somebody else's image")
    times = sorted(tally.seconds) or [float("nan")]
    return {
        **{end: tally.ends[end] for end in known},
        "errors": sum(tally.ends[end] for end in bad),
        "first errors": bad[:3],
        "told a place": len(tally.places),
        **{f"s to an image, {share} %": _share(times, share) for share in (50, 90, 95, 99, 100)},
    }


def _share(times: list[float], share: int) -> float:
    """Return the seconds in which this share of the images came, in percent."""
    return round(times[math.ceil(share / 100 * len(times)) - 1], 2)


def leaving(app: App, how: str) -> Row:
    """Measure the seconds from the end of one long request until the next in the queue begins."""
    first, second = Client(app, 1001), Client(app, 1002)
    started, begun = threading.Event(), []
    (long, _), (short, seed) = first.join(LONG), second.join(2)

    def wait() -> None:
        for message in second.follow(short):
            if message["msg"] == "process_starts":
                begun.append(time.monotonic())
            if message["msg"] == DONE:
                started.set() if second.owns(message["output"], seed) else None

    waiting = threading.Thread(target=wait)
    waiting.start()
    messages = first.follow(long)
    next(message for message in messages if message["msg"] == "process_generating")
    left = time.monotonic()
    if how == "cancels":
        first.cancel(long)
    messages.close()
    waiting.join()
    return {
        "part": f"one who {how}",
        "s until the next begins": round(begun[0] - left, 2),
        "next is right": started.is_set(),
    }


def row_of_images(app: App, count: int, steps: int) -> Row:
    """Draw images one after another; read memory after the first `WARM`, or half of them, and at the end."""
    client, tally = Client(app, 2000), Tally()
    began, before = time.monotonic(), None
    for number in range(count):
        if number == min(WARM, count // 2):
            before, files, began = app.memory, len(app.files), time.monotonic()
        tally.add(once(client, tally, steps))
    after, counted = app.memory, count - min(WARM, count // 2)
    return {
        "part": "in a row", "images": tally.ends["image"], "of": count, "steps": steps,
        "s an image": round((time.monotonic() - began) / counted, 3),
        "MB before": round(before, 1), "MB after": round(after, 1),
        "growth": round(after / before - 1, 4), "files before": files, "files after": len(app.files),
    }  # fmt: skip


def load(clients: int, minutes: float, images: int, steps: int) -> Iterator[Row]:
    """Yield the rows of all parts; the last counts temporary files left after the app was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        with serving(Path(folder)) as app:
            start = app.memory
            yield crowd(app, clients, 60 * minutes, steps)
            yield leaving(app, "cancels")
            yield leaving(app, "vanishes")
            yield row_of_images(app, images, steps)
            yield {"part": "memory", "MB at the start": round(start), "MB at the end": round(app.memory)}
        yield {"part": "stopped", "temporary files left": len(app.files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--clients", type=int, default=50, help="clients at once (50)")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long they send requests (10)")
    parser.add_argument("--images", type=int, default=500, help="images in a row, for the memory (500)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of an image (4)")
    args = parser.parse_args()
    for row in load(args.clients, args.minutes, args.images, args.steps):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
