"""The app under load from many clients: `python -m tests.load`, one line of JSON for each part.

A real app process with the embedded model gets requests over HTTP, as web pages and programs send them. Every
client has a different drawn critter and every request a different seed. Both are stored in the returned
image, so that an image that reaches the wrong client is detected.
"""

import argparse
import itertools
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from dsd.files import intake
from dsd.files.jsonl import Row
from dsd.generate import provenance
from dsd.model import canvas
from dsd.pocket.draw import draw
from dsd.pocket.phrases import phrase
from dsd.pocket.world import sample_context, sample_critter

ROOT = Path(__file__).resolve().parents[1]
API = "/gradio_api"
WARM = 120  # images before memory is first read: by then the app keeps the maximum number of sessions
START = 900  # seconds that a busy machine may take to start the app
LONG = 100  # steps of an image that will be canceled
DONE, FULL = "process_completed", "queue full"


@dataclass(frozen=True)
class App:
    """A running app."""

    http: httpx.Client
    process: subprocess.Popen
    folder: Path  # of its temporary files
    generate: int  # Gradio's number of the endpoint, which a cancel request must name

    @property
    def memory(self) -> float:
        """Return the resident memory in MB."""
        ps = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        return int(subprocess.run(ps, capture_output=True, text=True, check=True).stdout) / 1024

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


@contextmanager
def serving(folder: Path, *flags: str, log: Path | None = None, **variables: str) -> Iterator[App]:
    """Run `python app.py` on a free port with temporary files in `folder`; terminate it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = {"TMPDIR": str(folder), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": ""} | variables
    command = [sys.executable, "app.py", "--port", str(port), *flags]
    with open(log or os.devnull, "ab") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | private, stdout=said, stderr=subprocess.STDOUT
        )
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False, limits=limits
    ) as http:
        try:
            yield App(http, process, folder, _endpoint(http, process))
        finally:
            process.terminate()
            process.wait(30)


def _endpoint(http: httpx.Client, process: subprocess.Popen) -> int:
    """Wait until the app answers, and return Gradio's number of its `generate` endpoint."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.TransportError):
            listed = http.get("/config").json()["dependencies"]
            return next(entry["id"] for entry in listed if entry["api_name"] == "generate")
        time.sleep(0.1)
    raise RuntimeError(f"the app did not answer within {START} s, or ended: {process.poll()}")


@dataclass
class Client:
    """A client with one subject."""

    app: App
    number: int
    seeds: Iterator[int] = field(init=False)
    file: str = field(init=False)  # path of the upload on the server

    def __post_init__(self) -> None:
        self.seeds = itertools.count(1_000_000 * (self.number + 1))
        self.random = random.Random(self.number)
        rng = np.random.default_rng([5, self.number])
        critter = sample_critter(rng)
        self.image = draw(critter, sample_context(rng))
        self.prompt = phrase(critter, sample_context(rng), rng)
        sent = BytesIO()
        self.image.save(sent, "PNG")
        upload = {"files": (f"critter-{self.number}.png", sent.getvalue())}
        (self.file,) = self.app.http.post(f"{API}/upload", files=upload).raise_for_status().json()

    def join(self, steps: int) -> tuple[str, int] | None:
        """Join the queue and return the ticket and the seed; return None if the queue is full."""
        seed = next(self.seeds)
        image = {"path": self.file, "meta": {"_type": "gradio.FileData"}}
        body = {"image": image, "prompt": self.prompt, "steps": steps, "seed": seed}
        reply = self.app.http.post(f"{API}/call/v2/generate", json=body)
        if reply.status_code == 503 and "full" in reply.text:
            return None
        return reply.raise_for_status().json()["event_id"], seed

    def follow(self, ticket: str) -> Iterator[dict]:
        """Yield the server's messages about a ticket until it is done; closing the generator disconnects."""
        address = f"{API}/queue/data"
        with self.app.http.stream("GET", address, params={"session_hash": ticket}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    yield (message := json.loads(line[5:]))
                    if message["msg"] == DONE:
                        return

    def cancel(self, ticket: str) -> None:
        body = {"session_hash": ticket, "event_id": ticket, "fn_index": self.app.generate}
        self.app.http.post(f"{API}/cancel", json=body).raise_for_status()

    def owns(self, output: dict, seed: int) -> bool:
        """Return whether this answer is an image of this client's subject, prompt and seed."""
        (file,), (said,) = output["data"]
        data = self.app.http.get(f"{API}/file={file['path']}").raise_for_status().content
        with Image.open(BytesIO(data)) as image:
            settings, frame = provenance.read_settings(image), provenance.read_reference(image)
        expected = canvas.fit(self.image, *self.image.size)
        mine = (settings["seed"], settings["prompt"]) == (seed, intake.check_prompt(self.prompt))
        return said == seed and mine and frame.tobytes() == expected.tobytes()


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

    A fickle client cancels and a vanishing one disconnects, both when drawing has begun.
    """
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


def _end(client: Client, tally: Tally, message: dict, seed: int, seconds: float) -> str:
    if not message["success"]:
        return f"error: {str(message['output'].get('error'))[:80]}"
    if not client.owns(message["output"], seed):
        return "somebody else's image"
    with tally.lock:
        tally.seconds.append(seconds)
    return "image"


def crowd(app: App, clients: int, seconds: float, steps: int) -> Row:
    """Run all clients at once, request after request; one in ten is canceled and one in ten abandoned."""
    tally, until = Tally(), time.monotonic() + seconds
    people = [Client(app, number) for number in range(clients)]

    def live(client: Client) -> None:
        while time.monotonic() < until:
            mood = client.random.choices(("patient", "fickle", "vanishing"), (8, 1, 1))[0]
            try:
                end = once(client, tally, steps, mood)
            except Exception as error:  # count it: a dead thread would hide the error
                end = f"error: {error!r}"[:80]
            tally.add(end)
            if end == FULL:
                time.sleep(client.random.uniform(0.5, 1.5))  # as a person would before a retry

    threads = [threading.Thread(target=live, args=(client,)) for client in people]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return {"part": "crowd", "clients": clients, "seconds": round(seconds), "steps": steps} | _summed(tally)


def _summed(tally: Tally) -> Row:
    bad = [end for end in tally.ends if end.startswith("error")]
    known = ("image", FULL, "cancelled", "vanished", "no answer", "somebody else's image")
    times = sorted(tally.seconds) or [float("nan")]
    return {
        **{end: tally.ends[end] for end in known},
        "errors": sum(tally.ends[end] for end in bad),
        "first errors": bad[:3],
        "told a place": len(tally.places),
        "s to an image, median": round(statistics.median(times), 2),
        "s to an image, 95 %": round(times[int(0.95 * (len(times) - 1))], 2),
    }


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
    parser.add_argument("--minutes", type=float, default=5.0, help="how long they send requests (5)")
    parser.add_argument("--images", type=int, default=500, help="images in a row, for the memory (500)")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps of an image (4)")
    args = parser.parse_args()
    for row in load(args.clients, args.minutes, args.images, args.steps):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
