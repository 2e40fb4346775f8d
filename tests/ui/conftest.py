"""What tests of the page share: a tiny model behind it, servers of it, and a photo to upload."""

import os
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
from PIL import Image

from dsd.model.pipeline import DSDPipeline
from dsd.ui import page, uploads
from dsd.ui.models import Loaded
from tests import tiny
from tests import uploads as corpus
from tests.calling import API, file
from tests.project import ROOT


@pytest.fixture(autouse=True)
def nothing_unforeseen(caplog):
    """No event of a page fails unseen; a test that makes one fail clears `caplog` itself."""
    yield
    failures = [
        r.exc_text or str(r.exc_info) for r in caplog.get_records("call") if r.message == "unforeseen"
    ]
    assert not failures, failures[0]


@pytest.fixture
def toasts(monkeypatch) -> list[str]:
    """The warnings that pop up over the page."""
    said = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    return said


@pytest.fixture(scope="module")
def pipe() -> DSDPipeline:
    return tiny.pipeline(guidance_embeds=False)


@pytest.fixture(scope="module")
def loaded(pipe) -> Loaded:
    return Loaded(pipe=pipe, name="tiny")


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the app keeps its uploads."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture(scope="module")
def serve(loaded, folder):
    """Opens servers, which keep their uploads in `folder`."""
    before, opened = os.environ.get(uploads.VARIABLE), []
    os.environ[uploads.VARIABLE] = str(folder)

    def serve(wheel=None, **options) -> str:
        blocks = page.build(loaded, ROOT / "assets" / "examples", wheel)
        opened.append(blocks)
        return page.launch(blocks, prevent_thread_lock=True, quiet=True, **options)[1].rstrip("/")

    serve.opened = opened
    yield serve
    [blocks.close() for blocks in opened]
    os.environ.pop(uploads.VARIABLE)
    os.environ |= {} if before is None else {uploads.VARIABLE: before}


@pytest.fixture(scope="module")
def server(serve) -> str:
    return serve()


@pytest.fixture(scope="module")
def blocks(server, serve):
    """The page behind `server`."""
    return serve.opened[-1]


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server, trust_env=False, timeout=600) as http:
        yield http


@pytest.fixture(scope="module")
def uploaded(http) -> Path:
    """A visitor's own upload, on the server's disk."""
    data = corpus.saved(corpus.noise(), "PNG")
    (path,) = http.post(f"{API}/upload", files={"files": ("mine.png", data)}).raise_for_status().json()
    return Path(path)


@pytest.fixture(scope="module")
def upload(uploaded) -> dict:
    """The upload as a request names it."""
    return file(uploaded)
