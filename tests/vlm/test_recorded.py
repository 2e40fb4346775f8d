"""Answers are on disk when they arrive, and are asked for once."""

import hashlib
import threading

import pytest

from dsd.files import jsonl
from dsd.vlm.base import VLMOptions
from dsd.vlm.open import Request, VLMError, open_vlm
from dsd.vlm.recorded import FILE, Recorded, forget
from tests import tiny
from tests.judging import FakeJudge
from tests.loopback import Reply, serving
from tests.servers import question, script, words

REQUESTS = [
    Request("a"),
    Request("b", (tiny.image(0),)),
    Request("b", (tiny.image(1),)),
    Request("a", seed=1),
]


def counted() -> FakeJudge:
    numbers = iter(range(99))
    return FakeJudge(lambda request: f"{request.question} {next(numbers)}")


def test_answers_are_written_as_they_arrive_and_used_again(tmp_path):
    path, judge = tmp_path / FILE, counted()
    answers = Recorded(judge, tmp_path).ask_many(REQUESTS)
    assert next(answers) == "a 0" and next(answers) == "b 1"
    assert {row["answer"] for row in jsonl.read_all(path)} == {"a 0", "b 1"} and len(judge.requests) == 2
    again = counted()
    assert list(Recorded(again, tmp_path).ask_many(reversed(REQUESTS))) == ["a 0", "b 1", "b 1", "a 0"]
    assert again.requests == [REQUESTS[3], REQUESTS[2]]


def test_an_answer_is_written_when_it_arrives_also_before_earlier_ones(tmp_path):
    class Overtaking(FakeJudge):
        def ask_many(self, requests):
            first, second = requests
            second.on_answer("of the second")
            assert [row["answer"] for row in jsonl.read_all(tmp_path / FILE)] == ["of the second"]
            yield from ("of the first", "of the second")

    assert list(Recorded(Overtaking([]), tmp_path).ask_many(REQUESTS[:2])) == [
        "of the first",
        "of the second",
    ]
    assert len(jsonl.read_all(tmp_path / FILE)) == 2


def test_a_server_that_fails_one_request_costs_none_of_the_answers_behind_it(tmp_path):
    others = threading.Barrier(8)

    def answer(body: dict) -> Reply:
        others.wait(20)  # all of them are sent
        return Reply("too long", 400) if question(body) == "question 0" else Reply(question(body))

    with serving(answer) as address, pytest.raises(VLMError, match="too long"):
        list(Recorded(open_vlm(address, in_flight=8), tmp_path).ask_many(words(8)))
    assert {row["answer"] for row in jsonl.read_all(tmp_path / FILE)} == {
        f"question {index}" for index in range(1, 8)
    }


def test_a_question_asked_while_others_are_answered_costs_none_of_their_answers(tmp_path):
    recorded, answers = Recorded(counted(), tmp_path), []
    for answer in recorded.ask_many(REQUESTS[:3]):
        answers += [answer, recorded.ask(f"about {answer}")]
    kept = [row["answer"] for row in jsonl.read_all(tmp_path / FILE)]
    assert len(answers) == 6 and sorted(answers) == sorted(kept)


def test_a_later_stream_of_the_same_process_asks_nothing_again(tmp_path):
    recorded = Recorded(counted(), tmp_path)
    assert list(recorded.ask_many(REQUESTS[:2])) == list(recorded.ask_many(REQUESTS[:2]))
    assert len(list(jsonl.read_all(tmp_path / FILE))) == 2


def test_equal_requests_in_one_stream_keep_their_order(tmp_path):
    recorded = Recorded(counted(), tmp_path)
    assert list(recorded.ask_many([Request("a"), Request("a"), Request("b")])) == ["a 0", "a 1", "b 2"]


def test_an_incomplete_line_is_dropped(tmp_path):
    path = tmp_path / FILE
    list(Recorded(counted(), tmp_path).ask_many(REQUESTS))
    (shard,) = jsonl.shards(path)
    shard.write_bytes(shard.read_bytes()[:-5])
    again = counted()
    assert len(list(Recorded(again, tmp_path).ask_many(REQUESTS))) == 4 and len(again.requests) == 1
    assert len(jsonl.read_all(path)) == 4


def test_the_answers_of_another_model_are_not_used(tmp_path):
    list(Recorded(counted(), tmp_path).ask_many(REQUESTS))
    other = counted()
    other.weights = "another hash"
    list(Recorded(other, tmp_path).ask_many(REQUESTS))
    assert len(other.requests) == 4


def asked_with(folder, requests=REQUESTS, **settings) -> list[Request]:
    """Return what a model with these settings is asked, because no answer is on disk."""
    judge = counted()
    judge.options = VLMOptions(**settings)
    list(Recorded(judge, folder).ask_many(requests))
    return judge.requests


def test_a_changed_setting_asks_anew_for_what_it_changes(tmp_path):
    sampled = [request for request in REQUESTS if request.seed is not None]
    assert asked_with(tmp_path) == REQUESTS and asked_with(tmp_path) == []
    assert asked_with(tmp_path, max_tokens=99) == REQUESTS and asked_with(tmp_path, max_tokens=99) == []
    assert asked_with(tmp_path, temperature=0.4) == sampled
    assert asked_with(tmp_path) == asked_with(tmp_path, temperature=0.4) == []


def test_a_changed_schema_asks_anew(tmp_path):
    plain, other, turned = (Request("a", schema=one) for one in (None, {"b": 1, "c": 2}, {"c": 2, "b": 1}))
    for request in (plain, other, turned):  # a server writes the fields in the order of the schema
        assert asked_with(tmp_path, [request]) == [request] and asked_with(tmp_path, [request]) == []


def test_answers_of_older_versions_are_used_under_the_settings_that_they_had_by_default(tmp_path):
    known = Request("a", seed=1, schema={"type": "object"})
    key = hashlib.sha256(repr(("a tiny judge", None, "a", 1)).encode()).hexdigest()
    jsonl.write_rows(tmp_path / FILE, [{"id": key, "answer": "old"}])
    assert list(Recorded(counted(), tmp_path).ask_many([known])) == ["old"]
    assert asked_with(tmp_path, [known], max_tokens=99) == asked_with(tmp_path, [known], temperature=1.0)
    assert len(jsonl.read_all(tmp_path / FILE)) == 3


def test_a_server_is_asked_anew_with_other_settings(tmp_path):
    answer, seen = script()
    with serving(answer) as address:
        for tokens in (9, 9, 8):
            list(Recorded(open_vlm(address, max_tokens=tokens), tmp_path).ask_many([Request("a")]))
    assert [body["max_tokens"] for body in seen] == [9, 8]


def test_what_arrived_before_an_error_is_kept_until_it_is_forgotten(tmp_path):
    def said(request: Request) -> str:
        if request.images:
            raise ValueError("the server is gone")
        return "fine"

    recorded = Recorded(FakeJudge(said), tmp_path)
    with pytest.raises(ValueError, match="gone"):
        list(recorded.ask_many(REQUESTS))
    assert [row["answer"] for row in jsonl.read_all(tmp_path / FILE)] == ["fine"]
    forget(tmp_path)
    assert jsonl.read_all(tmp_path / FILE) == []
