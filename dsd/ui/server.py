"""What surrounds the page on its server: allowed hosts, limits, a health check, and a graceful stop.

One ASGI middleware, because gradio's own routes cannot be changed. What it refuses gets a sentence.
"""

import asyncio
import ipaddress
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gradio.route_utils import FnIndexInferError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dsd.ui import request_log, sessions, uploads
from dsd.ui.waiting import network

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SPACE_HOST = "SPACE_HOST"  # environment variable with a Space's own host name
SPACES = "huggingface.co"  # the site that shows a Space in a frame
HEALTH = "/healthz"
MAX_BODY = 64_000_000  # bytes of one request
MAX_SECONDS = 120  # for the whole body of one request to arrive
HOUR = 60  # minutes
MAX_HOURLY = 300_000_000  # bytes that one address may send in an hour
MAX_PATH = 8192  # characters of a request's path, which gradio resolves while all others wait
MAX_VALUES = 100_000  # of one request, which is parsed while all others wait
RUN = re.compile(r"/gradio_api/(run|api)/")
UPLOAD = "/gradio_api/upload"
REMEDY = "start the app with --allow-host"
STOPPING = "the server is stopping: try again in a minute"
# uvicorn takes the client's address from the headers of the proxies that this variable names.
PROXIES = "FORWARDED_ALLOW_IPS"
GRACE = 8  # seconds for the current drawing when the server is stopped
logger = logging.getLogger(__name__)


class Refused(HTTPException):
    """A request that is refused with a status code and a sentence."""


