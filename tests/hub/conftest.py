"""A hub for each module, and a cache for downloads that its tests share."""

import time
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import file_download
from huggingface_hub.utils import _http

from tests.hub import shelf
from tests.hub.connect import connected
from tests.hub.server import Hub, serving


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The fake hub, to which the libraries are connected with the token of a licensee."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with (
        serving(Hub(shelf.everything())) as hub,
        connected(hub.address, tmp_path_factory.mktemp("cache"), shelf.TOKEN),
    ):
        yield hub
    torch.set_num_threads(threads)


@pytest.fixture
def slept(monkeypatch) -> list[float]:
    """Collects the seconds that the hub's library would sleep between two tries."""
    seconds: list[float] = []
    impatient = SimpleNamespace(**{**vars(time), "sleep": seconds.append})
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", impatient)
    return seconds


@pytest.fixture
def elsewhere(tmp_path):
    """A fresh hub that a test may break, with a cache of its own and no token."""
    with serving(Hub(shelf.everything())) as hub, connected(hub.address, tmp_path / "cache"):
        yield hub
