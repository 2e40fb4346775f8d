"""The client of a judge: retries, rate limits, a budget, outages, and a key that is never seen."""

import logging
import threading
import traceback

import httpx
import pytest

from dsd.vlm.client import BudgetError, read_retry_after
from dsd.vlm.open import LoadError, VLMError
from tests.loopback import Reply, serving
from tests.servers import Clock, judge, question, script, words

SECRET = "sk-loopback-0123456789abcdef"


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---------------------------------------------------------------- trying again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 524, 529])
def test_named_errors_are_tried_again_after_longer_and_longer_waits(status, clock):
    answer, seen = script(*[Reply("busy", status)] * 3)
    with serving(answer) as address:
        vlm = judge(address, clock)
        assert vlm.ask("?") == "fine"
    assert clock.slept == [1, 2, 4] and len(seen) == vlm.client.sent == 4


def test_a_broken_connection_is_tried_again(clock):
    answer, seen = script(None, None)
    with serving(answer) as address:
        assert judge(address, clock).ask("?") == "fine"
    assert len(seen) == 3 and clock.slept == [1, 2]


def test_a_time_out_is_tried_again(clock):
    over, seen = threading.Event(), []

    def answer(body: dict) -> Reply:
        seen.append(body)
        if len(seen) == 1:
            over.wait(timeout=20)
        return Reply("fine")

    with serving(answer) as address:
        assert judge(address, clock, timeout=1.0).ask("?") == "fine"
        over.set()
    assert len(seen) > 1 and clock.slept[0] == 1


@pytest.mark.parametrize("status", [408, 429, 500])
def test_a_request_is_tried_so_many_times_and_no_more(status, clock):
    answer, seen = script(*[Reply("busy", status)] * 99)
    with serving(answer) as address:
        with pytest.raises(VLMError, match=rf"gave no answer in 3 tries and 3 s \({status} busy\)"):
            judge(address, clock, retries=2).ask("?")
    assert len(seen) == 3


@pytest.mark.parametrize("status", [502, 503, 504, 524, 529])
def test_a_server_that_is_down_is_waited_for_as_long_as_the_patience(status, clock):
    answer, seen = script(*[Reply("busy", status)] * 99)
    with serving(answer) as address:
        with pytest.raises(VLMError, match="gave no answer in 8 tries and 123 s"):
            judge(address, clock, retries=2, patience=120).ask("?")
    assert len(seen) == 8 and clock.slept == [1, 2, 4, 8, 16, 32, 60]


@pytest.mark.parametrize(
    ("status", "says"),
    [(400, "refuses the request"), (401, "requires a key"), (403, "requires a key"),
     (404, "has no such path or model"), (422, "refuses the request"), (501, "refuses"),
     (308, "moved")],
)  # fmt: skip
def test_other_errors_fail_at_once(status, says, clock):
    answer, seen = script(Reply("because", status))
    with serving(answer) as address:
        with pytest.raises(VLMError, match=f"{says}.*: {status} because"):
            judge(address, clock).ask("?")
    assert len(seen) == 1 and clock.slept == []


@pytest.mark.parametrize(
    "content",
    [
        {"hello": "world"},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 3}}]},
    ],
)
def test_an_answer_in_another_protocol_is_an_error(content, clock):
    with serving(script(Reply(content))[0]) as address, pytest.raises(VLMError, match="OpenAI protocol"):
        judge(address, clock).ask("?")


@pytest.mark.parametrize(
    "content", [{"error": "no"}, {"error": {"message": "no", "code": 502}}, {"choices": []}]
)
def test_an_error_inside_a_200_is_tried_again(content, clock):
    with serving(script(Reply(content))[0]) as address:
        assert judge(address, clock).ask("?") == "fine"
    assert clock.slept == [1]


def test_a_refused_key_inside_a_200_is_not_tried_again(clock):
    with serving(script(Reply({"error": {"message": "no", "code": 401}}))[0]) as address:
        with pytest.raises(VLMError, match="requires a key"):
            judge(address, clock).ask("?")


def test_a_model_that_says_nothing_gives_an_empty_answer(clock):
    with serving(script(Reply({"choices": [{"message": {"content": None}}]}))[0]) as address:
        assert judge(address, clock).ask("?") == ""


def test_answers_before_an_error_are_kept(clock):
    def answer(body: dict) -> Reply:
        return Reply("too long", 400) if question(body) == "question 3" else Reply("fine")

    got = []
    with serving(answer) as address, pytest.raises(VLMError, match="400 too long"):
        got.extend(judge(address, clock).ask_many(words(9)))
    assert got == ["fine"] * 3


# ---------------------------------------------------------------- rate limits and budget

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


