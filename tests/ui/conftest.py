"""What tests of the page share: a tiny model behind it, and a photo to upload."""

import numpy as np
import pytest
from PIL import Image

from dsd.model.pipeline import DSDPipeline
from dsd.ui.models import Loaded
from tests import tiny


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
