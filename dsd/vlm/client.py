"""An HTTP client for one server, with retries, rate limits, a request budget and waiting for outages.

It handles three kinds of failure differently:

* **Transient**: 408, 429, 500, 502, 503, 504, a broken connection, a timeout. The request is retried after
  1, 2, 4 ... seconds, at most `retries` times. 500 counts as transient because model servers return it for
  temporary problems, such as a restarting worker.
* **Rate limit**: Retry-After, or x-ratelimit-remaining-* at zero with x-ratelimit-reset-*. All requests wait
  for the given time. A 429 with a waiting time does not count as a retry.
* **Outage**: the retries are used up on a broken connection, a timeout, 502, 503 or 504, and /models fails
  in the same way. The client logs a warning and polls /models until the server responds, then starts the
  request again with all its retries. If /models does respond, the request gets one more try.

In a rate limit or an outage the client gives up when no request has been answered for `patience` seconds.
All other errors (400, 401, 403, 404 ...) fail at once. Logs and errors never show the key, not even when the
server quotes it.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address

import httpx

from dsd.vlm.base import VLMError

AGAIN = (408, 429, 500, 502, 503, 504)
AWAY = (502, 503, 504)  # status of a gateway or server that is down
BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
CONNECT = 10.0  # seconds to reach the server
SLOWEST = 60.0  # maximum seconds between two tries
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
NUMBER, UNIT = r"\d+(?:\.\d+)?", "|".join(UNITS)

log = logging.getLogger(__name__)
log.setLevel(logging.WARNING)  # warn of an outage even if a command silenced the root logger


class BudgetError(VLMError):
    """The request budget is used up."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The timeout, retries, patience and budget of a Line."""

    timeout: float = 120.0  # seconds without data from the server
    retries: int = 5  # per request
    patience: float = 1800.0  # seconds without an answer to any request
    budget: int | None = None  # total requests, including retries

    def __post_init__(self):
        if not self.timeout > 0:
            raise VLMError(f"timeout must be above 0 seconds, got {self.timeout}")
        for name in ("retries", "patience"):
            if getattr(self, name) < 0:
                raise VLMError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.budget is not None and self.budget < 1:
            raise VLMError(f"budget must be at least 1 request, got {self.budget}")


@dataclass(frozen=True)
class Trouble:
    """A failed try that may succeed when repeated."""

    what: str
    status: int | None = None
    told: float | None = None  # seconds to wait, as requested by the server
    away: bool = True


