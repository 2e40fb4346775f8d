"""The check of a judged run for answers that cannot be read or are refused, and what to do about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dsd.curation.verdict import REFUSED, UNREADABLE, Judged
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.vlm.answers import likely_cause
from dsd.vlm.base import is_refused
from dsd.vlm.recorded import forget

MOST = 0.2  # share of unreadable pairs with which a run goes on
LOST = (UNREADABLE, REFUSED)
PAIRS = 50  # number of pairs from which the share counts


@dataclass
class Readable:
    """Counts the pairs that a judge was asked about, and those that have no readable answer."""

    asked: int = 0
    questions: int = 0
    unreadable: int = 0
    refused: int = 0
    example: str = ""

    def add(self, pairs: Iterable[Judged]) -> None:
        for pair in pairs:
            self.asked += bool(pair.answers)
            self.questions += len(pair.answers) + len(pair.repeated)
            self.unreadable += pair.reason == UNREADABLE
            self.refused += pair.reason == REFUSED
            if pair.reason in LOST:
                self.example = self.example or find_example(pair)

    def check(self, *, at_end: bool = False) -> None:
        """Raise RunError if too many are unreadable, or none is readable, because all others are refused.

        A run of few pairs is checked at its end, for a half.
        """
        is_short = self.asked < PAIRS
        if is_short and not at_end:
            return
        if 0 < self.asked == self.unreadable + self.refused:
            problem = f"all {self.asked} pairs were refused or cannot be read"
        elif self.unreadable > (0.5 if is_short else MOST) * self.asked:
            problem = f"{self.unreadable} of {self.asked} pairs have unreadable answers"
        else:
            return
        raise RunError(
            f"{problem}, such as {self.example[:300]!r}: {likely_cause(self.example)}, then run the same "
            "command again, which asks about these pairs again; all other answers are kept"
        )


def find_example(pair: Judged) -> str:
    """Return an answer without a verdict, a refused one first."""
    return next(filter(is_refused, pair.answers), pair.answers[pair.votes.index(None)])


def ask_again(path: Path) -> int:
    """Remove the unreadable and refused rows of a run that was stopped because of them; return their number.

    Recorded answers are removed as well, because they were given under the same settings.
    """
    counts = Readable()
    counts.add(jsonl.read_records(path, Judged))
    try:
        counts.check(at_end=True)
    except RunError:
        with jsonl.writing(jsonl.shard(path, 0)):
            jsonl.merge(path, keep=lambda row: row["reason"] not in LOST)
        forget(path.parent)
        return counts.unreadable + counts.refused
    return 0
