"""What a stranger must not get: files, other models."""

import base64
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path

import httpx
import pytest
from gradio_client import Client

from dsd.ui import uploads
from tests import loopback
from tests import uploads as corpus
from tests.calling import API, asked, file
from tests.project import ROOT

SECRET = "this is nobody's business"


@pytest.fixture(scope="module")
def folder(folder) -> Path:
    """What the app must not show, `secret.txt`, lies beside its uploads."""
    (folder / "secret.txt").write_text(SECRET)
    return folder


# ------------------------------------------------------------ files


def test_an_upload_lies_in_a_folder_of_ones_own(uploaded, folder, http):
    assert uploaded.is_relative_to(folder / uploads.NAME)
    assert uploads._own().stat().st_mode & 0o077 == 0 and (folder / uploads.NAME).stat().st_mode & 0o077 == 0
    assert http.get(f"{API}/file={uploaded}").content == uploaded.read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/secret.txt",
        "{uploads}/../secret.txt",
        "{uploads}/%2e%2e/secret.txt",
        "{uploads}/..%2fsecret.txt",
        "{uploads}/link.txt",
        "{uploads}/door/secret.txt",
        "{uploads}",
        "{uploads}/",
        "{root}/app.py",
        "{root}/README.md",
        "{root}/assets/examples/../../app.py",
        "{root}/assets/pocket/student/model_index.json",
        "{root}/.git/config",
        "app.py",
        "./app.py",
        "assets/pocket/README.md",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "~/.bashrc",
        "file:///etc/passwd",
        "/etc/passwd%00.png",
        "C:/Windows/win.ini",
    ],
)
def test_no_other_file_is_served(http, folder, path):
    place = folder / uploads.NAME
    if not (place / "link.txt").is_symlink():
        (place / "link.txt").symlink_to(folder / "secret.txt")
        (place / "door").symlink_to(folder)
    path = path.format(folder=folder, uploads=place, root=ROOT)
    for before in (f"{API}/file=", f"{API}/file/", "/file=", "/static/", "/assets/"):
        code, text = as_it_is(http, before + path)
        assert code >= 300 or text.startswith("<!doctype html>"), before
        assert SECRET not in text and "root:x:" not in text and "argparse" not in text


def as_it_is(http: httpx.Client, path: str) -> tuple[int, str]:
    """Without the tidying of paths that httpx does."""
    connection = HTTPConnection(http.base_url.host, http.base_url.port, timeout=600)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


def test_the_examples_are_served_and_nothing_else_of_the_project(http):
    example = next((ROOT / "assets" / "examples").glob("*.png"))
    assert http.get(f"{API}/file={example}").status_code == 200


@pytest.mark.parametrize(
    "path", ["{folder}/secret.txt", "{uploads}/../photo.png", "{folder}/photo.png", "/etc/passwd"]
)
def test_no_file_becomes_a_reference_that_was_not_uploaded(http, folder, path):
    corpus.noise().save(folder / "photo.png")
    path = path.format(folder=folder, uploads=folder / uploads.NAME)
    answer = asked(http, image=file(path))
    assert "event: error" in answer.text or answer.status_code in (400, 422, 500)
    assert (
        "event: complete" not in answer.text and SECRET not in answer.text and "Traceback" not in answer.text
    )


def test_the_ones_own_upload_does(http, uploaded):
    assert "event: complete" in asked(http, image=file(uploaded)).text


def test_an_image_that_is_gone_is_asked_for_again_without_naming_a_folder(http):
    data = corpus.saved(corpus.noise(seed=3), "PNG")
    (path,) = http.post(f"{API}/upload", files={"files": ("gone.png", data)}).json()
    Path(path).unlink()
    answer = asked(http, image=file(path)).text
    assert "event: complete" not in answer and "Traceback" not in answer


def call(http: httpx.Client, way: str, image: object) -> str:
    """The answer of one way into the app; those that queue are followed to their end."""
    values = [image, "a hat", 1, 1, 1.5, 1, None, 7, None, None, None, "best"]
    if way == "call/v2":
        return asked(http, image=image).text
    joined = http.post(f"{API}/{way}/generate", json={"data": values})
    if way == "call" and joined.status_code == 200:
        return http.get(f"{API}/call/generate/{joined.json()['event_id']}").text
    return joined.text


