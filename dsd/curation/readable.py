"""The check of a judged run for answers that cannot be read, and what to do about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dsd.curation.verdict import UNREADABLE, Judged
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.vlm.answers import likely_cause
from dsd.vlm.recorded import forget

MOST = 0.2  # share of unreadable pairs with which a run goes on
PAIRS = 50  # number of pairs from which the share counts


@dataclass
class Readable:
    """Counts the pairs that a judge was asked about, and those whose answers could not be read."""

    asked: int = 0
    questions: int = 0
    unreadable: int = 0
    example: str = ""

    def add(self, pairs: Iterable[Judged]) -> None:
        for pair in pairs:
            self.asked += bool(pair.answers)
            self.questions += len(pair.answers) + len(pair.repeated)
            if pair.reason == UNREADABLE:
                self.unreadable += 1
                self.example = self.example or pair.answers[pair.votes.index(None)]

    def check(self, *, at_end: bool = False) -> None:
        """Raise RunError if too many are unreadable; a run of few pairs is checked at its end, for a half."""
        is_short = self.asked < PAIRS
        if self.unreadable <= (0.5 if is_short else MOST) * self.asked or (is_short and not at_end):
            return
        raise RunError(
            f"{self.unreadable} of {self.asked} pairs have unreadable answers, such as "
            f"{self.example[:300]!r}: {likely_cause(self.example)}, then run the same command again, which "
            "asks about these pairs again; all other answers are kept"
        )


def ask_again(path: Path) -> int:
    """Remove the unreadable rows of a run that was stopped because of them; return their number.

    Recorded answers are removed as well, because they were given under the same settings.
    """
    counts = Readable()
    counts.add(jsonl.read_records(path, Judged))
    try:
        counts.check(at_end=True)
    except RunError:
        with jsonl.writing(jsonl.shard(path, 0)):
            jsonl.merge(path, keep=lambda row: row["reason"] != UNREADABLE)
        forget(path.parent)
        return counts.unreadable
    return 0
