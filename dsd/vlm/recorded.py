"""Answers on disk as they arrive, so that after a kill or an outage nothing is asked twice."""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from dsd.files import jsonl
from dsd.files.jsonl import Record
from dsd.vlm.base import VLM, Request, VLMOptions

FILE = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Answer(Record):
    """A row of `answers.jsonl`; the id is a hash of the request, the model and its settings."""

    answer: str


@dataclass
class Asked:
    """A request in a stream, and its answer if that was on disk already."""

    key: str
    known: str | None
    is_written: bool = False


class Recorded(VLM):
    """A model whose answers are written to a run's folder at once, and are used by the next command.

    They are written in the order in which they arrive. An answer belongs to a request, a model and its
    settings. `forget` removes the answers once their rows are on disk.
    """

    def __init__(self, vlm: VLM, folder: Path, process: int = 0):
        self.vlm, self.path, self.shard = vlm, folder / FILE, jsonl.shard(folder / FILE, process)
        self.name, self.weights, self.batch, self.options = vlm.name, vlm.weights, vlm.batch, vlm.options
        self._lock = Lock()
        self._written: dict[str, str] = {}  # answers of this process, by request

    @cached_property
    def _known(self) -> dict[str, str]:
        """Return the answers on disk, by request; cut off the incomplete line of a killed command."""
        if self.shard.exists():  # once, because a new file would take no answers of a stream under way
            jsonl.write_rows(self.shard, jsonl.read(self.shard))
        return {row.id: row.answer for row in jsonl.read_records(self.path, Answer)}

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield one answer for each request, in order; ask only for those that are not on disk."""
        order: deque[Asked] = deque()
        with jsonl.explain_errors(self.shard), self._lock:
            self._known.update(self._written)

        def pick_unanswered() -> Iterator[Request]:
            for request in requests:
                order.append(self._look_up(request))
                if order[-1].known is None:
                    yield replace(request, on_answer=partial(self._write, file, order[-1]))

        with jsonl.explain_errors(self.shard), self._open_shard() as file:
            for text in self.vlm.ask_many(pick_unanswered()):
                while order[0].known is not None:
                    yield order.popleft().known
                self._write(file, order.popleft(), text)
                yield text
        yield from (asked.known for asked in order)

    def _write(self, file: BinaryIO, asked: Asked, text: str) -> None:
        """Write an answer once, from any thread."""
        with self._lock:
            if not asked.is_written:
                file.write(jsonl.to_line({"id": asked.key, "answer": text}))
                asked.is_written, self._written[asked.key] = True, text

    def _open_shard(self) -> BinaryIO:
        self.shard.parent.mkdir(parents=True, exist_ok=True)
        return self.shard.open("ab", buffering=0)

    def _look_up(self, request: Request) -> Asked:
        digest = hashlib.sha256(repr((self.name, self.weights, request.question, request.seed)).encode())
        for image in request.images:
            digest.update(repr((image.mode, image.size)).encode() + image.tobytes())
        old = digest.hexdigest()  # the id of older versions, whose settings were the defaults unless changed
        settings, defaults = (_settings_of(options, request) for options in (self.options, VLMOptions()))
        digest.update(json.dumps([settings, request.schema]).encode())
        known = self._known.get(digest.hexdigest())
        if known is None and settings == defaults:
            known = self._known.get(old)
        return Asked(digest.hexdigest(), known)


def _settings_of(options: VLMOptions, request: Request) -> tuple[int, float | None]:
    """Return the settings that change an answer: the temperature only where the answer is sampled."""
    return options.max_tokens, None if request.seed is None else options.temperature


def forget(folder: Path) -> None:
    """Remove the answers of all processes from a run's folder."""
    for file in jsonl.shards(folder / FILE):
        file.unlink(missing_ok=True)
