"""Which files a request may name: a visitor's own uploads, whatever event, endpoint or form names them."""

import base64
import time
from pathlib import Path
from urllib.parse import quote

import anyio
import gradio as gr
import pytest

from dsd.ui import gate, page, uploads
from tests import tiny, wheel_page

ROOT = Path(__file__).resolve().parents[2]
META = {"_type": "gradio.FileData"}


@pytest.fixture
def place(tmp_path) -> Path:
    (kept := tmp_path / "uploads").mkdir()
    tiny.image().save(kept / "mine.png")
    tiny.image().save(tmp_path / "foreign.png")
    (kept / "link.png").symlink_to(tmp_path / "foreign.png")
    return kept


def forms(path: object) -> list[object]:
    """Every way in which a request may name a file."""
    return [
        {"path": path},
        {"path": path, "meta": META},
        {"path": path, "meta": {"_type": "other"}},
        {"path": path, "meta": "x"},
        {"path": None, "url": path},
        {"path": path, "url": "data:image/png;base64,AAAA"},
        [{"image": {"path": path}, "caption": None}],
        {"value": {"path": path}},
    ]


@pytest.mark.parametrize(
    "name", ["foreign.png", "uploads/../foreign.png", "uploads/link.png", "none.png", "."]
)
def test_foreign_missing_and_linked_files_are_refused_with_one_message(place, name):
    for named in forms(str(place.parent / name)):
        with pytest.raises(ValueError) as refused:
            gate.admit(named, (place,))
        assert str(refused.value) == uploads.GONE


@pytest.mark.parametrize("path", ["assets/teaser.png", "", "\0", "x" * 5000, 7, ["a"], {"path": "b"}])
def test_paths_that_are_no_upload_are_refused(place, path):
    with pytest.raises(ValueError, match="image is gone"):
        gate.admit({"path": path}, (place,))


@pytest.mark.parametrize("path", ["/a" * 200_000, "/.." * 200_000, "a" * 10_000_000])
def test_a_path_without_end_is_refused_at_once(place, path):
    began = time.monotonic()
    with pytest.raises(ValueError, match="image is gone"):
        gate.admit({"path": path}, (place,))
    assert time.monotonic() - began < 1, "all others wait meanwhile"


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value}])
def test_values_inside_each_other_without_end_are_refused(place, wrap):
    value: object = {"path": str(place / "mine.png")}
    for _ in range(gate.DEEPEST):
        value = wrap(value)
    assert gate.admit(value, (place,))
    for _ in range(500):
        value = wrap(value)
    with pytest.raises(ValueError, match="wrong type"):
        gate.admit(value, (place,))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.png", "https://example.org/a.png", "file:///etc/passwd", "FTP://x/y"]
)
def test_addresses_are_refused_with_the_remedy(place, address):
    for named in forms(address)[:5]:
        with pytest.raises(ValueError, match="save the image and upload it"):
            gate.admit(named, (place,))


def test_an_upload_passes_marked_as_a_file_and_without_an_address(place):
    path = str(place / "mine.png")
    sent = {"path": path, "url": "http://else.where/x.png", "orig_name": "../../a.png", "is_stream": True}
    assert gate.admit([sent, "text", 3, None], (place,)) == [
        {"path": path, "orig_name": "a.png", "meta": META}, "text", 3, None,
    ]  # fmt: skip


def test_the_address_that_the_app_gave_an_upload_stands_for_it(place):
    tiny.image().save(place / "my cat ü.png")
    quoted = {"path": f"http://127.0.0.1/gradio_api/file={quote(str(place / 'my cat ü.png'))}"}
    assert gate.admit(quoted, (place,))["path"] == str(place / "my cat ü.png")
    for before in ("http://127.0.0.1:7860", "https://some.space/path", ""):
        named = {"path": f"{before}/gradio_api/file={place / 'mine.png'}"}
        assert gate.admit(named, (place,))["path"] == str(place / "mine.png")
    with pytest.raises(ValueError, match="image is gone"):
        gate.admit({"path": f"http://127.0.0.1/gradio_api/file={place.parent / 'foreign.png'}"}, (place,))


@pytest.fixture
def full(place, monkeypatch) -> None:
    """There is no space for uploads."""
    monkeypatch.setenv(uploads.VARIABLE, str(place))
    monkeypatch.setattr(uploads, "MAX_TOTAL", 10)


def test_an_image_inside_the_request_needs_space_like_an_upload(place, full):
    before = list(place.iterdir())
    with pytest.raises(ValueError, match="no space for more uploads"):
        gate.admit({"path": None, "url": "data:image/png;base64,AAAA"}, (place,))
    assert list(place.iterdir()) == before


def test_an_image_inside_the_request_is_limited(place, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(place))
    data = base64.b64encode((place / "mine.png").read_bytes()).decode()
    kept = gate.admit({"path": None, "url": f"data:image/png;base64,{data}"}, (place,))["path"]
    assert Path(kept).is_relative_to(place) and Path(kept).read_bytes() == (place / "mine.png").read_bytes()
    with pytest.raises(ValueError, match="cannot be read"):
        gate.admit({"path": None, "url": "data:image/png;base64,A"}, (place,))  # no whole byte
    with pytest.raises(ValueError, match="at most 30 MB"):
        gate.admit({"url": "data:" + "A" * gate.MAX_INLINE}, (place,))


def test_a_public_folder_is_open_too(place):
    foreign = {"path": str(place.parent / "foreign.png")}
    assert gate.admit(foreign, (place, place.parent))["path"] == foreign["path"]


def test_no_event_of_the_page_takes_a_foreign_file(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path))
    built = page.build(loaded, ROOT / "assets" / "examples", wheel_page.wheel())
    tried = [fn for fn in built.fns.values() if fn.inputs]
    assert len(tried) > 20
    for fn in tried:
        for place in range(len(fn.inputs)):
            values: list = [None] * len(fn.inputs)
            values[place] = {"path": str(ROOT / "assets" / "teaser.png")}
            with pytest.raises(gr.Error, match="image is gone"):
                anyio.run(built.preprocess_data, fn, values, None)
