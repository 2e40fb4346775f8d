"""The client of a judge keeps to the server's rate limits and to its own budget."""

import httpx
import pytest

from dsd.vlm.client import BudgetError, read_retry_after
from dsd.vlm.open import VLMError
from tests.loopback import Reply, serving
from tests.servers import judge, script, words

DATE = "Tue, 01 Sep 2026 10:00:00 GMT"
LATER = "Tue, 01 Sep 2026 10:00:40 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": LATER, "Date": DATE}, 40),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_what_a_server_says_about_waiting_is_understood(headers, seconds):
    assert read_retry_after(httpx.Response(429, headers=headers)) == seconds


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_instead_of_our_own_guess(status, clock):
    answer, seen = script(Reply("later", status, {"Retry-After": "23"}))
    with serving(answer) as address:
        assert judge(address, clock).ask("?") == "fine"
    assert clock.slept == [23] and len(seen) == 2


def test_all_requests_wait_for_the_time_that_one_was_told(clock):
    answer, seen = script(Reply("later", 429, {"Retry-After": "30"}))
    with serving(answer) as address:
        vlm = judge(address, clock, in_flight=1)
        assert list(vlm.ask_many(words(3))) == ["fine"] * 3
    assert clock.slept == [30] and len(seen) == 4


def test_waiting_as_told_is_not_failing(clock):
    answer, seen = script(*[Reply("later", 429, {"Retry-After": "20"})] * 9)
    with serving(answer) as address:
        assert judge(address, clock, retries=1).ask("?") == "fine"
    assert len(seen) == 10 and clock.now == 180


def test_waiting_as_told_ends_with_the_patience(clock):
    answer, seen = script(*[Reply("later", 429, {"Retry-After": "20"})] * 99)
    with serving(answer) as address, pytest.raises(VLMError, match="gave no answer in 6 tries and 100 s"):
        judge(address, clock, patience=100).ask("?")
    assert len(seen) == 6


def test_a_wait_beyond_the_patience_is_not_begun(clock):
    with serving(script(Reply("tomorrow", 429, {"Retry-After": "86400"}))[0]) as address:
        with pytest.raises(VLMError, match="asks to wait for 86400 s, longer than the patience of 1800 s"):
            judge(address, clock).ask("?")
    assert clock.slept == []


def test_the_budget_ends_the_run_and_keeps_what_was_answered(clock):
    answer, seen = script()
    got = []
    with serving(answer) as address:
        vlm = judge(address, clock, budget=3)
        with pytest.raises(BudgetError, match="budget of 3 requests .* is used up"):
            got.extend(vlm.ask_many(words(9)))
        with pytest.raises(BudgetError):
            vlm.ask("one more")
    assert got == ["fine"] * 3 and len(seen) == 3


def test_retries_are_paid_from_the_budget(clock):
    answer, seen = script(*[Reply("busy", 500)] * 99)
    with serving(answer) as address, pytest.raises(BudgetError):
        judge(address, clock, budget=2).ask("?")
    assert len(seen) == 2
