"""What tests of drawing share: a model of random weights and a photo."""

import numpy as np
import pytest
from PIL import Image

from tests import tiny


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline(guidance_embeds=False)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
