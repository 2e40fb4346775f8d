"""Answers on disk as they arrive, so that after a kill or an outage nothing is asked twice."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from dsd.files import jsonl
from dsd.files.jsonl import Record
from dsd.vlm.base import VLM, Request

FILE = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Answer(Record):
    """A row of `answers.jsonl`; the id is a hash of the request and the model."""

    answer: str


class Recorded(VLM):
    """A model whose answers are written to a run's folder at once, and are used by the next command.

    An answer belongs to a request and a model. `forget` removes the answers once their rows are on disk.
    """

    def __init__(self, vlm: VLM, folder: Path, process: int = 0):
        self.vlm, self.path, self.shard = vlm, folder / FILE, jsonl.shard(folder / FILE, process)
        self.name, self.weights, self.batch = vlm.name, vlm.weights, vlm.batch

    @cached_property
    def _known(self) -> dict[str, str]:
        return {row.id: row.answer for row in jsonl.read_records(self.path, Answer)}

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        """Yield one answer for each request, in order; ask only for those that are not on disk."""
        order: deque[tuple[str, str | None]] = deque()

        def pick_unanswered() -> Iterator[Request]:
            for request in requests:
                key = self._hash_request(request)
                order.append((key, self._known.get(key)))
                if key not in self._known:
                    yield request

        with jsonl.explain_errors(self.shard), self._open_shard() as file:
            for text in self.vlm.ask_many(pick_unanswered()):
                while (known := order[0][1]) is not None:
                    order.popleft()
                    yield known
                file.write(jsonl.to_line({"id": order.popleft()[0], "answer": text}))
                yield text
        yield from (known for _, known in order)

    def _open_shard(self) -> BinaryIO:
        """Open the shard to append to, without the incomplete line of a killed command."""
        if self.shard.exists():
            jsonl.write_rows(self.shard, jsonl.read(self.shard))
        self.shard.parent.mkdir(parents=True, exist_ok=True)
        return self.shard.open("ab", buffering=0)

    def _hash_request(self, request: Request) -> str:
        digest = hashlib.sha256(repr((self.name, self.weights, request.question, request.seed)).encode())
        for image in request.images:
            digest.update(repr((image.mode, image.size)).encode() + image.tobytes())
        return digest.hexdigest()


def forget(folder: Path) -> None:
    """Remove the answers of all processes from a run's folder."""
    for file in jsonl.shards(folder / FILE):
        file.unlink(missing_ok=True)
