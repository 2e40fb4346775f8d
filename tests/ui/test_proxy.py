"""The app behind a real reverse proxy, on a Space, and asked by pages of other sites."""

import re
import shlex

import httpx
import pytest
from gradio_client import Client, handle_file

import app
from dsd.generate import provenance
from dsd.ui import preview
from dsd.ui import server as serving
from dsd.ui.waiting import SHARE
from tests import proxy
from tests.calling import API, until

FRIEND, EVIL = "https://images.example.org", "https://evil.example"
FLAGS = "--root-path /dsd --trust-proxy 127.0.0.1 --allow-host images.example.org"


@pytest.fixture(scope="module")
def direct(serve) -> str:
    """The app's own address."""
    given = app.parse(shlex.split(FLAGS))
    names = ("root_path", "trust_proxy", "allow_host")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(serving.PROXIES, "")
        yield serve(**{name: getattr(given, name) for name in names})


@pytest.fixture(scope="module")
def blocks(direct, serve):
    return serve.opened[-1]


@pytest.fixture(scope="module")
def server(direct) -> str:
    """The address that visitors know."""
    with proxy.serving(direct, "/dsd") as address:
        yield address


@pytest.fixture(scope="module")
def http(direct):
    with httpx.Client(base_url=direct, trust_env=False, timeout=60) as http:
        yield http


def test_a_program_draws_through_a_proxy(server, photo, tmp_path):
    client = Client(server, verbose=False, download_files=tmp_path)
    asked = {"image": handle_file(photo), "prompt": "a hat", "steps": 2, "seed": 3}
    (file,), seeds = client.predict(**asked, api_name="/generate")
    assert seeds == [3] and provenance.read_settings(file)["prompt"] == "a hat"


def test_what_the_page_names_is_there_through_a_proxy(server):
    with httpx.Client(trust_env=False, timeout=60) as http:
        text = http.get(f"{server}/").text
        named = re.findall(r'<meta property="og:image" content="([^"]*)">', text)
        assert named == [f"{server}/preview.png"]
        assert http.get(named[0]).content == preview.IMAGE.read_bytes()
        config = http.get(f"{server}/config").json()
        assert config["root"] == server
        address = re.search(rf'"({re.escape(server)}/gradio_api/file=[^"]+\.png)"', text)[1]
        assert http.get(address).headers["content-type"] == "image/png"


def test_a_visitor_draws_through_a_proxy(server, photo):
    browsing = pytest.importorskip("tests.browsing")
    with browsing.browser() as browser, browsing.visitors(browser, f"{server}/") as open_page:
        tab = open_page()
        tab.locator("#upload input[type=file]").set_input_files(photo)
        tab.locator("#seen img").wait_for()
        tab.get_by_label("Where should it be?").fill("a hat")
        tab.get_by_role("button", name="Create").click()
        browsing.done(tab)
        shown = tab.locator("#images img").first
        assert shown.get_attribute("src").startswith(f"{server}/gradio_api/file=")
        assert shown.evaluate("image => image.naturalWidth") > 0


def test_all_sessions_of_an_address_share_its_places(http, blocks):
    lane = next(fn for fn in blocks.fns.values() if fn.api_name == "generate")
    body = {"data": [None] * len(lane.inputs), "fn_index": lane._id}

    def join(address: str, session: str) -> httpx.Response:
        headers = {"X-Forwarded-For": address}
        return http.post(f"{API}/queue/join", json=body | {"session_hash": session}, headers=headers)

    blocks._queue.event_queue_per_concurrency_id.clear()
    blocks._queue.create_event_queue_for_fn(lane)
    line = blocks._queue.event_queue_per_concurrency_id[lane.concurrency_id]
    line.current_concurrency += 1  # all of them wait
    try:
        codes = [join("192.0.2.1", f"invented-{number}").status_code for number in range(SHARE + 2)]
        assert codes == [200] * SHARE + [503] * 2
        assert join("192.0.2.2", "one").status_code == 200
    finally:
        line.current_concurrency -= 1
    until(lambda: not blocks._queue.waiting())


# ------------------------------------------------------------ pages of other sites


def ask(http: httpx.Client, origin: str, method: str, path: str, **more) -> httpx.Response:
    headers = {"Host": "images.example.org", "Origin": origin}
    return http.request(method, f"{API}/{path}", headers=headers, **more)


def test_the_javascript_client_on_an_allowed_site_may_read_what_it_asks_for(http):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    headers = {"Host": "images.example.org", "Origin": FRIEND} | asked
    before = http.options(f"{API}/call/unknown_words", headers=headers)
    joined = ask(http, FRIEND, "POST", "call/unknown_words", json={"data": ["a hat"]})
    read = ask(http, FRIEND, "GET", f"call/unknown_words/{joined.json()['event_id']}")
    assert "event: complete" in read.text
    for answer in (before, joined, read):
        assert answer.headers["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "call/unknown_words"), ("POST", "call/v2/unknown_words"), ("POST", "queue/join"),
     ("POST", "run/predict"), ("POST", "upload"), ("POST", "cancel"), ("GET", "queue/data"), ("GET", "info")],
)  # fmt: skip
def test_a_foreign_site_may_not(http, method, path):
    for origin in (EVIL, "null"):
        answer = ask(
            http, origin, method, path, **({"json": {"data": ["a hat"]}} if method == "POST" else {})
        )
        assert answer.status_code == 403 and "not allowed here" in answer.json()["detail"]


# ------------------------------------------------------------ a Space


def test_a_space_serves_its_page_and_the_frame_around_it(serve, monkeypatch):
    space = {"SPACE_ID": "ada/fox", "SPACE_HOST": "ada-fox.hf.space", "SYSTEM": "spaces"}
    for name, value in (space | {"GRADIO_SERVER_NAME": "0.0.0.0"}).items():
        monkeypatch.setenv(name, value)
    address = serve().replace("0.0.0.0", "127.0.0.1")
    headers = {"Host": space["SPACE_HOST"], "X-Forwarded-Proto": "https"}
    with httpx.Client(base_url=address, trust_env=False, timeout=60, headers=headers) as http:
        page = http.get("/", headers={"Referer": "https://huggingface.co/spaces/ada/fox"})
        assert page.status_code == 200 and "x-frame-options" not in page.headers
        assert "frame-ancestors" not in page.headers.get("content-security-policy", "")
        assert http.get("/config").json()["root"] == "https://ada-fox.hf.space"
        for origin in ("https://ada-fox.hf.space", "https://huggingface.co"):
            body = {"json": {"data": ["a hat"]}, "headers": {"Origin": origin}}
            assert http.post(f"{API}/call/unknown_words", **body).status_code == 200
        body["headers"] = {"Origin": "https://eve-fox.hf.space"}
        assert http.post(f"{API}/call/unknown_words", **body).status_code == 403
