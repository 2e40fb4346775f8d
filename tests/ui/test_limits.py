"""How much a request, a file, a visitor and all of them may take."""

import time
from types import SimpleNamespace

import pytest

from dsd.ui import server as serving
from dsd.ui import uploads
from tests.calling import API


def test_a_request_may_have_so_many_bytes(http, monkeypatch):
    monkeypatch.setattr(serving, "MAX_BODY", 1000)
    for body in ({"content": b"x" * 1001}, {"content": iter([b"x" * 600] * 2)}):
        answer = http.post(f"{API}/call/v2/generate", **body)
        assert answer.status_code == 413 and "send a smaller image" in answer.json()["detail"]


@pytest.mark.parametrize("body", [b"0,", b"[],", b'{"a":1},'])
def test_a_request_may_have_so_many_values(http, monkeypatch, body):
    """Gradio parses and copies them while everybody waits: 10 million numbers took 4 seconds."""
    monkeypatch.setattr(serving, "MAX_VALUES", 1000)
    for many in (b'{"data":[' + 1000 * body + b"0]}", iter([b'{"data":[', 1000 * body, b"0]}"])):
        answer = http.post(f"{API}/call/generate", content=many)
        assert answer.status_code == 413 and "more than 1,000 values" in answer.json()["detail"]
    answer = http.post(f"{API}/upload", files={"files": ("a.txt", 1000 * body)})
    assert answer.status_code == 200, "a file is not parsed"
    for path in ("call/upload", "run/upload"):  # an endpoint of that name takes values, too
        assert http.post(f"{API}/{path}", content=b'{"data":[' + 1000 * body + b"0]}").status_code == 413


def test_a_path_may_be_so_long(http):
    answer = http.get(f"{API}/file={'/a' * 10_000}")
    assert answer.status_code == 414 and "8192 characters" in answer.json()["detail"]


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
    monkeypatch.setattr(uploads, "SMALLEST", 1)
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


def test_many_small_files_need_space_too(tmp_path, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_TOTAL", 3 * uploads.SMALLEST)
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    assert uploads.make_room() and not uploads.make_room(1)


def test_uploads_on_their_way_need_space_too(tmp_path, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path))
    monkeypatch.setattr(uploads, "MAX_TOTAL", 300)
    with uploads.arriving(200):
        assert uploads.make_room()
        with uploads.arriving(200):
            assert not uploads.make_room(), "at the same time"
    with uploads.arriving(200):
        assert uploads.make_room()


def test_without_space_an_upload_is_refused(http, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_TOTAL", 10)
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for body in ({"files": {"files": ("a.png", b"x" * 100)}}, {"content": iter([b"--x"]), "headers": kind}):
        answer = http.post(f"{API}/upload", **body)
        assert answer.status_code == 507 and "try again" in answer.json()["detail"]


def test_an_address_may_send_so_much_if_a_proxy_tells_addresses(monkeypatch):
    with_proxy, without = serving.Server(trusts_proxy=True), serving.Server()
    for server in (with_proxy, without):
        server.charge("192.0.2.1", serving.MAX_HOURLY)
    without.charge("192.0.2.1", 1)
    with_proxy.charge("192.0.2.2", 1)
    with pytest.raises(serving.Refused, match="300 MB"):
        with_proxy.charge("192.0.2.1", 1)
    with_proxy.charge("192.0.2.1", -1)  # less arrived than was announced
    with_proxy.charge("192.0.2.1", 1)
    later = time.monotonic() + 3600
    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: later))
    with_proxy.charge("192.0.2.1", serving.MAX_HOURLY)
    assert list(with_proxy.sent) == ["192.0.2.1"], "nobody else is remembered"


def test_a_network_of_ipv6_is_one_address():
    server = serving.Server(trusts_proxy=True)
    server.charge("2001:db8::1", serving.MAX_HOURLY)
    server.charge("2001:db8:0:1::1", 1)
    with pytest.raises(serving.Refused, match="300 MB"):
        server.charge("2001:db8::2", 1)
