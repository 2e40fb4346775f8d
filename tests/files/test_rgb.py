"""One intake prepares every image for every consumer: upright, in sRGB, on white, 8 bits, one frame."""

import base64
import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from dsd.evaluation import photographs
from dsd.files import intake
from dsd.files.pairs import read_pairs
from dsd.files.rgb import JUDGED, to_rgb
from dsd.vlm.embed import Embedder
from dsd.vlm.http import data_url
from dsd.vlm.local import LocalVLM
from dsd.vlm.open import Request
from tests import profiles
from tests.parquet_files import write

CORNERS = ("red", "lime", "blue", "white")  # left to right, then down, as a viewer shows it
STORED = {  # EXIF orientation -> how a camera stores an upright image
    1: (),
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_90,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}


def photograph(width: int = 60, height: int = 90) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for number, color in enumerate(CORNERS):
        x, y = number % 2 * width // 2, number // 2 * height // 2
        image.paste(color, (x, y, x + width // 2, y + height // 2))
    return image


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(orientation: int, mode: str = "RGB", kind: str = "PNG", size: tuple[int, int] = (60, 90)) -> bytes:
    image, exif = photograph(*size).convert(mode), Image.Exif()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photograph(*size).convert("L"), dtype=np.uint16) * 257)
    for step in STORED[orientation]:
        image = image.transpose(step)
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif)


def row(target: bytes, conditioning: bytes | None = None) -> dict:
    images = {"conditioning": conditioning or saved(photograph()), "target": target}
    return {**{name: {"bytes": content, "path": None} for name, content in images.items()}, "caption": "w"}


def trained_on(tmp_path, content: bytes) -> Image.Image:
    file = write(tmp_path / "a.parquet", **{name: [value] for name, value in row(content).items()})
    return read_pairs(file)[0]["target"]


def sent(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data_url(image).split(",")[1])))


def judged(image: Image.Image) -> Image.Image:
    """What a judge on this machine gives to its processor."""
    judge = SimpleNamespace(_has_labels=False, _special_tokens=())
    message = LocalVLM._build_message(judge, Request("what is it?", (image,)))
    return message[0]["content"][0]["image"]


def embedded(image: Image.Image) -> Image.Image:
    """What an image encoder gives to its processor."""
    seen = []

    def process(images: list[Image.Image], **_) -> dict:
        seen.extend(images)
        return {"pixel_values": torch.zeros(1, 3)}

    tower = torch.nn.Linear(1, 1)
    tower.config = SimpleNamespace(hidden_size=1)
    tower.forward = lambda pixel_values: SimpleNamespace(last_hidden_state=torch.ones(1, 1, 1))
    Embedder("eyes", tower, process).embed([image])
    return seen[0]


def everywhere(tmp_path, content: bytes) -> list[Image.Image]:
    """What the model, a training, a judge behind an address, one here and an image encoder see."""
    image = intake.decode(content)
    return [to_rgb(image), trained_on(tmp_path, content), sent(image), judged(image), embedded(image)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_photograph_is_upright_however_the_camera_was_held(tmp_path, orientation, mode):
    content = turned(orientation, mode)
    expected = photograph() if mode in ("RGB", "RGBA", "P") else photograph().convert("L").convert("RGB")
    for image in everywhere(tmp_path, content):
        assert image.mode == "RGB" and image.size == (60, 90)
        assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


def test_nothing_is_applied_twice():
    image = to_rgb(intake.decode(turned(6)))
    assert to_rgb(image).tobytes() == image.tobytes() and not image.info and not image.getexif()
    wide = intake.decode(saved(Image.new("RGB", (20, 20), (196, 73, 55)), icc_profile=profiles.display_p3()))
    assert to_rgb(to_rgb(wide)).tobytes() == to_rgb(wide).tobytes()


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "TIFF")])
def test_a_wide_gamut_is_converted_to_the_colors_that_viewers_show(tmp_path, mode, kind):
    image = Image.new("RGB", (20, 20), (196, 73, 55))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    content = saved(image, kind, icc_profile=profiles.display_p3())
    for shown in everywhere(tmp_path, content):
        difference = np.subtract(shown.getpixel((5, 5)), (212, 61, 45))  # by the matrices of CSS Color 4
        assert np.abs(difference).max() <= 1


