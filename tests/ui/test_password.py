"""A page with a password: nothing without it, all with it."""

import httpx
import pytest
from gradio_client import Client, handle_file
from PIL import Image

import app
from tests import uploads as corpus
from tests.calling import API, asked, file
from tests.project import ROOT

PAIR = {"username": "ada", "password": "lo:velace"}


@pytest.fixture(scope="module")
def private(serve) -> str:
    return serve(auth=(PAIR["username"], PAIR["password"]))


@pytest.mark.parametrize(
    "path", ["/config", f"{API}/info", f"{API}/queue/data?session_hash=x", f"{API}/file={ROOT}/app.py"]
)
def test_without_the_password_nothing_is_told(private, path):
    with httpx.Client(base_url=private, trust_env=False, timeout=600) as http:
        assert http.get(path).status_code == 401
        front = http.get("/").text
        assert '"auth_required":true' in front and '"components":[],"dependencies":[]' in front


def test_without_the_password_nothing_is_taken(private):
    with httpx.Client(base_url=private, trust_env=False, timeout=600) as http:
        assert http.post(f"{API}/upload", files={"files": ("a.png", b"x")}).status_code == 401
        assert http.post(f"{API}/call/generate", json={"data": []}).status_code == 401
        assert http.post(f"{API}/call/v2/generate", json={}).status_code == 401
        assert http.post(f"{API}/queue/join", json={"data": [], "session_hash": "x"}).status_code == 401
        for wrong in (PAIR | {"password": "lovelace"}, PAIR | {"username": "eve"}, PAIR | {"password": ""}):
            assert http.post("/login", data=wrong).status_code in (400, 422)
        assert http.get("/config").status_code == 401


def test_with_the_password_all_is_as_ever(private, tmp_path):
    with httpx.Client(base_url=private, trust_env=False, timeout=600) as http:
        assert http.post("/login", data=PAIR).json() == {"success": True}
        assert "dependencies" in http.get("/config").text
        data = corpus.saved(corpus.noise(), "PNG")
        (path,) = http.post(f"{API}/upload", files={"files": ("mine.png", data)}).json()
        assert "event: complete" in asked(http, image=file(path)).text
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    client = Client(private, verbose=False, auth=tuple(PAIR.values()), download_files=tmp_path)
    files, _ = client.predict(
        image=handle_file(tmp_path / "a.png"), prompt="a hat", steps=1, api_name="/generate"
    )
    assert len(files) == 1


def test_the_password_may_come_from_a_variable_and_a_flag_goes_first(monkeypatch):
    monkeypatch.delenv(app.AUTH, raising=False)
    assert app.credentials(app.parse([])) is None
    assert app.credentials(app.parse(["--auth", "ada:lo:ve"])) == ("ada", "lo:ve")
    monkeypatch.setenv(app.AUTH, "eve:secret")
    assert app.credentials(app.parse([])) == ("eve", "secret")
    assert app.credentials(app.parse(["--auth", "ada:love"])) == ("ada", "love")


@pytest.mark.parametrize("given", ["", ":", "ada", "ada:", ":hunter2", "  :hunter2"])
def test_half_a_password_opens_nothing_and_is_not_repeated(monkeypatch, capsys, given):
    monkeypatch.setenv(app.AUTH, given)
    monkeypatch.setattr(app.command, "quiet", lambda: None)
    assert app.main([]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "USER:PASSWORD" in said and "hunter2" not in said
