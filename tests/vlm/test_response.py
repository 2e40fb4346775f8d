"""Whatever a server sends: too much, too slowly, in odd charsets, half a character, nested deeply."""

import gzip
import json
import time

import httpx
import pytest

from dsd.files import jsonl
from dsd.vlm.open import LoadError, VLMError, open_vlm
from dsd.vlm.recorded import FILE, Recorded
from dsd.vlm.response import parse_object, read_status, read_whole
from tests.chat import faults
from tests.chat.faults import Fault
from tests.chat.server import Chat, serving
from tests.loopback import Reply
from tests.loopback import serving as listing

SECRET = "sk-response-0123456789"


def content(text: str, encoding: str = "utf-8") -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}, ensure_ascii=False).encode(encoding)


def ask(fault: Fault, **options) -> str:
    with serving(Chat(before=[fault])) as address:
        return open_vlm(address, **{"retries": 0, "patience": 0, **options}).ask("?")


@pytest.mark.parametrize("fault", [Fault(b" " * 4000, drip=0.2), Fault(crawl=0.1)], ids=["body", "headers"])
def test_a_response_that_drips_ends_with_the_timeout(fault):
    start = time.monotonic()
    with pytest.raises(VLMError, match="did not end in time"):
        ask(fault, timeout=0.5)
    assert time.monotonic() - start < 1.5


def test_headers_that_do_not_end_keep_no_later_request_waiting():
    with serving(Chat(before=[Fault(crawl=0.1)])) as address:
        vlm = open_vlm(address, in_flight=1, timeout=0.5)
        vlm.client.sleep = lambda seconds: None
        assert vlm.ask("?") and vlm.client.sent == 2


def test_a_response_that_is_too_large_is_not_read_to_its_end():
    with pytest.raises(VLMError, match="sent more than 1 MiB in one response: lower --max-tokens"):
        ask(faults.oversized(2))


def test_a_response_that_is_too_large_unpacked_is_not_unpacked_to_its_end():
    with pytest.raises(VLMError, match="sent more than 1 MiB in one response"):
        ask(Fault(gzip.compress(b" " * 2**24), headers={"Content-Encoding": "gzip"}))


@pytest.mark.parametrize(
    ("charset", "encoding"),
    [("utf-8", "utf-8"), ("shift_jis", "shift_jis"), ("utf-16", "utf-16"), ("base64", "utf-8"),
     ("klingon", "utf-8"), ("ascii", "utf-8"), ("utf-8", "utf-8-sig"), ("rot13", "utf-8")],
)  # fmt: skip
def test_an_answer_is_read_in_any_charset(charset, encoding):
    fault = Fault(content("同じ", encoding), headers={"Content-Type": f"application/json; charset={charset}"})
    assert ask(fault) == "同じ"


def test_bytes_in_no_charset_are_replaced_and_not_lost():
    assert ask(Fault(content("same").replace(b"same", b"s\xffme"))) == "s\ufffdme"


def test_half_a_character_can_be_written(tmp_path):
    body = b'{"choices": [{"message": {"content": "verdict: same \\ud83d \\ud83d\\ude00"}}]}'
    with serving(Chat(before=[Fault(body)])) as address:
        assert Recorded(open_vlm(address), tmp_path).ask("?") == "verdict: same \ufffd \U0001f600"
    assert len(jsonl.read_all(tmp_path / FILE)) == 1


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"choices": 3}', b'{"choices": [[]]}']
)
def test_other_json_ends_in_a_sentence(body):
    with pytest.raises(VLMError, match="does not speak the OpenAI protocol"):
        ask(Fault(body))


def test_a_code_of_thousands_of_digits_is_an_error_like_any_other():
    body = json.dumps({"error": {"code": "9" * 5000}}).encode()
    assert read_status(httpx.Response(200, content=body)) == 500
    assert parse_object(httpx.Response(200, content=b"9" * 5000)) is None


def test_a_body_within_the_limit_is_whole():
    whole = read_whole(httpx.Response(429, headers={"Retry-After": "3"}, content=b"x" * 9), 9, lambda: False)
    assert (whole.text, whole.status_code, whole.headers["retry-after"]) == ("x" * 9, 429, "3")


def test_a_model_that_is_named_like_the_key_is_asked_but_never_written(monkeypatch):
    monkeypatch.setenv("DSD_VLM_KEY", SECRET)
    asked = []
    models = Reply({"data": [{"id": f"org/{SECRET}"}]})
    with listing(lambda body: asked.append(body["model"]) or Reply("fine"), models=lambda: models) as address:
        vlm = open_vlm(address)
        assert vlm.ask("?") == "fine"
    assert vlm.name == "org/***" and asked == [f"org/{SECRET}"]


def test_a_placeholder_in_place_of_a_key_is_not_removed_from_answers(monkeypatch):
    monkeypatch.setenv("DSD_VLM_KEY", "same")
    assert ask(Fault(content("verdict: same"))) == "verdict: same"


def test_a_list_of_models_without_end_is_refused():
    models = Reply({"data": [{"id": "x" * 100}] * 100_000})
    with listing(lambda body: Reply("fine"), models=lambda: models) as address:
        with pytest.raises(LoadError, match="more than 8 MiB"):
            open_vlm(address)
