"""An HTTP client for one server, with one retry policy and a budget of requests.

A transient failure is a broken connection, a timeout, one of the statuses 408, 429, 500, 502, 503, 504, 524
and 529, or an answer without choices; 500 is one because model servers return it for temporary problems, such
as a restarting worker. An error inside a 200 counts as its own code, or as 500. The request is sent again
after the time in the Retry-After header, for which all requests wait, or after 1, 2, 4 ... 60
seconds. It is sent again at most `retries` times. Where the server is down (no connection, a timeout, 502,
503, 504, 524, 529) or gives a time to wait, `patience` seconds are the limit instead.

All other errors (400, 401, 403, 404 ...) fail at once. Logs and errors never show the key, not even when the
server quotes it.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

import httpx

from dsd.vlm.base import VLMError, VLMOptions
from dsd.vlm.response import TooLarge, call_within, parse_object, read_retry_after, read_status, read_whole

KEY = "DSD_VLM_KEY"
DOWN = (502, 503, 504, 524, 529)  # statuses of a gateway or server that is down or overloaded
TRANSIENT = (408, 429, 500, *DOWN)
UNACCEPTED = (400, 422)  # status of a request that the server does not accept as it is
BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
CONNECT_SECONDS = 10.0
LONGEST_PAUSE = 60.0  # seconds between two tries
LARGEST = 2**20  # bytes of an answer
LARGEST_LIST = 2**23  # bytes of a list of models
SECRET = 8  # characters of the shortest key that is removed from texts: a shorter one is a placeholder
LONGEST_QUOTE = 300  # characters of a server's message
KEPT = "the answers so far are kept: rerun the same command to continue"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HTTPOptions(VLMOptions):
    """The options of a model on a server."""

    model: str | None = None  # None: the only model of the server
    key: str = KEY  # name of the environment variable that holds the key; a local server needs none
    in_flight: int = 32  # requests at a time
    timeout: float = 120.0  # seconds for one answer
    retries: int = 5  # per request
    patience: float = 1800.0  # seconds to wait for a server that is down or limits its rate
    budget: int | None = None  # requests in all, retries included


class BudgetError(VLMError):
    """The budget of requests is used up."""


class UnacceptedError(VLMError):
    """The server does not accept a request as it is; `text` is its own message."""

    def __init__(self, message: str, text: str):
        super().__init__(message)
        self.text = text


class TransientError(Exception):
    """A failure worth a retry. `wait` is the number of seconds that the server asks to wait."""

    def __init__(self, message: str, *, is_down: bool, wait: float | None = None):
        super().__init__(message)
        self.wait, self.is_patient = wait, is_down or wait is not None


class RetryingClient:
    """A thread-safe client that posts JSON to one server."""

    clock, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)  # tests replace both

    def __init__(self, address: str, key: str, options: HTTPOptions):
        """Set up the client without sending a request; an empty `key` is not sent."""
        self.address, self.options, self.sent = address, options, 0
        self._key, self._lock = key, threading.Lock()
        self._free_at = 0.0  # no request is sent before this time, which the server sets
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(options.timeout, connect=CONNECT_SECONDS),
            follow_redirects=False,  # the key is for this server alone
            verify=address.startswith("https"),  # loading certificates is slow, and http needs none
            # A request that was given up keeps its connection, so this limits the idle ones alone.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=options.in_flight),
            # A server on this machine must not be reached through a proxy, even if NO_PROXY lacks it.
            trust_env=not is_loopback(httpx.URL(address).host),
        )

    def get(self, path: str) -> httpx.Response:
        """Send a GET request once, outside the budget; raise VLMError if the server does not respond."""
        try:
            return self._send("GET", path, LARGEST_LIST)
        except httpx.HTTPError as error:
            problem = f"no server answers at {self.address} ({self.shorten(error)})"
            raise VLMError(f"{problem}: start it, or correct the address") from None

    def spend(self) -> None:
        """Take one request from the budget; raise BudgetError if none is left."""
        budget = self.options.budget
        with self._lock:
            if budget is not None and self.sent >= budget:
                raise BudgetError(f"the budget of {budget} requests to {self.address} is used up; {KEPT}")
            self.sent += 1

    def post(self, path: str, body: dict, *, is_stopped: Callable[[], bool] = lambda: False) -> dict:
        """Return the answer to a request that `spend` has paid, and pay the retries, or raise VLMError."""
        start, failures = self.clock(), 0
        while True:
            self._wait_until_free()
            if is_stopped():
                raise VLMError("the answer is no longer needed")
            try:
                return self._post_once(path, body)
            except TransientError as error:
                failures += 1
                self._pause(error, failures, self.clock() - start)
            self.spend()

    def _pause(self, error: TransientError, failures: int, seconds: float) -> None:
        """Wait before the next try; raise VLMError if the limit of tries or of time is reached."""
        is_over = failures > self.options.retries
        if error.is_patient:
            is_over = seconds >= self.options.patience
        if is_over:
            tries = f"{failures} tries and {seconds:.0f} s"
            raise VLMError(f"{self.address} gave no answer in {tries} ({error}); {KEPT}") from None
        if failures == 1:
            log.warning("%s: %s; trying again", self.address, error)
        if error.wait is None:
            self.sleep(min(LONGEST_PAUSE, 2.0 ** min(failures - 1, 6)))

    def _send(self, method: str, path: str, limit: int, **content: object) -> httpx.Response:
        """Return the whole response; raise VLMError if it has more than `limit` bytes."""
        end = time.monotonic() + self.options.timeout

        def fetch() -> httpx.Response:
            with self._client.stream(method, self.address + path, **content) as response:
                return read_whole(response, limit, lambda: time.monotonic() > end)

        try:
            return call_within(self.options.timeout, fetch)
        except TooLarge as error:
            problem = f"{self.address} sent {error} in one response"
            raise VLMError(f"{problem}: lower --max-tokens, or correct the address") from None

    def _post_once(self, path: str, body: dict) -> dict:
        try:
            response = self._send("POST", path, LARGEST, json=body)
        except BROKEN as error:
            raise TransientError(self.shorten(error), is_down=True) from None
        except httpx.HTTPError as error:  # e.g. a proxy error, or a response that cannot be decoded
            raise VLMError(f"{self.address} cannot be reached: {self.shorten(error)}") from None
        status = read_status(response)
        if status in TRANSIENT:
            wait = read_retry_after(response)
            self._free_at = max(self._free_at, self.clock() + (wait or 0))
            raise TransientError(self.quote(response), is_down=status in DOWN, wait=wait)
        return self.read(response)

    def _wait_until_free(self) -> None:
        while (wait := self._free_at - self.clock()) > 0:
            if wait > max(LONGEST_PAUSE, self.options.patience):
                limit = f"longer than the patience of {self.options.patience:.0f} s"
                raise VLMError(f"{self.address} asks to wait for {wait:.0f} s, {limit}; {KEPT}")
            self.sleep(wait)

    def read(self, response: httpx.Response) -> dict:
        """Return the JSON object in a response; raise VLMError for a status other than 200 or no object."""
        if (status := read_status(response)) != 200:
            problem = f"{self.address} {self._describe(response, status)}: {self.quote(response)}"
            if status in UNACCEPTED:
                raise UnacceptedError(problem, self.redact(response.text))
            raise VLMError(problem)
        if (content := parse_object(response)) is None:
            hint = "" if self.address.endswith("/v1") else f" (try {self.address}/v1)"
            raise VLMError(f"{self.address} does not speak the OpenAI protocol{hint}: {self.quote(response)}")
        return content

    def _describe(self, response: httpx.Response, status: int) -> str:
        if status in (401, 403):
            variable = self.options.key
            return f"refuses the key in {variable}" if self._key else f"requires a key (set {variable})"
        if 300 <= status < 400:
            place = self.shorten(response.headers.get("location", "another address"))
            return f"has moved to {place}; use its new address"
        return "has no such path or model" if status == 404 else "refuses the request"

    def quote(self, response: httpx.Response) -> str:
        """Return the status and text of a response, such as `503 Busy`, without the key."""
        return self.shorten(f"{response.status_code} {response.text or response.reason_phrase}")

    def shorten(self, message: object) -> str:
        """Return one short line without the key."""
        # The key is removed before the text is cut, because half of the key might remain otherwise.
        line = self.redact(" ".join((str(message) or type(message).__name__).split()))
        return line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}..."

    def redact(self, text: str) -> str:
        """Return the text with the key replaced by ***."""
        return text.replace(self._key, "***") if len(self._key) >= SECRET else text


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name
        return host == "localhost"
