"""Which sessions the server keeps: those of pages before those of programs, whose state is empty.

Gradio keeps a copy of the page for every session and forgets the one that was used longest ago. Every API
call is a session, so that a few programs would empty the pages of all visitors.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

PAGES = 100
PROGRAMS = 20
LONGEST = 100  # characters of a session's name; those of pages have 11
CAPACITY = 10_000  # at which gradio itself would forget sessions; `trim` comes first

_open: Counter[str] = Counter()  # session -> connections of its page


def mark(session: Any, visibility: str) -> None:
    """Mark the session of an event as a page's if only pages use such events."""
    session.is_page = getattr(session, "is_page", False) or visibility == "private"


@contextmanager
def connected(name: str) -> Iterator[None]:
    """Count a page that is open in a browser, which keeps a connection for as long."""
    _open[name] += 1
    try:
        yield
    finally:
        _open[name] -= 1
        if not _open[name]:
            del _open[name]


def trim(holder: Any) -> None:
    """Forget the sessions of each kind beyond their number: closed pages first, then the oldest."""
    with holder.lock:
        # Ordered by last use; a name that is too long would take more memory than its session.
        kept = {name: one for name, one in holder.session_data.items() if len(name) <= LONGEST}
        gone = list(holder.session_data.keys() - kept.keys())
        for is_page, number in ((True, PAGES), (False, PROGRAMS)):
            names = [name for name, one in kept.items() if getattr(one, "is_page", False) == is_page]
            gone += islice(sorted(names, key=_open.__contains__), max(0, len(names) - number))
        for name in gone:
            holder.session_data.pop(name, None)
            holder.time_last_used.pop(name, None)