def test_cmyk_with_a_profile_has_the_colors_of_its_inks():
    image = Image.new("CMYK", (20, 20), (255, 0, 0, 0))
    shown = to_rgb(intake.decode(saved(image, "TIFF", icc_profile=profiles.inks()))).getpixel((5, 5))
    plain = to_rgb(intake.decode(saved(image, "TIFF"))).getpixel((5, 5))
    lab = ImageCms.createProfile("LAB")
    ink = Image.frombytes("LAB", (1, 1), bytes((round(50 * 2.55), 256 - 30, 256 - 40)))
    expected = ImageCms.profileToProfile(ink, lab, ImageCms.createProfile("sRGB"), 1, "RGB").getpixel((0, 0))
    assert np.abs(np.subtract(shown, expected)).max() <= 6 < np.abs(np.subtract(plain, expected)).max()


def test_a_profile_that_is_damaged_or_of_another_mode_is_ignored():
    for mode, profile in (("RGB", b"junk"), ("L", profiles.display_p3()), ("RGB", profiles.inks())):
        image = Image.new(mode, (20, 20), 90 if mode == "L" else (90, 90, 90))
        assert to_rgb(intake.decode(saved(image, icc_profile=profile))).getpixel((5, 5)) == (90, 90, 90)


def test_a_palette_with_transparency_is_put_on_white(tmp_path):
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 10, 20))
    content = saved(image, transparency=0)
    for shown in everywhere(tmp_path, content):
        assert shown.getpixel((5, 5)) == (255, 255, 255) and shown.getpixel((15, 5)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(tmp_path, kind):
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    moved = intake.decode(content)
    moved.seek(1)
    for shown in (to_rgb(moved), trained_on(tmp_path, content)):
        assert shown.getpixel((5, 5)) == (255, 0, 0)


def test_sixteen_bits_keep_their_grays_in_training(tmp_path):
    gray = Image.fromarray(np.full((20, 20), 32_768, dtype=np.uint16))
    assert trained_on(tmp_path, saved(gray)).getpixel((5, 5)) == (128, 128, 128)


def test_a_judge_gets_a_photograph_small_and_a_panel_to_the_pixel():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2000, 3000, 3), dtype=np.uint8))
    small = sent(noise)
    assert max(small.size) == JUDGED and small.format == "JPEG" and len(data_url(noise)) < 2_000_000
    panel = noise.crop((0, 0, 500, 500))
    assert sent(panel).format == "PNG" and sent(panel).tobytes() == panel.tobytes()


def test_heic_names_the_package_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "IMG_1.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    for read in (intake.open_image, lambda path: intake.decode(path.read_bytes())):
        with pytest.raises(ValueError, match="is HEIC, which needs the package pillow-heif: pip install"):
            read(tmp_path / "IMG_1.heic")
    (tmp_path / "b.png").write_bytes(saved(photograph()))
    with pytest.raises(ValueError, match="IMG_1.heic.* pillow-heif"):  # nothing is skipped silently
        photographs.read_cases(tmp_path, 1, size=32)


def test_heic_is_opened_where_the_package_is_installed(tmp_path, monkeypatch):
    def register():
        Image.register_open("HEIF", TiffImagePlugin.TiffImageFile, lambda head: head[:4] == b"II*\0")

    for table in (Image.OPEN, Image.ID):
        kept = table.copy()
        monkeypatch.setattr(Image, "OPEN" if table is Image.OPEN else "ID", kept)
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(intake, "FORMATS", ())
    (tmp_path / "a.heic").write_bytes(saved(photograph(), "TIFF"))
    assert to_rgb(intake.open_image(tmp_path / "a.heic")).tobytes() == photograph().tobytes()
