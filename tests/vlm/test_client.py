"""The client of a judge tries again after named errors, and waits for a server that is down."""

import threading

import pytest

from dsd.vlm.open import LoadError, VLMError
from tests.loopback import Reply, serving
from tests.servers import Clock, judge, question, script, words

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
