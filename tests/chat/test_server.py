"""The fake server itself, asked by a plain HTTP client."""

import json
import time
from email.utils import parsedate_to_datetime

import httpx
import pytest

from dsd.grids.recipes import IDENTITY
from tests.chat import faults
from tests.chat.asking import chat, message, picture
from tests.chat.server import Chat, serving
from tests.chat.styles import READABLE, STYLES

BLUE, ORANGE, RED = (0, 0, 255), (255, 112, 0), (255, 0, 0)
WHOLE = {"type": "integer"}
SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "string"},
        "scores": {"type": "object", "properties": {"shape": WHOLE, "color": WHOLE}},
        "verdict": {"type": "string", "enum": ["same", "different"]},
    },
}  # fmt: skip
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


def compare(address: str, *colors: tuple, **more) -> httpx.Response:
    return chat(address, IDENTITY.question, *map(picture, colors), **more)


def content(answer: httpx.Response):
    return message(answer)["content"]


@pytest.mark.parametrize("style", READABLE)
def test_the_verdict_depends_on_the_images_in_every_style(style):
    with serving(Chat(style=style)) as address:
        said = {
            name: json.dumps(content(compare(address, RED, other))).lower()
            for name, other in (("same", ORANGE), ("different", BLUE))
        }
    for verdict, words in said.items():
        last = max(("same", "different"), key=lambda one: words.rfind(one))
        assert last == verdict, words


def test_all_styles_write_different_answers():
    answers = set()
    for style in STYLES:
        with serving(Chat(style=style)) as address:
            answers.add(json.dumps(compare(address, RED, ORANGE).json()["choices"]))
    assert len(answers) == len(STYLES) >= 24


def test_the_answer_has_the_parts_that_the_question_names():
    with serving(Chat()) as address:
        lines = content(compare(address, RED, BLUE)).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "subject", "first", "second", "differences", "scores", "verdict",
    ]  # fmt: skip
    assert lines[4] == "scores: shape 4, color 1, texture 4, face 4, details 4"


def test_a_schema_is_honored_where_the_server_supports_it():
    with serving(Chat(style="markdown", schemas=True)) as address:
        said = json.loads(content(compare(address, RED, BLUE, response_format=FORMAT)))
    assert said == {"subject": "a robot", "scores": {"shape": 4, "color": 1}, "verdict": "different"}


def test_a_schema_is_ignored_where_it_does_not():
    with serving(Chat(style="markdown")) as address:
        assert "**Verdict:** different" in content(compare(address, RED, BLUE, response_format=FORMAT))


def test_captions_filters_and_drafts_have_their_own_answers():
    caption = 'Here is the caption of a picture: "a red fox in the snow"\n'
    with serving(Chat()) as address:
        assert content(chat(address, "Describe this picture.", picture(BLUE))).startswith("a blue robot ")
        assert content(chat(address, "What changes?", picture(RED), picture(BLUE))).startswith("move it ")
        assert content(chat(address, f"{caption}Is it clear? Answer yes or no.")) == "yes"
        draft = content(chat(address, f"{caption}Then give 2 situations to show it in.")).splitlines()
    assert draft == ["subject: small a red fox in the snow", "1: in deep snow", "2: on a sandy beach"]


# ---------------------------------------------------------------- dialects


def test_a_reasoning_model_refuses_max_tokens_and_temperature():
    with serving(Chat(reasoning_model=True)) as address:
        first = chat(address, "hello", max_tokens=8)
        second = chat(address, "hello", max_completion_tokens=8, temperature=0)
        assert chat(address, "hello", max_completion_tokens=8).status_code == 200
    assert first.status_code == 400 and "max_completion_tokens" in first.json()["error"]["message"]
    assert second.status_code == 400 and second.json()["error"]["param"] == "temperature"


def test_several_models_are_listed_and_one_has_to_be_named():
    with serving(Chat(models=("judge-7b", "writer-32b"))) as address:
        listed = [one["id"] for one in httpx.get(f"{address}/models").json()["data"]]
        assert listed == ["judge-7b", "writer-32b"]
        assert chat(address, "hello", model="writer-32b").status_code == 200
        assert chat(address, "hello", model="nobody").status_code == 404


def test_a_key_is_checked_and_an_address_without_v1_is_a_web_page():
    with serving(Chat(key="sk-1")) as address:
        assert chat(address, "hello").status_code == 401
        assert chat(address, "hello", key="sk-1").status_code == 200
        assert "<title>" in httpx.get(address.removesuffix("/v1")).text


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("status", [500, 503, 529])
def test_faults_come_first_and_then_the_answer(status):
    with serving(Chat(before=[faults.error(status, "Overloaded")])) as address:
        assert chat(address, "hello").status_code == status
        assert chat(address, "hello").status_code == 200


def test_a_rate_limit_says_how_long_to_wait_in_both_forms():
    with serving(Chat(before=[faults.rate_limited(3), faults.rate_limited_until(3)])) as address:
        first, second = chat(address, "hello"), chat(address, "hello")
    assert first.status_code == second.status_code == 429 and first.headers["Retry-After"] == "3"
    then, now = (parsedate_to_datetime(second.headers[name]) for name in ("Retry-After", "Date"))
    assert (then - now).total_seconds() == 3


def test_errors_inside_a_200_and_content_filters():
    before = [faults.error_in_200(), faults.no_choices(), faults.filtered_prompt()]
    with serving(Chat(before=before, style="filtered")) as address:
        inside, empty, blocked, filtered = (chat(address, "hello") for _ in range(4))
    assert inside.status_code == 200 and inside.json()["error"]["code"] == 500
    assert empty.json()["choices"] == []
    assert blocked.status_code == 400 and blocked.json()["error"]["code"] == "content_filter"
    assert filtered.json()["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.Fault(reset=True), httpx.ReadError),
        (faults.Fault(closed=True), httpx.RemoteProtocolError),
        (faults.Fault(b"x" * 100, cut=50), httpx.RemoteProtocolError),
        (faults.Fault(b"{}", wait=0.5), httpx.ReadTimeout),
    ],
)
def test_connections_that_break(fault, error):
    with serving(Chat(before=[fault])) as address:
        with pytest.raises(error):
            chat(address, "hello", timeout=0.2)
        assert chat(address, "hello").status_code == 200


def test_a_dripping_body_arrives_late_although_no_read_times_out():
    with serving(Chat(before=[faults.Fault(b"{}" + b" " * 78, drip=0.05)])) as address:
        start = time.perf_counter()
        assert chat(address, "hello", timeout=0.2).json() == {}
    assert time.perf_counter() - start > 0.3


def test_oversized_bodies_garbage_and_web_pages():
    with serving(Chat(before=[faults.oversized(2), faults.garbage(), faults.web_page()])) as address:
        assert len(chat(address, "hello").content) > 2_000_000
        for _ in range(2):
            with pytest.raises(ValueError):
                chat(address, "hello").json()


def test_one_image_can_be_refused_and_every_body_is_kept():
    def refuses(words, images):
        return faults.filtered_prompt() if images and images[0].getpixel((0, 0)) == BLUE else None

    behavior = Chat(refuses=refuses)
    with serving(behavior) as address:
        assert chat(address, "Describe it.", picture(BLUE)).status_code == 400
        assert chat(address, "Describe it.", picture(RED)).status_code == 200
    assert len(behavior.seen) == 2 and behavior.seen[0]["model"] == "judge-7b"
