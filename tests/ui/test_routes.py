"""Every way into the served page, with what protects it: a new route fails here until somebody lists it."""

import re

import httpx
import pytest

from dsd.ui import gate, preview, server
from tests.calling import API

LOGIN = "needs the password"
CLOSED = "closed here"
FIXED = "the same for everybody: takes nothing, tells nothing of visitors"
OWN = "needs a random name that only its owner knows"
ROUTES = {
    "/": FIXED, "/config": LOGIN, "/login": FIXED, "/logout": FIXED, "/svelte/{path:path}": FIXED,
    "/static/{path:path}": FIXED, "/assets/{path:path}": FIXED, "/favicon.ico": FIXED, "/theme.css": FIXED,
    "/robots.txt": FIXED, "/pwa_icon": FIXED, "/pwa_icon/{size}": FIXED, "/manifest.json": FIXED,
    "/openapi.json": FIXED, "/monitoring": CLOSED, "/monitoring/summary": CLOSED, "/monitoring/{key}": CLOSED,
    f"{API}/user": OWN, f"{API}/login_check": LOGIN, f"{API}/token": OWN, f"{API}/app_id": FIXED,
    f"{API}/info": LOGIN, f"{API}/openapi.json": LOGIN, f"{API}/theme.css": FIXED,
    f"{API}/startup-events": FIXED,
    # what a request names goes through `Page.preprocess_data`
    f"{API}/run/{{api_name}}": LOGIN, f"{API}/api/{{api_name}}": LOGIN, f"{API}/queue/join": LOGIN,
    f"{API}/call/{{api_name}}": LOGIN, f"{API}/call/v2/{{api_name}}": LOGIN,
    f"{API}/call/{{api_name}}/{{event_id}}": LOGIN, f"{API}/call/v2/{{api_name}}/{{event_id}}": LOGIN,
    f"{API}/queue/data": LOGIN, f"{API}/queue/status": LOGIN,
    f"{API}/cancel": OWN, f"{API}/reset": OWN, f"{API}/heartbeat/{{session_hash}}": OWN,
    # only the upload folder and the examples, as tests/ui/test_safety.py shows
    f"{API}/file={{path_or_url:path}}": LOGIN, f"{API}/file/{{path:path}}": LOGIN,
    f"{API}/upload": LOGIN, f"{API}/upload_progress": LOGIN,
    f"{API}/deep_link": CLOSED, f"{API}/dev/reload": CLOSED, f"{API}/runs": CLOSED,
    f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}": CLOSED,
    f"{API}/proxy={{url_path:path}}": CLOSED, f"{API}/component_server": CLOSED,
    f"{API}/process_recording": CLOSED, f"{API}/vibe-edit": CLOSED, f"{API}/undo-vibe-edit": CLOSED,
    f"{API}/vibe-code": CLOSED, f"{API}/vibe-starter-queries": CLOSED,
    f"{API}/stream/{{event_id}}": CLOSED, f"{API}/stream/{{event_id}}/close": CLOSED,
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist.m3u8": CLOSED,
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/{{segment_id}}.{{ext}}": CLOSED,
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist-file": CLOSED,
}  # fmt: skip
AROUND = {server.HEALTH: FIXED, preview.ADDRESS: FIXED}  # answered before any route
MCP = {"", "/messages", "/schema", "/sse"}  # no password, and no file is read: tests/ui/test_api.py
ENDPOINTS = {"generate", "story", "unknown_words"}  # for programs; all other events are the page's own


@pytest.fixture(scope="module")
def private(serve) -> str:
    return serve(auth=("ada", "love"))


@pytest.fixture(scope="module")
def blocks(private, serve):
    return serve.opened[-1]


def walk(routes):
    for route in routes:
        yield from walk(route.original_router.routes) if hasattr(route, "original_router") else [route]


def test_every_route_is_listed(blocks):
    found = {route.path.rstrip("/") or "/" for route in walk(blocks.app.routes)}
    assert found == set(ROUTES)


def test_what_is_answered_before_any_route_is_the_same_with_and_without_the_password(blocks, private):
    assert not AROUND.keys() & {route.path for route in walk(blocks.app.routes)}
    with httpx.Client(base_url=private, trust_env=False, timeout=60) as http:
        before = {path: http.get(path) for path in AROUND}
        http.post("/login", data={"username": "ada", "password": "love"}).raise_for_status()
        for path, answer in before.items():
            assert answer.status_code == 200 and http.get(path).content == answer.content


def test_what_the_list_says_holds(blocks, private):
    with httpx.Client(base_url=private, trust_env=False, timeout=60) as http:
        for route in walk(blocks.app.routes):
            says = ROUTES[route.path.rstrip("/") or "/"]
            path = re.sub(r"{\w+(:path)?}", "x", route.path)
            for method in route.methods & {"GET", "POST"} if says in (LOGIN, CLOSED) else ():
                answer = http.request(method, path, params={"session_hash": "x", "upload_id": "x"}, json={})
                assert answer.status_code == {LOGIN: 401, CLOSED: 404}[says], (method, path)
                assert says == LOGIN or answer.json()["detail"] == gate.NOT_HERE


def test_mcp_adds_the_routes_that_are_listed_and_no_other(serve):
    pytest.importorskip("mcp", reason='pip install "gradio[mcp]"')
    serve(mcp=True)
    routes = {route.path.rstrip("/") or "/": route for route in walk(serve.opened[-1].app.routes)}
    assert set(routes) - set(ROUTES) == {f"{API}/mcp"}
    assert {route.path for route in routes[f"{API}/mcp"].routes} == MCP


@pytest.mark.parametrize(
    "path", ["file=https://example.org/x.png", "file=HTTP:/x", "file/http://x", "proxy=http://x"]
)
def test_no_route_fetches_a_web_address(private, path):
    with httpx.Client(base_url=private, trust_env=False, timeout=60) as http:
        http.post("/login", data={"username": "ada", "password": "love"}).raise_for_status()
        for quoted in (path, path.replace(":", "%3A"), path.replace("/", "%2F")):
            assert http.get(f"{API}/{quoted}").json()["detail"] == gate.NOT_HERE


def test_every_event_goes_through_the_gate(blocks):
    assert isinstance(blocks, gate.Page) and not blocks.api_open
    named = {fn.api_name for fn in blocks.fns.values() if fn.api_visibility != "private"}
    assert named == ENDPOINTS


@pytest.mark.parametrize("name", ["monitoring.png", "gradio_api-proxy=x.png", "file=http.png"])
def test_a_closed_address_closes_no_file_of_a_like_name(private, name):
    with httpx.Client(base_url=private, trust_env=False, timeout=60) as http:
        http.post("/login", data={"username": "ada", "password": "love"}).raise_for_status()
        (path,) = http.post(f"{API}/upload", files={"files": (name, b"x")}).json()
        assert http.get(f"{API}/file={path}").content == b"x"