@pytest.mark.parametrize("way", ["call", "call/v2", "run", "api"])
def test_no_way_into_the_app_opens_a_foreign_file(http, way):
    for named in ({"path": str(ROOT / "assets" / "teaser.png")}, file("assets/teaser.png")):
        answer = call(http, way, named)
        assert "complete" not in answer and "dsd-7" not in answer and "Traceback" not in answer
        assert "image is gone" in answer or not way.startswith("call")  # the others never take what queues


def test_gradios_route_for_recordings_is_closed(http):
    answer = http.post(f"{API}/process_recording", files={"file": ("a.mp4", b"#EXTM3U")})
    assert answer.status_code == 404


def test_an_image_inside_the_request_is_drawn_from(http, uploaded):
    inline = "data:image/png;base64," + base64.b64encode(uploaded.read_bytes()).decode()
    assert "event: complete" in asked(http, image={"path": None, "url": inline}).text


def test_no_address_is_fetched(http, uploaded):
    seen = []
    with loopback.serving(lambda body: None, models=lambda: seen.append(1)) as address:
        for named in (file(f"{address}/a.png"), {"url": f"{address}/a.png"}):
            assert "upload it" in asked(http, image=named).text
    assert not seen
    assert "event: complete" in asked(http, image={"path": str(uploaded)}).text, "the app lives on"


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "a\nb.png", "x" * 300 + ".png", "<b>.png", ".."]
)
def test_an_uploads_name_leads_nowhere(http, folder, name):
    data = corpus.saved(corpus.noise(), "PNG")
    answer = http.post(f"{API}/upload", files={"files": (name, data)})
    if answer.status_code == 200:
        (path,) = answer.json()
        assert Path(path).resolve().is_relative_to((folder / uploads.NAME).resolve())
        assert "event: complete" in asked(http, image=file(path)).text
    assert not (folder / "evil.png").exists() and not Path("/etc/evil.png").exists()


# ------------------------------------------------------------ odd requests over the network


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("html", "is not an image"),
        ("nothing", "is empty"),
        ("png 65500 x 65500", "too large"),
        ("png with 30 MB of packed text", "is not an image"),
        ("postscript that runs", "is not an image"),
    ],
)
def test_a_bad_upload_gets_a_sentence_through_the_network(http, kind, sentence):
    data = dict(chain(corpus.junk(), corpus.liars(), corpus.laden()))[kind]
    (path,) = http.post(f"{API}/upload", files={"files": ("upload.png", data)}).json()
    answer = asked(http, image=file(path)).text
    assert (
        sentence in answer
        and "event: error" in answer
        and "Traceback" not in answer
        and str(path) not in answer
    )


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        ("a \ud800 hat", "half a character"),
        ("x" * 100_000, "100,000 characters"),
        ("\0", None),
        ("<b>", None),
    ],
)
def test_a_bad_prompt_gets_a_sentence_through_the_network(http, uploaded, prompt, sentence):
    answer = asked(http, image=file(uploaded), prompt=prompt).text
    assert ("event: complete" in answer) if sentence is None else (sentence in answer)
    assert "Traceback" not in answer and "<b>" not in answer


@pytest.mark.parametrize(
    "changes",
    [{"steps": float("nan")}, {"seed": 1e400}, {"width": [1]}, {"fit": {"a": 1}}, {"image": "x"},
     {"image": str(ROOT / "assets" / "teaser.png")}, {"seed": 10**30}, {"count": 10**9},
     {"image_guidance": "1; import os"}],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused(http, uploaded, changes):
    answer = asked(http, **({"image": file(uploaded)} | changes))
    assert "event: complete" not in answer.text and "Traceback" not in answer.text


def test_after_all_of_them_the_app_lives_on(http, uploaded):
    assert "event: complete" in asked(http, image=file(uploaded)).text


# ------------------------------------------------------------ which models


def test_no_request_names_a_model_a_run_or_a_server(server):
    named = Client(server, verbose=False).view_api(return_format="dict")["named_endpoints"]
    given = {
        parameter["parameter_name"] for endpoint in named.values() for parameter in endpoint["parameters"]
    }
    assert list(named) == ["/generate", "/unknown_words", "/story"] and given & {"prompt", "image", "steps"}
    assert not given & {"model", "weights", "teacher", "judge", "run", "folder", "path", "device", "lora"}
