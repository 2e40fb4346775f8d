"""Answers are on disk when they arrive, and are asked for once."""

import threading

import pytest

from dsd.files import jsonl
from dsd.vlm.open import Request, VLMError, open_vlm
from dsd.vlm.recorded import FILE, Recorded, forget
from tests import tiny
from tests.judging import FakeJudge
from tests.loopback import Reply, serving
from tests.servers import question, words

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
