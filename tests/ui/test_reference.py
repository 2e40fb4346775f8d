"""The tools of the reference: cropped, on white, and the original back."""

import sys
from types import SimpleNamespace

import pytest
from PIL import Image, ImageOps

from dsd.files import rgb
from dsd.ui.generate.form import Form
from dsd.ui.generate.reference import References
from tests.forms import form


@pytest.fixture
def tools(loaded) -> References:
    return References(loaded, Form(loaded))


def values(image: str, **changes) -> dict:
    return form(image) | {"original": None, "box": "0.25 0 0.75 0.5"} | changes


def test_a_box_is_cut_out_of_what_the_visitor_sees_and_the_original_comes_back(tools, photo, tmp_path):
    with Image.open(photo) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # stored on its side, as phones do
        image.rotate(90, expand=True).save(turned := str(tmp_path / "turned.png"), exif=exif)
        upright = ImageOps.exif_transpose(Image.open(turned))
        wanted = upright.crop((round(upright.width / 4), 0, round(upright.width * 0.75), upright.height // 2))
    shown = tools.crop(values(turned))
    assert shown["image"].tobytes() == wanted.convert("RGB").tobytes()
    assert shown["original"] == turned and shown["restore"].visible
    again = tools.crop(values(photo, original=turned))
    assert again["original"] == turned, "cropped twice, the first one is the original"
    back = tools.restore({"original": turned})
    assert back["image"] == turned and back["original"] is None and not back["restore"].visible


def test_a_file_that_browsers_cannot_show_becomes_a_png_and_others_stay(tools, photo, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("gradio.Info", lambda text, **_: said.append(text))
    with Image.open(photo) as image:
        for suffix in ("webp", "gif", "bmp", "jpg"):
            image.save(path := str(tmp_path / f"photo.{suffix}"))
            assert tools.make_visible({"image": path}) == {}
        image.save(scan := str(tmp_path / "scan.tiff"))
        assert tools.make_visible({"image": scan})["image"].tobytes() == image.tobytes() and not said
        image.save(scan, save_all=True, append_images=[image])
        assert tools.make_visible({"image": scan})["image"].tobytes() == image.tobytes()
    assert len(said) == 1 and "only its first" in said[0]
    (tmp_path / "notes.tiff").write_text("Dear diary")  # `see` says what is wrong with it
    assert all(tools.make_visible({"image": path}) == {} for path in (None, str(tmp_path / "notes.tiff")))


def test_a_box_that_is_left_changes_nothing(tools, photo):
    assert tools.crop(values(photo, box="")) == {}


@pytest.mark.parametrize(
    ("box", "words"), [("0.5 0.5 0.51 0.9", "at least 16 x 16"), ("a b c d", "four numbers"), ("1 2", "four")]
)
def test_a_bad_box_gets_a_sentence_at_the_image(tools, photo, box, words):
    shown = tools.crop(values(photo, box=box))
    assert list(shown) == ["remarks"] and words in shown["remarks"].value and shown["remarks"].visible


def test_the_subject_is_put_on_white_by_the_extra(tools, photo, monkeypatch):
    def remove(image: Image.Image) -> Image.Image:
        cut = image.convert("RGBA")
        cut.putalpha(Image.linear_gradient("L").point(lambda value: 255 * (value > 127)).resize(image.size))
        return cut

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    shown = tools.remove_background(values(photo))
    with Image.open(photo) as image:
        assert shown["image"].tobytes() == rgb.to_rgb(remove(image)).tobytes()
    assert shown["image"].getpixel((3, 3)) == (255, 255, 255) and shown["original"] == photo


def test_without_the_extra_it_is_named(tools, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "rembg", None)
    assert "pip install rembg" in tools.remove_background(values(photo))["remarks"].value
