"""The examples that ship: the one that is shown finished was drawn by the weights that ship."""

import json
from pathlib import Path

from dsd import load_pipeline
from dsd.model.presets import POCKET
from dsd.ui.generate.form import Form
from dsd.ui.generate.layout import find_finished
from dsd.ui.models import describe_model
from tests import tiny


def test_the_page_opens_with_a_finished_example_of_the_shipped_weights():
    folder = Path(POCKET.examples)
    rows = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    loaded = describe_model(load_pipeline("pocket"), "pocket", weights=None, describer=None)
    first = find_finished(rows, folder, Form(loaded))
    assert first, "draw it again with these weights: python -m train.pocket.examples"
    assert Path(first.image).parent == Path(first.path).parent == folder and first.prompt
    assert all("seed" in row for row in rows)
    other = describe_model(tiny.pipeline(guidance_embeds=False), "pocket", weights=None, describer=None)
    assert find_finished(rows, folder, Form(other)) is None, "another model did not draw it"
