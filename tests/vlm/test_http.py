"""A judge behind an address: what is sent, many at a time, in order, whatever surrounds it."""

import base64
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from dsd.vlm import schemas
from dsd.vlm.base import Request, is_refused
from dsd.vlm.client import is_loopback
from dsd.vlm.open import LoadError, VLMError, open_vlm
from tests import tiny
from tests.loopback import Reply, serving, speedup
from tests.servers import judge, question, script, words

# ---------------------------------------------------------------- what is asked


def test_an_image_arrives_to_the_pixel_before_the_question(clock):
    answer, seen = script()
    with serving(answer) as address:
        assert judge(address, clock, max_tokens=9).ask("which?", [tiny.image(0), tiny.image(1)]) == "fine"
    *labeled, text = seen[0]["messages"][0]["content"]
    one, first, two, second = labeled
    assert (one["text"], two["text"]) == ("Image 1:", "Image 2:")
    assert text == {"type": "text", "text": "which?"} and seen[0]["max_tokens"] == 9
    for part, seed in ((first, 0), (second, 1)):
        head, data = part["image_url"]["url"].split(",")
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == "data:image/png;base64" and image.format == "PNG"
        assert ImageChops.difference(image, tiny.image(seed)).getbbox() is None


def test_a_question_without_images_is_plain_text(clock):
    answer, seen = script()
    with serving(answer) as address:
        judge(address, clock).ask("a cat on a mat: one subject?")
    assert seen[0]["messages"] == [{"role": "user", "content": "a cat on a mat: one subject?"}]
    assert seen[0]["model"] == "loopback" and "Authorization" not in seen[0]["headers"]


def test_only_a_seed_asks_for_a_draw(clock):
    answer, seen = script()
    with serving(answer) as address:
        vlm = judge(address, clock, temperature=0.4)
        vlm.ask("a")
        vlm.ask("b", seed=7)
    assert seen[0]["temperature"] == 0 and "seed" not in seen[0]
    assert seen[1]["temperature"] == 0.4 and seen[1]["seed"] == 7


SCHEMA = schemas.judgment(("shape",), 4)
ASKED = Request("same?", schema=SCHEMA)


def test_a_schema_is_sent_where_it_is_given(clock):
    answer, seen = script()
    with serving(answer) as address:
        list(judge(address, clock, in_flight=1).ask_many([ASKED, Request("?")]))
    schema = {"name": "answer", "schema": SCHEMA, "strict": True}
    assert seen[0]["response_format"] == {"type": "json_schema", "json_schema": schema}
    assert "response_format" not in seen[1]


def test_a_refused_parameter_is_left_out_from_then_on(clock):
    refusals = [
        "Use 'max_completion_tokens' instead of max_tokens",
        "temperature is not supported",
        "no idea",
    ]
    answer, seen = script(*[Reply(text, 400) for text in refusals])
    with serving(answer) as address:
        vlm = judge(address, clock, in_flight=1)
        assert list(vlm.ask_many([ASKED, ASKED])) == ["fine", "fine"]
    assert len(seen) == 5 and vlm.client.sent == 2
    for body in seen[3:]:
        assert body["max_completion_tokens"] == 512
        assert not body.keys() & {"max_tokens", "temperature", "response_format"}


def test_a_budget_is_not_spent_on_refused_parameters(clock):
    def answer(body: dict) -> Reply:
        return Reply("unknown field", 422) if "response_format" in body else Reply("fine")

    with serving(answer) as address:
        vlm = judge(address, clock, budget=8, in_flight=4)
        assert list(vlm.ask_many([ASKED] * 8)) == ["fine"] * 8


def test_a_request_that_fails_anyway_changes_no_other(clock):
    answer, seen = script(Reply("too long", 400), Reply("too long", 400))
    with serving(answer) as address:
        vlm = judge(address, clock)
        with pytest.raises(VLMError, match="400 too long"):
            list(vlm.ask_many([ASKED]))
        list(vlm.ask_many([ASKED]))
    assert ["response_format" in body for body in seen] == [True, False, True]


def said(**choice) -> Reply:
    return Reply({"choices": [{"message": {"content": None}, **choice}]})


def test_an_answer_among_the_thoughts_names_the_setting_of_the_server(clock):
    reply = said(message={"content": None, "reasoning_content": "same"}, finish_reason="stop")
    with serving(script(reply)[0]) as address, pytest.raises(VLMError, match="--reasoning-parser"):
        judge(address, clock).ask("?")


def test_thoughts_that_break_off_are_kept_as_thoughts(clock):
    reply = said(message={"content": None, "reasoning": "verdict: same"}, finish_reason="length")
    with serving(script(reply)[0]) as address:
        assert judge(address, clock).ask("?") == "<think>verdict: same"


