"""The line to a server: what is tried again and how often, rate limits, a budget, outages, and never a key.

Three kinds of trouble, told apart because they ask for different things:

* **Transient**: 408, 429, 500, 502, 503, 504, a broken connection, a time-out. Tried again after 1, 2, 4 ...
  seconds, at most `retries` times. 500 is among them because model servers give it for what passes, such as a
  worker that restarts.
* **Told to wait**: Retry-After, or x-ratelimit-remaining-* at zero with x-ratelimit-reset-*. Every request on
  the line waits for that long. A 429 that says how long is obeyed and not counted: nothing is broken.
* **Away**: when the retries are used up on a server that does not even list its models, the line pauses and
  says so, and asks for that list until the server is back. Then the request starts afresh. (A server that is
  there, but did not answer this request, is given one more try.)

Whatever the kind, the line gives up when no request has had an answer for `patience` seconds. All else (400,
401, 403, 404 ...) fails at once. No log and no error ever shows the key, not even when the server quotes it.
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
AWAY = (502, 503, 504)  # a gateway, or a server, that says that nobody is there
BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
CONNECT = 10.0  # seconds to reach the server
SLOWEST = 60.0  # seconds between two tries at most
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
NUMBER, UNIT = r"\d+(?:\.\d+)?", "|".join(UNITS)

log = logging.getLogger(__name__)
log.setLevel(logging.WARNING)  # a pause is told also where a command has silenced the libraries


class BudgetError(VLMError):
    """As many requests were sent as were allowed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How hard a line tries."""

    timeout: float = 120.0  # seconds without a word from the server
    retries: int = 5  # of one request
    patience: float = 1800.0  # seconds without any answer
    budget: int | None = None  # requests in all, retries included

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
    """A try that brought no answer, but may the next time."""

    what: str
    status: int | None = None
    told: float | None = None  # seconds that the server asks to wait
    away: bool = True


class Line:
    """Posts JSON to one server, from many threads. `clock` and `sleep` come in: tests take no time."""

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
        self._free_at = clock()  # before this nothing is sent, as the server asked
        self._stalled_since: float | None = None  # the first trouble since the last answer
        self._outages = 0
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(limits.timeout, connect=CONNECT),
            verify=address.startswith("https"),  # certificates take a while to load, and http has none
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            # Proxies of the environment are for the world outside: a server on this machine is asked
            # directly, whether or not NO_PROXY thinks of it.
            trust_env=not is_loopback(httpx.URL(address).host),
        )

    def __repr__(self) -> str:
        return f"Line({self.address!r})"

    def get(self, path: str) -> httpx.Response:
        """One try, outside the budget. VLMError if nobody answers."""
        try:
            return self._client.get(self.address + path)
        except httpx.HTTPError as error:
            raise VLMError(
                f"no server answers at {self.address} ({self.safe(error)}): start it, or mend the address"
            ) from None

    def begin(self) -> None:
        """A new run of requests: what was silent long ago does not count against the patience."""
        self._stalled_since = None

    def spend(self, *, again: bool = False) -> None:
        """Take one request from the budget; BudgetError when there is none left."""
        with self._lock:
            if self.limits.budget is not None and self.sent >= self.limits.budget:
                raise BudgetError(
                    f"the budget of {self.limits.budget} requests to {self.address} is used up; what was "
                    "answered is kept: allow more and run the same command again"
                )
            self.sent, self.retried = self.sent + 1, self.retried + again

    def post(self, path: str, body: dict, *, stopped: Callable[[], bool] = lambda: False) -> dict:
        """The answer to one request, for whose first try `spend` was called; VLMError if there is none."""
        failures = 0
        while True:
            self._wait_as_told()
            if stopped():  # nobody waits for the answer any more
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
        except httpx.HTTPError as error:  # a proxy that refuses, an answer that cannot be unpacked
            raise VLMError(f"{self.address} cannot be asked: {self.safe(error)}") from None
        told = told_to_wait(response)
        if told is not None:
            self._free_at = max(self._free_at, self._clock() + told)
        if response.status_code in AGAIN:
            what, status = self.quote(response), response.status_code
            return Trouble(what, status, told, away=status in AWAY)
        return self.read(response)

    def read(self, response: httpx.Response) -> dict:
        """The JSON object in an answer; VLMError for a refusal, and for what is no such object."""
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
        """Wait as long as fits the trouble; the number of failures from here on, or VLMError."""
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
            # If it is there after all it may have come back this moment: one more try.
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
        """Whether the server is gone; True once it is back. One thread asks for it, the others queue."""
        with self._outage:
            if self._outages != outages:  # it was away, and somebody has seen it come back
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
        """Any answer will do, also that there is no such page."""
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
        """`503 Busy`, safe to show."""
        return self.safe(f"{response.status_code} {response.text or response.reason_phrase}")

    def safe(self, words: object) -> str:
        """One short line without the key; cut last, or half of a key might stay."""
        text = self.hide(" ".join((str(words) or type(words).__name__).split()))
        return text if len(text) <= 300 else f"{text[:300]}..."

    def hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def told_to_wait(response: httpx.Response) -> float | None:
    """Seconds that an answer asks to wait before the next request; None if it does not."""
    headers = response.headers
    waits = [_retry_after(headers)]
    for kind in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            waits.append(_duration(headers.get(f"x-ratelimit-reset-{kind}", "")))
    told = [wait for wait in waits if wait is not None]
    # At least a second: a server that says 0 and means "soon" would be asked without end.
    return max(1.0, *told) if told else None


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds, or a date, which is read by the server's own clock."""
    value = headers.get("retry-after", "")
    try:
        then, now = (parsedate_to_datetime(text) for text in (value, headers.get("date", "")))
        return (then - now).total_seconds()
    except (ValueError, TypeError):
        return _duration(value)


def _duration(text: str) -> float | None:
    """`20`, `1.5s`, `6m0s`, `20ms`: seconds; None for anything else."""
    text = text.strip()
    if re.fullmatch(NUMBER, text):
        return float(text)
    if not re.fullmatch(rf"({NUMBER}({UNIT}))+", text):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(rf"({NUMBER})({UNIT})", text))
