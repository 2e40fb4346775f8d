"""Requests to the served page: their share of the queue, their end, their sessions, and wrong values."""

import asyncio
from itertools import product

import httpx
import pytest

from dsd.ui import sessions, uploads, waiting
from tests import wheel_page
from tests.calling import API, asked, until

# ------------------------------------------------------------ the queue


def join(http, upload, **more):
    body = {"data": [upload, "a hat", 8, 100, *[None] * 7, "best", False], **more}
    return http.post(f"{API}/call/generate", json=body)


def test_nobody_holds_more_than_a_share_and_what_nobody_reads_ends(http, upload, blocks, monkeypatch):
    queue = blocks._queue
    lane = next(fn for fn in blocks.fns.values() if fn.api_name == "generate")
    sent = {"data": [upload, "a hat", 8, 100, *[None] * 7, "best", False], "fn_index": lane._id}
    one = [http.post(f"{API}/queue/join", json=sent | {"session_hash": "one"}) for _ in range(13)]
    refused = [answer for answer in one if answer.status_code == 503]
    assert 2 <= len(refused) <= 3 and "your share of the queue is full" in refused[0].json()["detail"]
    other = http.post(f"{API}/queue/join", json=sent | {"session_hash": "other"}).raise_for_status()
    order = [event._id for event in queue.waiting()]
    assert order.index(other.json()["event_id"]) <= 1, "before the second of the one who came first"
    monkeypatch.setattr(waiting, "UNREAD", 0)
    until(lambda: not queue.waiting() and not any(queue.active_jobs))
    assert "Nobody read the answer" in http.get(f"{API}/call/generate/{order[0]}").text


def test_a_request_that_takes_too_long_ends_with_a_sentence(http, upload, blocks, monkeypatch):
    monkeypatch.setattr(blocks._queue, "time_limit", 0.01)
    answer = asked(http, image=upload, steps=100, count=8)
    assert "more than 0.01 seconds: ask for fewer or smaller images" in answer.text


def test_what_somebody_reads_is_finished(http, upload, monkeypatch):
    monkeypatch.setattr(waiting, "CHECK", 0.01)
    assert "event: complete" in asked(http, image=upload, steps=20).text


@pytest.mark.parametrize("path", ["queue/data?session_hash=gone", "call/generate/gone"])
def test_who_asks_for_answers_that_are_gone_is_told_without_a_traceback(http, path, capsys, caplog):
    answer = http.get(f"{API}/{path}")
    assert answer.status_code == 200 and "404" in answer.text
    assert "Traceback" not in capsys.readouterr().err
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


# ------------------------------------------------------------ sessions


def test_programs_do_not_evict_pages(http, upload, blocks, monkeypatch):
    monkeypatch.setattr(sessions, "PROGRAMS", 3)
    cost = next(fn for fn in blocks.fns.values() if fn.name == "cost")
    shown = {"data": [part.value for part in cost.inputs], "fn_index": cost._id, "session_hash": "a-page"}
    http.post(f"{API}/run/predict", json=shown).raise_for_status()
    words = {
        "data": ["a hat"],
        "fn_index": next(f._id for f in blocks.fns.values() if f.api_name == "unknown_words"),
    }
    for number in range(6):
        http.post(f"{API}/run/predict", json=words | {"session_hash": f"program-{number}"}).raise_for_status()
    names = [f"program-{number}" for number in range(6)]
    until(lambda: [name for name in names if name in blocks.state_holder] == names[3:])
    assert "a-page" in blocks.state_holder
    monkeypatch.setattr(sessions, "PAGES", 1)
    http.post(f"{API}/run/predict", json=shown | {"session_hash": "next-page"}).raise_for_status()
    until(lambda: "a-page" not in blocks.state_holder)
    assert "next-page" in blocks.state_holder


def test_closed_pages_are_forgotten_before_one_that_is_open(http, blocks, monkeypatch):
    """A program may call the page's events under as many names as it likes."""
    monkeypatch.setattr(sessions, "PAGES", 2)
    cost = next(fn for fn in blocks.fns.values() if fn.name == "cost")
    shown = {"data": [part.value for part in cost.inputs], "fn_index": cost._id}

    def call(name: str) -> None:
        http.post(f"{API}/run/predict", json=shown | {"session_hash": name}).raise_for_status()

    with http.stream("GET", f"{API}/heartbeat/open-page"):
        call("open-page")
        for number in range(4):
            call(f"forged-{number}")
        until(lambda: "forged-2" not in blocks.state_holder)
        assert "open-page" in blocks.state_holder
    until(lambda: not sessions._open)
    call("forged-4")
    until(lambda: "open-page" not in blocks.state_holder)


