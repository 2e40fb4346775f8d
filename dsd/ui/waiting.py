"""The queue of requests: a share for each visitor, and an end for requests that nobody waits for.

Gradio's queue serves in order of arrival, runs every request to its end, and lets one visitor fill it.
"""

import asyncio
import ipaddress
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import run_coro_in_background

from dsd.ui import request_log, sessions

SHARE = 10  # waiting requests of one visitor, of the queue's 20
UNREAD = 30  # seconds after which a request whose answer nobody reads is canceled
CHECK = 1.0  # seconds between checks
STOPPED = "The server is stopping, so this was not finished: try again in a minute."


def network(address: str) -> str:
    """Return an address, or of an IPv6 address its network: a visitor has all addresses of a /64."""
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((given, 64), strict=False)) if given.version == 6 else address


class FairQueue(Queue):
    """Gradio's queue with limits; `time_limit` is in seconds, None for no limit."""

    time_limit: float | None = None
    by_address = False  # whether all sessions of an address share its share

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.readers: Counter[str] = Counter()  # session -> open connections that read its answers
        self.last_read: dict[str, float] = {}

    def visitor(self, session: str | None, request: Any) -> str:
        """Return who sent a request: its session, or its address if it is known or there is no session."""
        address = network(request.client.host) if request.client else ""
        return f"address {address}" if self.by_address or not session else f"session {session}"

    def waiting(self) -> list[Event]:
        return [event for each in self.event_queue_per_concurrency_id.values() for event in each.queue]

    def running(self) -> list[Event]:
        return [event for job in self.active_jobs for event in job or () if event.alive]

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Add a request, unless the queue or the visitor's share of it is full."""
        if (length := len(body.session_hash or "")) > sessions.LONGEST:
            text = f"session_hash must have at most {sessions.LONGEST} characters, got {length}"
            return False, text, "error"
        who, waiting = self.visitor(body.session_hash, request), self.waiting()
        if self.max_size is not None and len(waiting) >= self.max_size:
            text = f"the queue is full ({len(waiting)} are waiting): try again in a minute"
            return False, text, "queue_full"
        if sum(event.visitor == who for event in waiting) >= SHARE:
            text = f"your share of the queue is full ({SHARE} are waiting): wait for one of them"
            return False, text, "queue_full"
        added, answer, kind = await super().push(body, request, username)
        if added and (event := self.event_ids_to_events.get(answer)):
            event.visitor = who
            self._order(self.event_queue_per_concurrency_id[event.concurrency_id])
            self.broadcast_estimations(event.concurrency_id)
        return added, answer, kind

    def _order(self, line: EventQueue) -> None:
        """Order the requests so that every visitor's first comes before anyone's second."""
        number: Counter[str] = Counter()
        rounds = {}
        for event in line.queue:
            rounds[event] = number[event.visitor]
            number[event.visitor] += 1
        line.queue.sort(key=rounds.__getitem__)

    async def clean_events(self, **which: Any) -> None:
        await self._leave(super().clean_events(**which))

    async def remove_from_queue(self, event_id: str) -> None:
        await self._leave(super().remove_from_queue(event_id))

    async def _leave(self, leaving: Awaitable[None]) -> None:
        """Log what leaves while it waits, and tell the others their new places, which gradio does not."""
        before = self.waiting()
        await leaving
        stay = [*self.waiting(), *self.running()]
        for event in before:
            if event not in stay:
                self._log(event)
        for lane in self.event_queue_per_concurrency_id:
            self.broadcast_estimations(lane)

    def _log(self, event: Event) -> None:
        name = event.fn.api_name if event.fn.api_visibility == "public" else "page"
        whole, run = time.monotonic() - event.enqueue_time, event.run_time
        outcome = getattr(event, "outcome", "canceled")
        request_log.write(event=name, seconds=round(whole, 3), run=round(run, 3), outcome=outcome)

    def send_message(self, event: Event, event_message: Any) -> None:
        if isinstance(event_message, ProcessCompletedMessage):
            event.outcome = "done" if event_message.success else "failed"
        super().send_message(event, event_message)

    async def process_events(self, events: list[Event], *args: Any, **options: Any) -> None:
        """Run an event, and write what became of it to the log of requests."""
        try:
            await super().process_events(events, *args, **options)
        finally:
            for event in events:
                self._log(event)

    def start(self) -> None:
        super().start()
        self.loop = asyncio.get_running_loop()
        run_coro_in_background(self.watch)

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """Count an open connection that reads the answers of a session."""
        self.readers[session] += 1
        try:
            yield
        finally:
            self.readers[session] -= 1
            self.last_read[session] = time.monotonic()
            self.readers += Counter()  # drops those without a reader

    async def watch(self) -> None:
        """End requests that nobody reads or that take too long, as long as the queue runs."""
        while not self.stopped:
            await asyncio.sleep(CHECK)
            now = time.monotonic()
            self.last_read = {name: at for name, at in self.last_read.items() if now - at < UNREAD}
            for event in [*self.waiting(), *self.running()]:
                if problem := self._overdue(event, now):
                    await self.end(event, problem)

    def _overdue(self, event: Event, now: float) -> str | None:
        if self.time_limit and event.run_time > self.time_limit:
            return f"This took more than {self.time_limit:g} seconds: ask for fewer or smaller images."
        last = max(event.enqueue_time, self.last_read.get(event.session_hash, 0.0))
        is_read = self.readers[event.session_hash] or now - last < UNREAD
        return None if is_read else f"Nobody read the answer for {UNREAD} seconds, so this was canceled."

    async def end(self, event: Event, problem: str) -> None:
        """Cancel a request; a running one ends after its current step."""
        if event.session_hash in self.pending_messages_per_session:
            self.send_message(event, ProcessCompletedMessage(output={"error": problem}, success=False))
        await self.clean_events(event_id=event._id)

    async def drain(self, seconds: float) -> None:
        """End what waits, give what runs some seconds to finish, and then end it too."""
        for event in self.waiting():
            await self.end(event, STOPPED)
        await self._idle(seconds)
        for event in self.running():
            await self.end(event, STOPPED)
        await self._idle(seconds)

    async def _idle(self, seconds: float) -> None:
        """Wait until nothing runs, but at most some seconds."""
        until = time.monotonic() + seconds
        while any(self.active_jobs) and time.monotonic() < until:
            await asyncio.sleep(0.05)
