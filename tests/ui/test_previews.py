"""Previews are many and looked at for a moment: small files, where a finished image is exact."""

import gradio as gr
import numpy as np
import pytest
from PIL import Image, ImageFilter

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options, Progress
from dsd.grids.recipes import CRITTERS
from dsd.ui import uploads
from dsd.ui.generate.handlers import Generating
from dsd.ui.grids.handlers import DrawingGrids, Report, new_prompt
from tests import tiny, wheel_page


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """As large as FLUX draws, and with a grain, as photographs have it."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 255, (512, 512, 3), dtype=np.uint8))
    smooth = np.asarray(smooth.filter(ImageFilter.GaussianBlur(8))).astype(float)
    return Image.fromarray((smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where gradio keeps its copies."""
    monkeypatch.setenv(uploads.VARIABLE, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def folder(tmp_path):
    (folder := tmp_path / "work").mkdir()
    return folder


def copies(cache) -> dict[str, int]:
    """Names and bytes of what gradio has kept."""
    return {file.suffix: file.stat().st_size for file in cache.rglob("*") if file.is_file()}


def as_png(image: Image.Image, folder) -> int:
    image.save(path := folder / "exact.png")
    return path.stat().st_size


def test_the_generate_tab_keeps_small_previews_and_exact_images(loaded, image, cache, folder):
    work = Generating(loaded)
    options = Options(prompt="a hat", steps=1, count=2, image_guidance=1.0)
    (done,) = drawing.generate(work.loaded.pipe, tiny.image(), Options(prompt="a hat", steps=1))
    gallery = work._view(Progress(1, 2, 1.0, [image], [done]), options, folder)["images"]
    finished, preview = gallery.value
    assert finished["image"]["path"].endswith("dsd-0.png") and preview["caption"] == "preview"
    with Image.open(finished["image"]["path"]) as file:
        assert file.convert("RGB").tobytes() == done.image.tobytes()
    with Image.open(preview["image"]["path"]) as file:
        assert file.format == "JPEG" and file.size == (512, 512)
        assert file.info["comment"].decode() == provenance.MARK
    assert copies(cache)[".jpg"] < as_png(image, folder) / 8


def test_previews_of_one_moment_are_not_mixed_up(loaded, cache, folder):
    work = Generating(loaded)
    red, blue = (Image.new("RGB", (32, 32), color) for color in ("red", "blue"))
    options, orders = Options(prompt="a hat", steps=1, count=2), ([red, blue], [blue, red])
    shown = [work._view(Progress(1, 2, 1.0, both), options, folder)["images"] for both in orders]
    paths = [[item["image"]["path"] for item in gallery.value] for gallery in shown]
    colors = [[Image.open(path).convert("RGB").getpixel((9, 9)) for path in both] for both in paths]
    assert [[pixel[0] > pixel[2] for pixel in both] for both in colors] == [[True, False], [False, True]]


def test_the_grids_tab_keeps_small_previews(image, cache, folder, monkeypatch):
    work = DrawingGrids(wheel_page.wheel())
    prompt = new_prompt(CRITTERS, "red critter", ["beach"] * 4, 7)
    update = work._update(Report(1, 2, 1.0, image), prompt, folder)
    on_page = gr.Image(format="png").postprocess(update["grid"])  # the tab's component
    with Image.open(on_page.path) as file:
        assert file.format == "JPEG" and file.size == (512, 512)
    assert (folder / "preview-1.jpg").stat().st_size < as_png(image, folder) / 8


def test_a_finished_image_is_saved_once_however_many_steps_follow(loaded, photo, monkeypatch):
    saved, save = [], drawing.save
    monkeypatch.setattr(drawing, "save", lambda result, path: saved.append(path) or save(result, path))
    count = drawing.BATCH + 1
    list(Generating(loaded).endpoint(photo, "a hat", count, 3, 1.0, seed=7))
    assert len(saved) == count