def test_a_session_s_name_is_not_kept_if_it_is_too_long(http, upload, blocks):
    long = "x" * (sessions.LONGEST + 1)
    lane = next(fn for fn in blocks.fns.values() if fn.api_name == "generate")
    answer = http.post(f"{API}/queue/join", json={"data": [], "fn_index": lane._id, "session_hash": long})
    assert answer.status_code == 400 and "at most 100 characters, got 101" in answer.json()["detail"]
    words = next(fn for fn in blocks.fns.values() if fn.api_name == "unknown_words")
    body = {"data": ["a hat"], "fn_index": words._id, "session_hash": long}
    http.post(f"{API}/run/predict", json=body).raise_for_status()
    until(lambda: long not in blocks.state_holder)


# ------------------------------------------------------------ wrong values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": [1]}, "width must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"count": True}, "count must be a whole number"),
        ({"steps": 1.5}, "steps must be a whole number"),
        ({"image": "x"}, "image must be an uploaded file"),
        ({"image": [1]}, "image must be an uploaded file"),
        ({"image": None}, "no image yet"),
        ({"prompt": {"a": 1}}, "prompt must be a text"),
        ({"prompt": None}, "prompt is empty"),
        ({"fit": 3}, "fit must be a text"),
        ({"quality": "x" * 1000}, "uality must be"),
        ({"image_guidance": "1"}, "image guidance must be a number"),
        ({"bogus": 1}, "bogus is no field"),
    ],
)
def test_a_wrong_value_gets_a_sentence_that_names_its_field(http, upload, changes, words):
    answer = asked(http, **({"image": upload} | changes))
    assert words in answer.text and "null}" not in answer.text and answer.status_code in (200, 422)
    assert "event: error" in answer.text or answer.status_code == 422


@pytest.mark.parametrize("field", ["image", "prompt"])
def test_a_missing_field_is_named(http, upload, field):
    body = {"image": upload, "prompt": "a hat"}
    del body[field]
    answer = http.post(f"{API}/call/v2/generate", json=body)
    assert answer.status_code == 422 and answer.json()["detail"] == f"{field} is missing: give it a value"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("call/nonesuch", {"data": []}), ("call/v2/nonesuch", {}), ("run/nonesuch", {"data": []}),
        ("queue/join", {"data": [], "fn_index": 9999, "session_hash": "x"}), ("call/generate", {"data": 3}),
    ],
)  # fmt: skip
def test_a_request_that_fits_nothing_is_refused(http, path, body):
    answer = http.post(f"{API}/{path}", json=body)
    assert answer.status_code in (400, 404, 422) and answer.json()["detail"]


def test_no_event_answers_null(serve, tmp_path, caplog):
    """Every event of a page with all tabs, whatever it is given; only a forged request brings such values."""
    run = wheel_page.judged_run(tmp_path / "run", grids=1)
    address = serve(wheel_page.wheel(run=run, own=True))
    events = serve.opened[-1].fns.values()
    assert {"draw", "generate", "surprise", "export"} <= {fn.name for fn in events}
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        for fn, value in product(events, (None, 5, "x", [1], {"a": [1]})):
            body = {"data": [value] * len(fn.inputs), "fn_index": fn._id, "session_hash": "odd"}
            answer = http.post(f"{API}/run/predict", json=body)
            assert answer.status_code in (200, 400, 404), (fn.name, value)
            assert answer.status_code == 200 or answer.json().get("error") or answer.json()["detail"]
    caplog.clear()


# ------------------------------------------------------------ the end


def test_a_server_that_stops_ends_what_runs_after_some_seconds(http, upload, blocks):
    """Last: the drawing is reported to who waits for it, and its previews are gone."""
    before = {*uploads.workplace_folder().iterdir()}  # a killed server leaves its own
    ticket = join(http, upload).json()["event_id"]
    until(lambda: {*uploads.workplace_folder().iterdir()} > before)
    asyncio.run_coroutine_threadsafe(blocks._queue.drain(0.2), blocks._queue.loop).result(10)
    assert "The server is stopping" in http.get(f"{API}/call/generate/{ticket}").text
    until(lambda: {*uploads.workplace_folder().iterdir()} <= before)  # the current step ends first
