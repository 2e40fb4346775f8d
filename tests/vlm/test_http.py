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

from dsd.vlm.client import is_loopback
from dsd.vlm.open import LoadError, VLMError, open_vlm
from tests import tiny
from tests.loopback import Reply, serving, speedup
from tests.servers import Clock, judge, question, script, words


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---------------------------------------------------------------- what is asked


def test_a_image_arrives_to_the_pixel_before_the_question(clock):
    answer, seen = script()
    with serving(answer) as address:
        assert judge(address, clock, max_tokens=9).ask("which?", [tiny.image(0), tiny.image(1)]) == "fine"
    first, second, text = seen[0]["messages"][0]["content"]
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
