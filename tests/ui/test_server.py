"""The server around the page: hosts, limits, the queue, sessions, its log and its health."""

import asyncio
import json
import re
import shlex
import time
from pathlib import Path

import httpx
import pytest
from gradio import networking

import app
from dsd.ui import page, request_log, sessions, uploads, waiting
from dsd.ui import server as serving
from dsd.ui.server import make
from tests.calling import API, asked, until
from tests.project import read


@pytest.fixture(scope="module")
def server(serve) -> str:
    return serve(allow_host=["images.example.org"])


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


# ------------------------------------------------------------ health, log, paths


def test_health_needs_no_host(http):
    answer = http.get(serving.HEALTH, headers={"Host": "10.0.0.9"})
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_line_for_each_request_tells_nothing_of_its_contents(http, upload, capsys, monkeypatch):
    monkeypatch.setattr(request_log.log, "handlers", [])
    http.get("/config")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    request_log.start()
    asked(http, image=upload, prompt="a very secret hat")
    http.get(f"/?prompt=secret&{API}")
    http.get(f"{API}/file={upload['path']}")
    http.get("/config", headers={"Host": "secret.example"})
    written = []

    def has_all() -> bool:
        """Each request and the event have a line; an answer is read before its line is written."""
        written.append(capsys.readouterr().err)
        return "".join(written).count("\n") >= 6

    until(has_all)
    lines = "".join(written)
    rows = [json.loads(line) for line in lines.splitlines()]
    request_log.log.handlers = []
    (drawn,) = [row for row in rows if "event" in row]
    rows.remove(drawn)
    assert (drawn["event"], drawn["outcome"]) == ("generate", "done") and 0 < drawn["run"] <= drawn["seconds"]
    assert sorted(row["outcome"] for row in rows) == ["done"] * 4 + ["refused"], rows
    assert rows[0]["route"] == f"{API}/call/v2/{{api_name}}" and rows[0]["bytes_in"] > 50
    assert all(set(row) == set(rows[0]) and row["seconds"] >= 0 and row["bytes_out"] > 0 for row in rows)
    assert "secret" not in lines and Path(upload["path"]).name not in lines


def test_the_log_tells_of_the_page_of_uploads_and_of_who_leaves(http, upload, serve, capsys, monkeypatch):
    blocks = serve.opened[-1]
    lane = next(fn for fn in blocks.fns.values() if fn.api_name == "generate")
    drawing = next(fn for fn in blocks.fns.values() if fn.name == "cost")
    blocks._queue.create_event_queue_for_fn(lane)
    line = blocks._queue.event_queue_per_concurrency_id[lane.concurrency_id]
    monkeypatch.setattr(request_log.log, "handlers", [])
    request_log.start()
    monkeypatch.setattr(line, "current_concurrency", 1)  # what comes waits
    ticket = http.post(f"{API}/call/v2/generate", json={"image": upload, "prompt": "secret"}).json()[
        "event_id"
    ]
    body = {"session_hash": ticket, "event_id": ticket, "fn_index": lane._id}
    http.post(f"{API}/cancel", json=body).raise_for_status()
    http.post(f"{API}/upload", files={"files": ("secret.png", b"secret")}).raise_for_status()
    shown = {
        "data": [part.value for part in drawing.inputs],
        "fn_index": drawing._id,
        "session_hash": "secret",
    }
    http.post(f"{API}/queue/join", json=shown).raise_for_status()
    written: list[str] = []

    def events() -> list[dict]:
        written.append(capsys.readouterr().err)
        return [row for line in "".join(written).splitlines() if "event" in (row := json.loads(line))]

    until(lambda: len(events()) == 2)
    rows = [json.loads(line) for line in "".join(written).splitlines()]
    assert [(row["event"], row["outcome"]) for row in events()] == [
        ("generate", "canceled"),
        ("page", "done"),
    ]
    (sent,) = [row for row in rows if row.get("route") == f"{API}/upload"]
    assert (sent["status"], sent["outcome"]) == (200, "done") and sent["bytes_in"] > 6
    assert all({"time", "seconds", "outcome"} <= set(row) for row in rows)
    assert "secret" not in "".join(written)


def test_behind_a_proxy_and_a_public_link(serve, monkeypatch, capsys):
    monkeypatch.setenv(serving.PROXIES, "")
    monkeypatch.setattr(networking, "setup_tunnel", lambda **_: "http://fox.gradio.live")
    address = serve(root_path="/dsd", share=True, trust_proxy=["127.0.0.1"])
    monkeypatch.setattr(serving, "MAX_HOURLY", 10_000)

    def upload(of: str) -> int:
        headers = {"X-Forwarded-For": of, "Host": "fox.gradio.live"}
        return http.post(
            f"{API}/upload", files={"files": ("a.png", b"x" * 6000)}, headers=headers
        ).status_code

    with httpx.Client(base_url=address, trust_env=False, timeout=60) as http:
        assert http.get("/config").json()["root"].endswith("/dsd")
        assert [upload("192.0.2.1"), upload("192.0.2.1"), upload("192.0.2.2")] == [200, 429, 200]
        assert http.get("/config", headers={"Host": "eve.gradio.live"}).status_code == 403
    assert serve.opened[-1]._queue.by_address


def test_a_server_that_stops_says_so():
    async def ask(method: str, path: str) -> int:
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "headers": [(b"host", b"localhost")]}
        await serving.guard(None, serving.Server(stopping=True))(scope, None, send)
        return sent[0]["status"]

    assert asyncio.run(ask("GET", serving.HEALTH)) == asyncio.run(ask("POST", f"{API}/queue/join")) == 503


# ------------------------------------------------------------ what the pages say of it


def test_the_page_on_serving_shows_commands_and_limits_as_they_are():
    text = read("docs/serving.md")
    words = " ".join(text.split())
    (line,) = re.findall(r"^python app.py (.+)$", text, re.MULTILINE)
    args = app.parse(shlex.split(line))
    app.check(args)
    assert (args.allow_host, args.trust_proxy, args.root_path) == (
        ["images.example.org"],
        ["127.0.0.1"],
        "/dsd",
    )
    assert args.log_requests and args.time_limit is None
    for limit in (
        f"{serving.MAX_BODY // 10**6} MB, {serving.MAX_SECONDS} seconds", f"{uploads.MAX_TOTAL // 10**9} GB",
        f"{serving.MAX_HOURLY // 10**6} MB of uploads and", f"after {waiting.UNREAD} seconds",
        f"{page.QUEUE} waiting, {waiting.SHARE} of one visitor", f"{serving.GRACE} seconds to finish",
        f"{sessions.PAGES} pages and {sessions.PROGRAMS} programs",
    ):  # fmt: skip
        assert limit in words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--root-path", "dsd"], "--root-path must begin with /"),
        (["--time-limit", "0"], "--time-limit must be above 0 seconds, got 0"),
        (["--time-limit", "nan"], "--time-limit must be above 0 seconds, got nan"),
        (["--allow-host", "*"], "--allow-host takes a host name"),
        (["--trust-proxy", "proxy"], "--trust-proxy takes an address"),
    ],
)
def test_a_wrong_option_is_refused_before_any_model_is_opened(flags, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        app.check(app.parse(flags))


def test_hosts_come_from_a_variable_too(monkeypatch):
    monkeypatch.setenv(app.ALLOW, "a.example b.example")
    assert app.parse(["--allow-host", "c.example"]).allow_host == ["a.example", "b.example", "c.example"]