@dataclass
class Server:
    """The settings and the counters of a running server."""

    hosts: set[str] | None = None  # allowed in Host headers and origins; None: any host, its own origin only
    numeric: bool = False  # whether a Host may be a bare address, which no foreign site can point elsewhere
    trusts_proxy: bool = False  # whether addresses of clients are known, from a named proxy
    stopping: bool = False
    sent: dict[str, Counter[int]] = field(default_factory=dict)  # address -> minute -> bytes

    def check_host(self, headers: Headers) -> None:
        """Raise Refused for a Host header or an origin that is not allowed."""
        host, origin = host_name(headers.get("host", "")), headers.get("origin")
        if self.hosts is not None and host not in self.hosts and not (self.numeric and _is_address(host)):
            raise Refused(403, f'the host "{host[:80]}" is not allowed here: {REMEDY} {host[:80] or "HOST"}')
        if origin is None or (name := host_name(origin)) == host:
            return
        if name not in (self.hosts or ()):
            raise Refused(
                403, f'the origin "{origin[:80]}" is not allowed here: {REMEDY} {name[:80] or "HOST"}'
            )

    def charge(self, address: str, size: int) -> None:
        """Count bytes that an address sends; raise Refused beyond its share, if addresses are known."""
        if not self.trusts_proxy:
            return
        minute, address = int(time.monotonic() // 60), network(address)
        self.sent = {name: each for name, each in self.sent.items() if max(each) > minute - HOUR}
        each = self.sent.get(address, {})
        recent = Counter({at: count for at, count in each.items() if at > minute - HOUR})
        recent[minute] += size
        if size > 0 and recent.total() > MAX_HOURLY:
            limit = f"{MAX_HOURLY // 1_000_000} MB"
            raise Refused(429, f"more than {limit} came from your address in an hour: try again later")
        self.sent[address] = recent


def route_path(scope: Scope) -> str:
    """Return the path of a request without that of `--root-path`, which some proxies leave in place."""
    return scope["path"].removeprefix(urlsplit(scope.get("root_path", "")).path.rstrip("/"))


def host_name(text: str) -> str:
    """Return the host name of a Host header or of an origin, in lower case, without port and brackets."""
    try:
        return (urlsplit(text if "://" in text else f"//{text}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def make(allow: Iterable[str] = (), *, host: str | None = None, proxies: Sequence[str] = ()) -> Server:
    """Return the settings of a server at this address, loopback if None.

    Served to a network without a list, it takes every Host, but no origin other than its own.
    """
    host = host_name(host or os.environ.get("GRADIO_SERVER_NAME") or "localhost")  # as gradio chooses it
    names = {host_name(name) for name in allow}
    if space := os.environ.get(SPACE_HOST):
        names |= {host_name(space), SPACES}
    is_local = host in LOOPBACK
    hosts = names | LOOPBACK | {host} if names or is_local else None
    if proxies:
        os.environ[PROXIES] = ",".join(proxies)
    return Server(hosts=hosts, numeric=not is_local, trusts_proxy=bool(proxies))


def check(allow: Iterable[str], proxies: Iterable[str]) -> None:
    """Raise ValueError for a --allow-host that names no host, or a --trust-proxy that names no address."""
    for name in allow:
        if not host_name(name) or "*" in name or "/" in name.split("://")[-1]:
            raise ValueError(f"--allow-host takes a host name such as images.example.org, got {name!r}")
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError as error:
            raise ValueError(f"--trust-proxy takes an address or a network, got {proxy!r}") from error


def run_until_stopped(page: Any, server: Server) -> None:
    """Serve until a signal; then finish or end the current drawing, tell who waits, and remove all files."""
    try:
        while page.is_running:
            time.sleep(0.1)
    except (KeyboardInterrupt, OSError):
        server.stopping = True
        stop = page._queue.drain(GRACE)
        with suppress(Exception, KeyboardInterrupt):  # a second signal stops it at once
            asyncio.run_coroutine_threadsafe(stop, page._queue.loop).result(3 * GRACE)
    finally:
        page.close(verbose=False)


def refuse(request: Any, error: Exception) -> JSONResponse:
    """Answer a request that gradio's routes cannot read, with a sentence that names the field."""
    name = request.path_params.get("api_name")
    if isinstance(error, KeyError | FnIndexInferError) and name:
        return JSONResponse({"detail": f'there is no endpoint "/{name[:80]}": see Use via API'}, 404)
    if missing := re.search(r"required argument: (\w+)", str(error)):
        return JSONResponse({"detail": f"{missing[1]} is missing: give it a value"}, 422)
    if unknown := re.search(r"Parameter `(.{1,80})` is not", str(error)):
        return JSONResponse({"detail": f"{unknown[1]} is no field of this endpoint: see Use via API"}, 422)
    logger.warning("a request could not be read", exc_info=error)
    return JSONResponse({"detail": "the request cannot be read: compare it with Use via API"}, 400)


REFUSALS = dict.fromkeys((TypeError, ValueError, LookupError, AttributeError, FnIndexInferError), refuse)


def guard(app: ASGIApp, server: Server) -> ASGIApp:
    """Return the app behind the checks of `server`."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        request = Request(scope, receive, send)
        try:
            await request.serve(app, server)
        except Refused as error:
            request.outcome = "refused"
            await request.refuse(error)
        except BaseException as error:
            request.outcome = "failed"
            # Gradio begins to answer who asks for a session that is gone, and then raises a status code.
            if not isinstance(error.__cause__, HTTPException):
                raise
            request.outcome = "refused"
            await send({"type": "http.response.body"})
        finally:
            request.record()

    return respond


class Request:
    """One request: what it may send, and what is logged about it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.headers = Headers(scope=scope)
        self.began = time.monotonic()
        self.received = self.sent = self.status = 0
        self.values = 0  # about as many as it has commas and brackets
        self.complete, self.outcome = False, "done"
        self.is_upload = route_path(scope) == UPLOAD

    async def serve(self, app: ASGIApp, server: Server) -> None:
        path, posts = self.scope["path"], self.scope["method"] == "POST"
        if path == HEALTH:
            state = ("stopping", 503) if server.stopping else ("ok", 200)
            return await JSONResponse({"status": state[0]}, state[1])(self.scope, self.receive, self.send)
        server.check_host(self.headers)
        if len(path) > MAX_PATH:
            raise Refused(414, f"the path of the request has more than {MAX_PATH} characters")
        with self._reading():
            await (self._serve_post(app, server) if posts else app(self.scope, self.receive, self.send))
        if posts:
            sessions.trim(self.scope["app"].state_holder)

    def _reading(self) -> AbstractContextManager[None]:
        """Tell the queue whose answers this request reads, or that a page is open, if it does that."""
        path = self.scope["path"]
        if "/heartbeat/" in path:
            return sessions.connected(path.rsplit("/", 1)[1])
        if path.endswith("/queue/data"):
            query = parse_qs(self.scope["query_string"].decode("latin-1"))
            session = query.get("session_hash", [""])[0]
        elif self.scope["method"] == "GET" and "/call/" in path:
            session = path.rsplit("/", 1)[1]
        else:
            return nullcontext()
        return self.scope["app"].get_blocks()._queue.reading(session)

    async def _serve_post(self, app: ASGIApp, server: Server) -> None:
        if server.stopping and not self.scope["path"].endswith("/cancel"):
            raise Refused(503, STOPPING)
        length = self.headers.get("content-length", "")
        size = int(length) if length.isascii() and length.isdigit() else MAX_BODY  # not stated: the most
        self._check_size(size)
        address = (self.scope.get("client") or ("",))[0]
        server.charge(address, size)
        try:
            with uploads.arriving(size) if self.is_upload else nullcontext():
                if self.is_upload and not await asyncio.to_thread(uploads.make_room):
                    raise Refused(507, uploads.FULL)
                await app(self.scope, self.receive, self.send)
        finally:
            server.charge(address, self.received - size)

    def _check_size(self, size: int) -> None:
        if size > MAX_BODY:
            limit = f"{MAX_BODY // 1_000_000} MB"
            raise Refused(413, f"the request has more than {limit}: send a smaller image")

    async def receive(self) -> Message:
        """Receive the next part of the body, within the limits of size and time."""
        if self.complete:
            return await self._receive()  # the client disconnects
        left = MAX_SECONDS - (time.monotonic() - self.began)
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError as error:
            raise Refused(408, f"the request took more than {MAX_SECONDS} seconds to arrive") from error
        self.complete = message["type"] != "http.request" or not message.get("more_body")
        body = message.get("body", b"")
        self.received += len(body)
        self._check_size(self.received)
        if not self.is_upload:
            self._check_values(body)
        return message

    def _check_values(self, body: bytes) -> None:
        self.values += sum(map(body.count, (b",", b"[", b"{")))
        if self.values > MAX_VALUES:
            raise Refused(413, f"the request has more than {MAX_VALUES:,} values: send fewer")

    async def send(self, message: Message) -> None:
        if message.get("status") == 500 and RUN.search(self.scope["path"]):
            message["status"] = 400  # gradio's answer to every gr.Error, such as a wrong value
        self.status = message.get("status", self.status)
        self.sent += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, error: Refused) -> None:
        if not self.status:  # nothing was sent yet
            answer = JSONResponse({"detail": error.detail}, error.status_code)
            await answer(self.scope, self.receive, self.send)

    def record(self) -> None:
        outcome = "refused" if self.outcome == "done" and self.status >= 400 else self.outcome
        request_log.write(
            method=self.scope["method"], route=getattr(self.scope.get("route"), "path", None),
            status=self.status, bytes_in=self.received, bytes_out=self.sent,
            seconds=round(time.monotonic() - self.began, 3), outcome=outcome,
        )  # fmt: skip
