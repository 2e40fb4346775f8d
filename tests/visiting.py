"""A running app for tests, and clients of it that send requests as web pages and programs do.

Every client has a different drawn critter and every request a different seed. Both are stored in the returned
image, so that an image that reaches the wrong client is detected.
"""

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from dsd.files import intake
from dsd.generate import provenance
from dsd.model import canvas
from dsd.pocket.draw import draw
from dsd.pocket.phrases import phrase
from dsd.pocket.world import sample_context, sample_critter

ROOT = Path(__file__).resolve().parents[1]
API = "/gradio_api"
START = 900  # seconds that a busy machine may take to start the app
DONE = "process_completed"


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
        reply = self._post(steps=steps, seed=seed)
        if reply.status_code == 503 and "full" in reply.text:
            return None
        return reply.raise_for_status().json()["event_id"], seed

    def _post(self, **values: object) -> httpx.Response:
        image = {"path": self.file, "meta": {"_type": "gradio.FileData"}}
        body = {"image": image, "prompt": self.prompt} | values
        return self.app.http.post(f"{API}/call/v2/generate", json=body)

    def refusal(self, **values: object) -> str:
        """Return the sentence that refuses a request with wrong values, or nothing if it is accepted."""
        reply = self._post(**{"steps": 1, **values})
        if reply.status_code != 200:
            return str(reply.json()["detail"])
        *_, done = self.follow(reply.json()["event_id"])
        return "" if done["success"] else str(done["output"]["error"])

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
