"""Which sessions the server keeps: those of pages before those of programs, whose state is empty.

Gradio keeps a copy of the page for every session and forgets the one that was used longest ago. Every API
call is a session, so that a few programs would empty the pages of all visitors.
"""

from itertools import islice
from typing import Any

PAGES = 100
PROGRAMS = 20
CAPACITY = 10_000  # at which gradio itself would forget sessions; `trim` comes first


def mark(session: Any, visibility: str) -> None:
    """Mark the session of an event as a page's if only pages use such events."""
    session.is_page = getattr(session, "is_page", False) or visibility == "private"


def trim(holder: Any) -> None:
    """Forget the oldest sessions of each kind beyond their number."""
    with holder.lock:
        kept = list(holder.session_data.items())  # ordered by last use
        for is_page, number in ((True, PAGES), (False, PROGRAMS)):
            names = [name for name, one in kept if getattr(one, "is_page", False) == is_page]
            for name in islice(names, max(0, len(names) - number)):
                holder.session_data.pop(name, None)
                holder.time_last_used.pop(name, None)
