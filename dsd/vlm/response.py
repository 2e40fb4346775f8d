"""Reading a server's response: limited in size and time, in any charset, with the status that it means."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from email.utils import parsedate_to_datetime

import httpx

KEPT_HEADERS = ("retry-after", "date", "location")
LATE = "the response did not end in time"


class TooLarge(ValueError):
    """A response has more bytes than allowed."""


def call_within(seconds: float, fetch: Callable[[], httpx.Response]) -> httpx.Response:
    """Return `fetch()`, or raise httpx.ReadTimeout after so many seconds and leave it to end by itself.

    httpx limits the time of each read: a server that sends its headers byte by byte is never late.
    """
    future: Future[httpx.Response] = Future()

    def work() -> None:
        try:
            future.set_result(fetch())
        except BaseException as error:  # raised again by `result()`
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        raise httpx.ReadTimeout(LATE) from None


def read_whole(response: httpx.Response, limit: int, is_late: Callable[[], bool]) -> httpx.Response:
    """Return a streamed response with its body as UTF-8; raise TooLarge or httpx.ReadTimeout."""
    body = bytearray()
    for part in response.iter_bytes():
        body += part
        if len(body) > limit:
            raise TooLarge(f"more than {limit / 2**20:g} MiB")
        if is_late():
            raise httpx.ReadTimeout(LATE)
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=_decode(bytes(body), response.charset_encoding).encode(),
    )


def _decode(body: bytes, charset: str | None) -> str:
    """Return the text of a body: UTF-8, as JSON should be, or else in the charset that it declares."""
    for encoding in ("utf-8-sig", charset or "utf-8"):
        try:
            return body.decode(encoding)
        except (UnicodeError, LookupError):  # LookupError: unknown, or no charset, such as base64
            pass
    return body.decode(errors="replace")


def parse_object(response: httpx.Response) -> dict | None:
    try:
        content = response.json()
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        return None
    return content if isinstance(content, dict) else None


def read_status(response: httpx.Response) -> int:
    """Return the status of a response, also of an error that a gateway sends inside a 200."""
    content = parse_object(response)
    if response.status_code != 200 or content is None:
        return response.status_code
    if error := content.get("error"):
        code = error.get("code") if isinstance(error, dict) else None
        return int(code) if re.fullmatch("[45][0-9][0-9]", str(code)) else 500
    return 500 if content.get("choices") == [] else 200


def read_retry_after(response: httpx.Response) -> float | None:
    """Return the seconds in Retry-After, or None; a date is compared with the response's Date header.

    The minimum is one second: some servers send 0 for "soon" and would be polled in a tight loop.
    """
    value = response.headers.get("retry-after", "")
    try:
        if value.isdecimal():
            return max(1.0, float(value))
        later, now = (parsedate_to_datetime(date) for date in (value, response.headers.get("date", "")))
        return max(1.0, (later - now).total_seconds())
    except (ValueError, TypeError):
        return None