class Line:
    """A thread-safe client that posts JSON to one server. Tests inject `clock` and `sleep`."""

    def __init__(
        self,
        address: str,
        key: str,
        limits: Limits,
        *,
        connections: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.address, self.limits, self.sent, self.retried = address, limits, 0, 0
        self._key, self._clock, self._sleep = key, clock, sleep
        self.has_key = bool(key)
        self._lock, self._outage = threading.Lock(), threading.Lock()
        self._free_at = clock()  # nothing is sent before this time, as requested by the server
        self._stalled_since: float | None = None  # time of the first failure since the last answer
        self._outages = 0
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(limits.timeout, connect=CONNECT),
            verify=address.startswith("https"),  # loading certificates is slow, and http needs none
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            # A server on this machine must not be reached through a proxy, even if NO_PROXY lacks it.
            trust_env=not is_loopback(httpx.URL(address).host),
        )

    def __repr__(self) -> str:
        return f"Line({self.address!r})"

    def get(self, path: str) -> httpx.Response:
        """Send a GET request once, outside the budget; raise VLMError if the server does not respond."""
        try:
            return self._client.get(self.address + path)
        except httpx.HTTPError as error:
            raise VLMError(
                f"no server answers at {self.address} ({self.safe(error)}): start it, or mend the address"
            ) from None

    def begin(self) -> None:
        """Start a new run of requests, so that earlier failures do not count against the patience."""
        self._stalled_since = None

    def spend(self, *, again: bool = False) -> None:
        """Take one request from the budget; raise BudgetError if none is left."""
        with self._lock:
            if self.limits.budget is not None and self.sent >= self.limits.budget:
                raise BudgetError(
                    f"the budget of {self.limits.budget} requests to {self.address} is used up; what was "
                    "answered is kept: allow more and run the same command again"
                )
            self.sent, self.retried = self.sent + 1, self.retried + again

    def post(self, path: str, body: dict, *, stopped: Callable[[], bool] = lambda: False) -> dict:
        """Return the answer to one request; raise VLMError if it fails.

        The caller must have called `spend` for the first try.
        """
        failures = 0
        while True:
            self._wait_as_told()
            if stopped():  # the answer is no longer needed
                raise VLMError("stopped")
            outages = self._outages
            outcome = self._try(path, body)
            if not isinstance(outcome, Trouble):
                self._stalled_since = None
                return outcome
            failures = self._after(outcome, failures, outages)
            self.spend(again=True)

    def _try(self, path: str, body: dict) -> dict | Trouble:
        try:
            response = self._client.post(self.address + path, json=body)
        except BROKEN as error:
            return Trouble(self.safe(error))
        except httpx.HTTPError as error:  # e.g. a proxy error, or a response that cannot be decoded
            raise VLMError(f"{self.address} cannot be asked: {self.safe(error)}") from None
        told = told_to_wait(response)
        if told is not None:
            self._free_at = max(self._free_at, self._clock() + told)
        if response.status_code in AGAIN:
            what, status = self.quote(response), response.status_code
            return Trouble(what, status, told, away=status in AWAY)
        return self.read(response)

    def read(self, response: httpx.Response) -> dict:
        """Return the JSON object in a response; raise VLMError for any other status or content."""
        if response.status_code != 200:
            raise VLMError(f"{self.address} {self._refusal(response.status_code)}: {self.quote(response)}")
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise VLMError(f"{self.address} does not speak the OpenAI protocol: {self.quote(response)}")
        return content

    def _refusal(self, status: int) -> str:
        if status in (401, 403):
            return "refuses the key" if self.has_key else "wants a key"
        if 300 <= status < 400:
            return "has moved: give its new address"
        return "does not know this address or model" if status == 404 else "refuses the request"

    def _after(self, trouble: Trouble, failures: int, outages: int) -> int:
        """Wait as the failure requires and return the new number of failures; raise VLMError to give up."""
        if self._stalled_since is None:
            self._stalled_since = self._clock()
            level = logging.WARNING if trouble.away else logging.INFO
            log.log(level, "%s: %s; trying again", self.address, trouble.what)
        if trouble.status == 429 and trouble.told is not None:
            self._give_up_if_stalled(trouble)
            return failures
        if failures < self.limits.retries:
            if trouble.told is None:
                self._sleep(min(SLOWEST, 2.0**failures))
            return failures + 1
        if trouble.away and failures == self.limits.retries:
            # A server that responds now may have just recovered, so try once more.
            return 0 if self._was_away(trouble, outages) else failures + 1
        raise VLMError(f"{self.address} gave no answer in {failures + 1} tries: {trouble.what}")

    def _wait_as_told(self) -> None:
        while (wait := self._free_at - self._clock()) > 0:
            if wait > max(SLOWEST, self.limits.patience):
                raise VLMError(
                    f"{self.address} asks to wait for {wait:.0f} s, longer than the patience of "
                    f"{self.limits.patience:.0f} s; what was answered is kept: run the same command again"
                )
            self._sleep(wait)

    def _was_away(self, trouble: Trouble, outages: int) -> bool:
        """Wait out an outage; return False at once if the server is up, else True when it is back.

        One thread polls the server; the others wait for the lock.
        """
        with self._outage:
            if self._outages != outages:  # another thread waited out this outage
                return True
            self._give_up_if_stalled(trouble)
            if self._alive():
                return False
            log.warning("%s is away (%s); pausing until it is back", self.address, trouble.what)
            wait = 1.0
            while not self._alive():
                self._give_up_if_stalled(trouble)
                self._sleep(wait)
                wait = min(SLOWEST, 2 * wait)
            log.warning("%s is back; going on", self.address)
            self._outages += 1
            return True

    def _alive(self) -> bool:
        """Return whether the server responds to /models with any status that is not in AWAY, even 404."""
        try:
            return self._client.get(f"{self.address}/models").status_code not in AWAY
        except httpx.HTTPError:
            return False

    def _give_up_if_stalled(self, trouble: Trouble) -> None:
        since = self._stalled_since
        if since is not None and self._clock() - since >= self.limits.patience:
            raise VLMError(
                f"{self.address} has not answered for {self.limits.patience:.0f} s ({trouble.what}); what "
                "was answered is kept: run the same command again when it is back"
            )

    def quote(self, response: httpx.Response) -> str:
        """Return the status and text of a response, such as `503 Busy`, without the key."""
        return self.safe(f"{response.status_code} {response.text or response.reason_phrase}")

    def safe(self, words: object) -> str:
        """Return one short line without the key; cut after hiding it, or half of the key might remain."""
        text = self.hide(" ".join((str(words) or type(words).__name__).split()))
        return text if len(text) <= 300 else f"{text[:300]}..."

    def hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost"


def told_to_wait(response: httpx.Response) -> float | None:
    """Return the seconds to wait before the next request, as requested by a response, or None."""
    headers = response.headers
    waits = [_retry_after(headers)]
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            waits.append(_duration(headers.get(f"x-ratelimit-reset-{kind}", "")))
    told = [wait for wait in waits if wait is not None]
    # Wait at least a second: some servers say 0 for "soon" and would be polled in a tight loop.
    return max(1.0, *told) if told else None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds in Retry-After; a date is compared with the response's Date header."""
    value = headers.get("retry-after", "")
    try:
        then, now = (parsedate_to_datetime(text) for text in (value, headers.get("date", "")))
        return (then - now).total_seconds()
    except (ValueError, TypeError):
        return _duration(value)


def _duration(text: str) -> float | None:
    """Parse `20`, `1.5s`, `6m0s` or `20ms` as seconds; return None for anything else."""
    text = text.strip()
    if re.fullmatch(NUMBER, text):
        return float(text)
    if not re.fullmatch(rf"({NUMBER}({UNIT}))+", text):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(rf"({NUMBER})({UNIT})", text))
