"""Whatever a stranger uploads or types: it works, or one plain sentence says why not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd.files import intake
from dsd.model import canvas
from tests import tiny
from tests.uploads import png_header


def noise(width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def write_text(path: Path) -> None:
    path.write_text("Dear diary, this is not an image.\n" * 20)


def write_truncated(path: Path) -> None:
    noise(200, 200).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:3000])


BROKEN = {
    "a text file named .png": (write_text, "not an image"),
    "a truncated JPEG": (write_truncated, "damaged or cut short"),
    "0 bytes": (lambda path: path.write_bytes(b""), "empty"),
    "a PNG bomb": (
        lambda path: path.write_bytes(png_header(30_000, 30_000)),
        "too large: at most 50 megapixels",
    ),
    "60 megapixels": (lambda path: path.write_bytes(png_header(10_000, 6_000)), "10000 x 6000"),
    "a PNG without its pixels": (lambda path: path.write_bytes(png_header(400, 400)), "damaged or cut short"),
    "a speck": (lambda path: noise(8, 8).save(path, format="PNG"), "only 8 x 8 pixels"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)), "not an image"),
    "an SVG": (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image"),
    "a PNG signature alone": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_upload_gets_one_sentence(name, tmp_path):
    write, expected = BROKEN[name]
    path = tmp_path / "upload.png"
    write(path)
    with pytest.raises(ValueError, match=expected) as caught:
        intake.open_image(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*nothing.png"):
        intake.open_image(tmp_path / "nothing.png")


def test_an_animated_gif_gives_its_first_frame_and_says_so(tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image = intake.open_image(tmp_path / "a.gif")
    assert "3 frames" in intake.image_notice(image)
    assert canvas.fit(image, 32, 32).getpixel((16, 16)) == (255, 0, 0)
    assert intake.image_notice(noise()) is None


def test_cmyk_is_read_as_the_colors_it_means(tmp_path):
    Image.new("RGB", (40, 40), (250, 10, 10)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, green, blue = canvas.fit(intake.open_image(tmp_path / "a.jpg"), 32, 32).getpixel((16, 16))
    assert red > 200 and green < 60 and blue < 60


def test_sixteen_bits_keep_their_greys(tmp_path):
    Image.fromarray(np.full((40, 40), 32_768, dtype=np.uint16)).save(tmp_path / "a.png")
    grey = canvas.fit(intake.open_image(tmp_path / "a.png"), 32, 32).getpixel((16, 16))
    assert all(abs(level - 128) <= 1 for level in grey)


def test_transparency_becomes_white(tmp_path):
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert canvas.fit(intake.open_image(tmp_path / "a.png"), 32, 32).getpixel((16, 16)) == (255, 255, 255)


def test_a_turned_photograph_is_set_upright(tmp_path):
    image = Image.new("RGB", (60, 40), "white")
    image.paste("black", (0, 0, 60, 20))  # black above white as stored
    exif = Image.Exif()
    exif[0x0112] = 3  # the camera was upside down
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    frame = canvas.fit(intake.open_image(tmp_path / "a.jpg"), 32, 32)
    assert frame.getpixel((16, 4))[0] > 200 and frame.getpixel((16, 28))[0] < 50


def test_an_empty_prompt_is_refused():
    for prompt in ("", "  \n", None):
        with pytest.raises(ValueError, match="prompt is empty"):
            intake.check_prompt(prompt)
    assert intake.check_prompt("  a hat ") == "a hat"
    with pytest.raises(ValueError, match="30,000 characters"):
        intake.check_prompt("x" * 30_000)


def test_a_long_prompt_runs_and_says_which_words_are_cut():
    pipe = tiny.pipeline()
    prompt = "zebra " * 833  # 5,000 characters
    said = intake.prompt_notice(pipe, prompt.strip())
    read = pipe.tokenizer_2.decode(
        pipe.tokenizer_2(prompt, truncation=True).input_ids, skip_special_tokens=True
    )
    assert said.startswith("The prompt is longer than this model reads: its last")
    lost = int(said.split("last ")[1].split(" characters")[0].replace(",", ""))
    assert len(prompt.strip()) - lost == len(read)
    assert intake.prompt_notice(pipe, "a hat") is None
