"""The server around the page: hosts, limits, the queue, sessions, its log and its health."""

import json
import time
from pathlib import Path

import httpx
import pytest

from dsd.ui import server as serving
from dsd.ui import sessions, uploads, waiting
from dsd.ui.server import make
from tests import uploads as corpus
from tests.calling import API, asked, file


@pytest.fixture(scope="module")
def server(serve) -> str:
    return serve(allow_host=["images.example.org"])


@pytest.fixture(scope="module")
def blocks(server, serve):
    return serve.opened[-1]


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server, trust_env=False, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def upload(http) -> dict:
    data = corpus.saved(corpus.noise(), "PNG")
    return file(http.post(f"{API}/upload", files={"files": ("mine.png", data)}).raise_for_status().json()[0])


def until(condition) -> None:
    """Wait: the server does some things after its answer."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


# ------------------------------------------------------------ hosts and origins

PAGE = "images.example.org"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:7860", None, 200),
        ("localhost", "http://localhost:3000", 200),  # the JavaScript client while a site is developed
        (PAGE, f"https://{PAGE}", 200),  # behind a reverse proxy
        (PAGE.upper(), f"https://{PAGE}:8443", 200),
        ("127.0.0.1", f"https://{PAGE}", 200),
        ("evil.example", None, 403),
        (f"{PAGE}.evil.example", None, 403),
        ("192.0.2.1", None, 403),
        ("", None, 403),
        (PAGE, "https://evil.example", 403),
        ("127.0.0.1", f"https://evil.example/{PAGE}", 403),
        (PAGE, "null", 403),
        (PAGE, "http://[", 403),
    ],
)
def test_foreign_hosts_and_origins_are_refused_with_the_remedy(http, host, origin, status):
    answer = http.get("/config", headers={"Host": host} | ({"Origin": origin} if origin else {}))
    assert answer.status_code == status
    if status == 403:
        assert "not allowed here: start the app with --allow-host" in answer.json()["detail"]


def test_a_space_takes_its_own_name_and_the_frame_around_it(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv(serving.SPACE_HOST, "ada-fox.hf.space")
    headers = serving.Headers
    check = make().check_host
    check(headers({"host": "ada-fox.hf.space", "origin": "https://ada-fox.hf.space"}))
    check(headers({"host": "ada-fox.hf.space", "origin": "https://huggingface.co"}))
    check(headers({"host": "10.0.3.7:7860"}))  # a probe inside the cluster
    for foreign in (
        {"host": "eve-fox.hf.space"},
        {"host": "ada-fox.hf.space", "origin": "https://evil.example"},
    ):
        with pytest.raises(serving.Refused, match="not allowed"):
            check(headers(foreign))


def test_on_a_network_any_host_is_taken_but_only_its_own_origin():
    check = make(host="0.0.0.0").check_host
    check(serving.Headers({"host": "studio.lan:7860", "origin": "http://studio.lan:7860"}))
    with pytest.raises(serving.Refused, match="origin"):
        check(serving.Headers({"host": "studio.lan:7860", "origin": "http://evil.example"}))


@pytest.mark.parametrize("name", ["", "*", "*.example.org", "example.org/path", "https://example.org/x"])
def test_a_host_that_is_none_is_refused_at_the_start(name):
    with pytest.raises(ValueError, match="--allow-host"):
        serving.check([name], [])


def test_a_proxy_is_an_address(monkeypatch):
    with pytest.raises(ValueError, match="--trust-proxy"):
        serving.check([], ["proxy.lan"])
    serving.check(["example.org", "https://example.org:8443"], ["10.0.0.1", "10.0.0.0/8", "::1"])
    monkeypatch.setenv(serving.PROXIES, "")
    assert make(proxies=["10.0.0.1", "::1"]).trusts_proxy
    assert serving.os.environ[serving.PROXIES] == "10.0.0.1,::1"


# ------------------------------------------------------------ limits


def test_a_request_may_have_so_many_bytes(http, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY", 1000)
    for body in ({"content": b"x" * 1001}, {"content": iter([b"x" * 600] * 2)}):
        answer = http.post(f"{API}/call/v2/generate", **body)
        assert answer.status_code == 413 and "send a smaller image" in answer.json()["detail"]


def test_a_request_that_arrives_slowly_is_ended(http, monkeypatch):
    monkeypatch.setattr(serving, "MAX_SECONDS", 0.2)

    def slowly():
        yield b"{"
        time.sleep(0.6)
        yield b"}"

    answer = http.post(f"{API}/call/v2/generate", content=slowly())
    assert answer.status_code == 408 and "to arrive" in answer.json()["detail"]


def test_when_space_is_short_the_oldest_files_not_in_use_go(tmp_path, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_TOTAL", 300)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(b"x" * 100)
        time.sleep(0.01)
    assert not uploads.make_room(100), "all are in use"
    monkeypatch.setattr(uploads, "IN_USE", -1)
    assert uploads.make_room(0) and all(path.exists() for path in paths)
    uploads.use(paths[0])
    assert uploads.make_room(100)
    assert [path.exists() for path in paths] == [True, False, True]


def test_without_space_an_upload_is_refused(http, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_TOTAL", 10)
    answer = http.post(f"{API}/upload", files={"files": ("a.png", b"x" * 100)})
    assert answer.status_code == 507 and "try again" in answer.json()["detail"]


def test_an_address_may_upload_so_much_if_a_proxy_tells_addresses():
    with_proxy, without = serving.Server(trusts_proxy=True), serving.Server()
    for server in (with_proxy, without):
        server.check_upload("192.0.2.1", serving.MAX_HOURLY)
    without.check_upload("192.0.2.1", 1)
    with_proxy.check_upload("192.0.2.2", 1)
    with pytest.raises(serving.Refused, match="300 MB"):
        with_proxy.check_upload("192.0.2.1", 1)


# ------------------------------------------------------------ the queue


def join(http, upload, **more):
    body = {"data": [upload, "a hat", 8, 100, *[None] * 7, "best"], **more}
    return http.post(f"{API}/call/generate", json=body)


def test_nobody_holds_more_than_a_share_and_what_nobody_reads_ends(http, upload, blocks, monkeypatch):
    queue = blocks._queue
    lane = next(fn for fn in blocks.fns.values() if fn.api_name == "generate")
    sent = {"data": [upload, "a hat", 8, 100, *[None] * 7, "best"], "fn_index": lane._id}
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


# ------------------------------------------------------------ sessions


def test_programs_do_not_evict_pages(http, upload, blocks, monkeypatch):
    monkeypatch.setattr(sessions, "PROGRAMS", 3)
    page = next(fn for fn in blocks.fns.values() if fn.name == "cost")
    shown = {"data": [1, 1, 1, 1, 64, 64, "best"], "fn_index": page._id, "session_hash": "a-page"}
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
        ({"image_guidance": "1"}, "image_guidance must be a number"),
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


def test_no_event_answers_null(http, blocks):
    """Every event of the page, whatever it is given."""
    for fn in blocks.fns.values():
        for value in (None, 5, "x", [1], {"a": [1]}):
            body = {"data": [value] * len(fn.inputs), "fn_index": fn._id, "session_hash": "odd"}
            answer = http.post(f"{API}/run/predict", json=body)
            assert answer.status_code in (200, 400, 404), (fn.name, value)
            assert answer.status_code == 200 or answer.json().get("error") or answer.json()["detail"]


# ------------------------------------------------------------ health, log, paths


def test_health_needs_no_host(http):
    answer = http.get(serving.HEALTH, headers={"Host": "10.0.0.9"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_line_for_each_request_tells_nothing_of_its_contents(http, upload, capsys, monkeypatch):
    monkeypatch.setattr(serving.log, "handlers", [])
    http.get("/config")
    assert capsys.readouterr().err == ""
    serving.log_requests()
    asked(http, image=upload, prompt="a very secret hat")
    http.get(f"/?prompt=secret&{API}")
    http.get(f"{API}/file={upload['path']}")
    http.get("/config", headers={"Host": "secret.example"})
    time.sleep(0.2)  # an answer is read before its line is written
    lines = capsys.readouterr().err
    rows = [json.loads(line) for line in lines.splitlines()]
    serving.log.handlers = []
    assert sorted(row["outcome"] for row in rows) == ["done"] * 4 + ["refused"], rows
    assert rows[0]["route"] == f"{API}/call/v2/{{api_name}}" and rows[0]["bytes_in"] > 50
    assert all(set(row) == set(rows[0]) and row["seconds"] >= 0 and row["bytes_out"] > 0 for row in rows)
    assert "secret" not in lines and Path(upload["path"]).name not in lines


def test_behind_a_path_the_page_knows_where_it_is(serve):
    address = serve(root_path="/dsd")
    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        assert http.get("/config").json()["root"].endswith("/dsd")
        assert http.get(serving.HEALTH).status_code == 200
