"""What tests of judges share: a clock for retries, and tiny models on disk."""

from pathlib import Path

import pytest

from dsd.vlm.open import open_vlm
from tests import tiny
from tests.servers import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("vlms")
    return {"llava": tiny.vlm(place / "llava"), "qwen": tiny.qwen(place / "qwen")}


@pytest.fixture
def llava(folders):
    return open_vlm(str(folders["llava"]), max_tokens=10, batch=3)