@pytest.mark.parametrize(
    "reply",
    [
        said(finish_reason="content_filter"),
        said(message={"content": None, "refusal": "No."}),
        Reply("The response was filtered: content management policy", 400),
    ],
)
def test_what_a_content_filter_refuses_is_marked_and_does_not_end_the_stream(reply, clock):
    with serving(script(reply)[0]) as address:
        answers = list(judge(address, clock, in_flight=1).ask_many(words(2)))
    assert [is_refused(text) for text in answers] == [True, False]


def test_the_only_model_of_a_server_need_not_be_named(clock):
    with serving(script()[0]) as address:
        assert judge(address, clock).name == "loopback"
        assert judge(address, clock, model="other").name == "other"


@pytest.mark.parametrize("names", [[], ["one", "two"]])
def test_a_choice_of_models_is_left_to_the_user(names, clock):
    models = Reply({"data": [{"id": name} for name in names]})
    with serving(script()[0], models=lambda: models) as address:
        with pytest.raises(LoadError, match=f"has {len(names)} models, so name one: {', '.join(names)}"):
            judge(address, clock)


def test_a_server_without_a_list_of_models_needs_a_name(clock):
    with serving(script()[0], models=lambda: Reply("no such page", 404)) as address:
        assert judge(address, clock, model="mine").ask("?") == "fine"
        with pytest.raises(LoadError, match="404 no such page"):
            judge(address, clock)


# ---------------------------------------------------------------- many at a time


def test_answers_come_in_the_order_of_the_requests(clock):
    def answer(body: dict) -> Reply:
        time.sleep(0.002 * (7 * int(question(body).split()[1]) % 10))
        return Reply(f"answer to {question(body)}")

    with serving(answer) as address:
        answers = list(judge(address, clock, in_flight=8).ask_many(words(40)))
    assert answers == [f"answer to question {i}" for i in range(40)]


def test_as_many_as_allowed_are_in_flight_and_no_more(clock):
    together, busy, most = threading.Barrier(6), [], []

    def answer(body: dict) -> Reply:
        busy.append(1)
        most.append(len(busy))
        together.wait(timeout=20)  # nobody is answered before six are here
        busy.pop()
        return Reply("fine")

    with serving(answer) as address:
        assert list(judge(address, clock, in_flight=6).ask_many(words(12))) == ["fine"] * 12
    assert max(most) == 6


def test_requests_are_taken_as_they_are_needed(clock):
    taken = []
    with serving(script()[0]) as address:
        vlm = judge(address, clock, in_flight=2)
        answers = vlm.ask_many(taken.append(i) or request for i, request in enumerate(words(50)))
        for got, _ in enumerate(answers, 1):
            assert len(taken) <= got + vlm.batch
    assert len(taken) == got == 50


def test_when_nobody_listens_any_more_nothing_is_sent(clock):
    closed, asked = threading.Event(), []

    def answer(body: dict) -> Reply:
        asked.append(question(body))
        if question(body) != "question 0":
            closed.wait(timeout=20)
        return Reply("fine")

    with serving(answer) as address:
        vlm = judge(address, clock, in_flight=2)
        answers = vlm.ask_many(words(9))
        next(answers)  # by now four are taken, two of them under way
        answers.close()
        closed.set()
        assert vlm.ask("another") == "fine"
    assert "question 3" not in asked


def test_many_in_flight_are_many_times_as_fast():
    assert speedup(16, rounds=3, delay=0.1) > 5


# ---------------------------------------------------------------- the surroundings


def test_a_server_on_this_machine_needs_neither_the_hub_nor_a_proxy(clock, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody is there
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(script()[0]) as address:
        assert judge(address, clock).ask("?") == "fine"


@pytest.mark.parametrize(
    ("host", "here"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("10.0.0.1", False),
     ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_only_this_machine_is_asked_past_the_proxy(host, here):
    assert is_loopback(host) == here


@pytest.mark.parametrize(
    ("option", "value"),
    [("in_flight", 0), ("max_tokens", 0), ("temperature", 0.0), ("timeout", 0.0), ("retries", -1),
     ("patience", -1.0), ("budget", 0)],
)  # fmt: skip
def test_options_that_cannot_be_followed_are_refused(option, value, clock):
    with pytest.raises(VLMError, match=f"{option} must .*, got {value}"):
        judge("http://127.0.0.1:9/v1", clock, **{option: value})


def test_an_option_of_another_kind_of_judge_is_refused():
    with pytest.raises(LoadError, match="has no option dtype; it has max_tokens, .*budget$"):
        open_vlm("http://127.0.0.1:9/v1", dtype="float16", batch=None)


def test_asking_a_server_loads_no_model_library():
    code = (
        "import sys; from dsd.vlm.open import open_vlm\n"
        "try: open_vlm('http://127.0.0.1:9/v1')\n"
        "except ValueError: print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={**os.environ}, capture_output=True, text=True
    )
    assert done.stdout == "False False\n"