# ---------------------------------------------------------------- a server that goes away


def outage(clock: Clock, *, lasts: float, gone: Reply | None):
    """Answer chats as a server that is down from the fourth one on, for so many seconds."""
    chats, until = [], []

    def answer(body: dict) -> Reply | None:
        chats.append(body)
        if len(chats) == 4:
            until.append(clock.now + lasts)
        return gone if until and clock.now < until[0] else Reply(question(body))

    return answer


@pytest.mark.parametrize("gone", [None, Reply("nobody here", 503)])
@pytest.mark.parametrize("in_flight", [1, 8])
def test_ten_silent_minutes_are_a_pause_and_nothing_is_lost(gone, in_flight, clock, caplog):
    with serving(outage(clock, lasts=600, gone=gone)) as address:
        vlm = judge(address, clock, in_flight=in_flight, patience=9000, retries=3)
        assert list(vlm.ask_many(words(20))) == [f"question {i}" for i in range(20)]
    assert 1 <= caplog.text.count("trying again") <= in_flight and clock.now >= 600


def test_a_server_that_stays_down_ends_the_run_when_the_patience_is_used_up(clock):
    got = []
    with serving(outage(clock, lasts=1e9, gone=None)) as address:
        vlm = judge(address, clock, in_flight=1, patience=900)
        with pytest.raises(VLMError, match="the answers so far are kept: rerun the same command"):
            got.extend(vlm.ask_many(words(9)))
    assert got == ["question 0", "question 1", "question 2"]
    assert clock.now >= 900


def test_every_answer_renews_the_patience(clock):
    later = Reply("later", 429, {"Retry-After": "60"})
    fine = Reply("fine")
    with serving(script(later, fine, later, fine, later, fine)[0]) as address:
        assert list(judge(address, clock, in_flight=1, patience=100).ask_many(words(3))) == ["fine"] * 3
    assert clock.now == 180


def test_the_next_run_is_patient_again(clock):
    with serving(outage(clock, lasts=1000, gone=None)) as address:
        vlm = judge(address, clock, in_flight=1, patience=300)
        with pytest.raises(VLMError, match="gave no answer"):
            list(vlm.ask_many(words(9)))
        clock.now = 900
        assert vlm.ask("again") == "again"


def test_nobody_there_at_the_start_is_said_at_once(clock):
    with serving(script()[0]) as address:
        pass
    with pytest.raises(LoadError, match="no server answers at http://127.0.0.1:.*start it, or correct"):
        judge(address, clock)
    assert clock.slept == []


# ---------------------------------------------------------------- the key


def echo(status: int):
    """A rude server: it sends the key back."""
    return lambda body: Reply(f"you sent {body['headers'].get('Authorization')} to me", status)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 429, 500, 503])
def test_the_key_is_sent_and_never_shown(status, clock, monkeypatch, caplog):
    monkeypatch.setenv("DSD_VLM_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "dsd.vlm.client")
    with serving(echo(status)) as address:
        vlm = judge(address, clock, retries=1)
        try:
            shown = vlm.ask("?")
        except VLMError as error:
            shown = "".join(traceback.format_exception(error))
    assert "you sent Bearer ***" in shown
    assert SECRET not in shown + caplog.text + repr(vlm) + repr(vlm.client) + str(vars(vlm))


def test_a_refused_key_is_explained_when_opening(clock, monkeypatch):
    refused = Reply(f"bad key {SECRET}", 401)
    with serving(script()[0], models=lambda: refused) as address:
        with pytest.raises(LoadError, match=r"requires a key \(set DSD_VLM_KEY\): 401"):
            judge(address, clock)
        monkeypatch.setenv("MY_KEY", SECRET)
        with pytest.raises(LoadError, match=r"refuses the key in MY_KEY: 401 bad key \*\*\*$") as caught:
            judge(address, clock, key="MY_KEY")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", [f"{SECRET}\n", f"{SECRET} ", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_quoting_it(key, clock, monkeypatch):
    monkeypatch.setenv("DSD_VLM_KEY", key)
    with pytest.raises(LoadError, match="DSD_VLM_KEY contains") as caught:
        judge("http://127.0.0.1:9/v1", clock)
    assert key.strip() not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "address",
    [f"http://me:{SECRET}@host/v1", f"https://host/v1?key={SECRET}", f"ftp://me:{SECRET}@host/v1"],
)
def test_an_address_that_holds_a_secret_is_refused_without_quoting_it(address, clock):
    with pytest.raises(LoadError, match="must not contain a password") as caught:
        judge(address, clock)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("address", ["http://", "http://host/v1/chat/completions", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(address, clock):
    with pytest.raises(LoadError, match="the judge's address"):
        judge(address, clock)
