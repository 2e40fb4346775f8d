"""The examples that ship: what is shown finished was drawn by the weights that ship."""

import shutil
from pathlib import Path

from PIL import Image

from dsd import load_pipeline
from dsd.generate import drawing, provenance
from dsd.model.presets import POCKET
from dsd.ui.generate.form import Form
from dsd.ui.generate.layout import find_finished
from dsd.ui.generate.tasks import Choice
from dsd.ui.models import describe_model
from tests import tiny

FOLDER = Path(POCKET.examples)
LARGEST = 60_000  # bytes of a file: all of a page's examples are loaded at once


def choose(pipe, folder: Path = FOLDER) -> Choice:
    loaded = describe_model(pipe, "pocket", weights=None, describer=None)
    return Choice(loaded, folder, Form(loaded).model_hash)


def test_every_example_is_shown_finished_and_the_page_opens_with_one():
    choice = choose(load_pipeline("pocket"))
    rows = choice.rows[choice.first.name]
    remedy = "draw them again with these weights: python -m train.pocket.examples"
    assert len(rows) >= 8 and choice.finished == rows, remedy
    for row, (tile, _) in zip(rows, choice.pictures(choice.first), strict=True):
        settings = provenance.read_settings(FOLDER / row["result"])
        options = drawing.options_from(settings)
        assert (options.prompt, options.seed) == (row["prompt"], row["seed"]), "a click draws the same"
        with Image.open(tile) as both, Image.open(FOLDER / row["result"]) as result:
            assert both.crop((both.width - result.width, 0, *both.size)).tobytes() == result.tobytes()
        assert max(Path(tile).stat().st_size, (FOLDER / row["result"]).stat().st_size) < LARGEST
    first = find_finished(choice)
    assert first.prompt in [row["prompt"] for row in rows if row.get("first")]
    assert Path(first.image).parent == Path(first.path).parent == FOLDER


def test_an_example_whose_image_is_missing_is_shown_without_it(tmp_path):
    folder = Path(shutil.copytree(FOLDER, tmp_path / "examples"))
    pipe = load_pipeline("pocket")
    missing = choose(pipe, folder).finished[0]
    (folder / missing["result"]).unlink()
    choice = choose(pipe, folder)
    assert missing not in choice.finished and missing in choice.rows[choice.first.name]


def test_another_model_shows_the_references_alone():
    choice = choose(tiny.pipeline(guidance_embeds=False))
    assert find_finished(choice) is None and not choice.finished
    assert choice.pictures(choice.first) == [
        (str(FOLDER / row["image"]), row["prompt"]) for row in choice.rows[choice.first.name]
    ]
