"""The app as a process of its own, under a small crowd: who is served, what is left behind, what leaks."""

import os
import signal
import time
from pathlib import Path

import pytest

from dsd.generate import provenance
from dsd.ui import uploads
from dsd.ui.waiting import SHARE
from tests import load as bench_load
from tests.load import Tally, once
from tests.visiting import API, DONE, Client, serving

KEYS = {"HF_TOKEN": "hf_sesame0opensesame0open", "DSD_VLM_KEY": "sk-abracadabra-abracadabra"}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the app keeps temporary files."""
    return tmp_path_factory.mktemp("tmp")


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("log") / "app.log"


@pytest.fixture(scope="module")
def app(folder, log):
    with serving(folder, log=log, **KEYS) as app:
        yield app


def killed(folder: Path) -> list[Path]:
    """Kill an app in the midst of an image, and return what it has left on disk."""
    with serving(folder) as app:
        client = Client(app, 0)
        ticket, _ = client.join(100)
        messages = client.follow(ticket)
        next(message for message in messages if message["msg"] == "process_generating")
        app.process.send_signal(signal.SIGKILL)
        app.process.wait(30)
        return app.files


@pytest.mark.all_faults
def test_what_a_killed_app_leaves_is_in_one_place_and_is_swept_and_the_next_one_serves(tmp_path_factory):
    folder, copies = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("copies")
    files = killed(folder)
    own = folder / uploads._own().name
    check_is_swept(files, own, copies)
    with serving(folder) as app:
        assert once(Client(app, 1), Tally(), steps=2) == "image"


def check_is_swept(killed: list[Path], own: Path, tmp_path: Path) -> None:
    assert killed, "at least the upload"
    assert all(path.is_relative_to(own) for path in killed)
    for path in killed:
        copy = tmp_path / path.relative_to(own)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    uploads.sweep(tmp_path, age=3600)
    assert [path.is_file() for path in tmp_path.rglob("*")].count(True) == len(killed), "too young"
    time.sleep(0.05)
    uploads.sweep(tmp_path, age=0)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_image_is_made_and_timed(app):
    tally = Tally()
    assert once(Client(app, 1), tally, steps=2) == "image" and len(tally.seconds) == 1


def test_a_crowd_is_served_its_own_images_or_told_to_wait(app):
    row = bench_load.crowd(app, clients=8, seconds=4, steps=2)
    assert row["image"] > 0 and row["told a place"] > 0
    assert (row["errors"], row["no answer"], row["somebody else's image"]) == (0, 0, 0), row


def test_when_the_queue_is_full_it_says_so(app):
    client = Client(app, 3)
    tickets = [client.join(100) for _ in range(30)]
    waiting = [ticket for ticket, _ in filter(None, tickets)]
    assert None in tickets and len(waiting) >= SHARE, "one address without sessions has one share"
    for ticket in reversed(waiting):
        client.cancel(ticket)
    tally = Tally()
    assert once(client, tally, steps=1) == "image"


@pytest.mark.parametrize("how", ["cancels", "vanishes"])
def test_one_who_leaves_makes_room_at_once(app, how):
    row = bench_load.leaving(app, how)
    assert row["next is right"] and row["s until the next begins"] < 5


def test_memory_does_not_grow_with_every_image(app):
    row = bench_load.row_of_images(app, 20, 1)
    assert row["images"] == 20 and row["growth"] < 0.05, row


def test_keys_are_in_no_page_no_image_and_no_log(app, log, tmp_path):
    client = Client(app, 4)
    ticket, _ = client.join(1)
    (done,) = [message for message in client.follow(ticket) if message["msg"] == DONE]
    (file,), _ = done["output"]["data"]
    image = app.http.get(f"{API}/file={file['path']}").content
    (tmp_path / "a.png").write_bytes(image)
    assert provenance.read_settings(tmp_path / "a.png")["seed"]
    pages = [app.http.get(path).content for path in ("/", "/config", f"{API}/info", "/theme.css")]
    for key in KEYS.values():
        for said in (image, *pages, str(done).encode(), log.read_bytes()):
            assert key.encode() not in said and key[:12].encode() not in said


def test_stopped_it_ends_what_runs_with_a_sentence_and_leaves_nothing(app, log):
    """Last, because it stops the app that all of them ask."""
    assert once(Client(app, 5), Tally(), steps=1) == "image"
    assert app.files
    (first, _), (second, _) = Client(app, 6).join(20), Client(app, 7).join(20)
    waits = Client(app, 7).follow(second)
    messages = Client(app, 6).follow(first)
    next(message for message in messages if message["msg"] == "process_generating")
    next(waits)
    app.process.terminate()
    done, stopped = list(messages)[-1], list(waits)[-1]
    assert done["success"], "what runs has some seconds to finish"
    assert not stopped["success"] and "is stopping" in stopped["output"]["error"]
    assert app.process.wait(60) == 0
    assert not app.files
    assert "Traceback" not in log.read_text()
