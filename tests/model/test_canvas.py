"""The canvas: any image becomes a frame, frames become a canvas, nothing is clipped or turned."""

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.model import canvas as diptych


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, red * 0 + 90], -1).astype(np.uint8))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"]
)
@pytest.mark.parametrize("fit", diptych.FITS)
def test_every_mode_becomes_an_rgb_frame(mode, fit):
    source = (
        gradient().convert("L").convert(mode) if mode in ("I", "F", "I;16", "1") else gradient().convert(mode)
    )
    frame = diptych.fit(source, 32, 48, fit)
    assert (frame.mode, frame.size) == ("RGB", (32, 48))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    grey = np.asarray(diptych.fit(deep, 64, 64))[..., 0]
    assert abs(int(grey[32, 32]) - 128) <= 2 and grey[0, 0] == 0 and grey[-1, -1] == 255


def test_alpha_lies_on_white():
    clear = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert diptych.fit(clear, 16, 16).getpixel((8, 8)) == (255, 255, 255)
    palette = Image.new("P", (32, 32), 0)
    palette.info["transparency"] = 0
    assert diptych.fit(palette, 16, 16).getpixel((8, 8)) == (255, 255, 255)


def test_exif_turns_the_image():
    image = Image.new("RGB", (64, 32), "red")
    image.paste("blue", (0, 0, 32, 32))  # the left half
    image.getexif()[0x0112] = 6  # "turn by 90 degrees": left becomes top
    frame = diptych.fit(image, 32, 64)
    assert frame.getpixel((16, 8)) == (0, 0, 255) and frame.getpixel((16, 56)) == (255, 0, 0)


def test_crop_keeps_the_centre_and_pad_keeps_everything():
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    assert np.unique(np.asarray(diptych.fit(image, 32, 32)).reshape(-1, 3), axis=0).tolist() == [[0, 0, 255]]
    padded = diptych.fit(image, 96, 96, "pad")
    assert padded.getpixel((4, 48)) == (255, 0, 0) and padded.getpixel((48, 4)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000)])
@pytest.mark.parametrize("fit", diptych.FITS)
def test_the_thinnest_image_fits(size, fit):
    assert diptych.fit(Image.new("RGB", size), 64, 64, fit).size == (64, 64)


def test_an_animation_gives_its_first_frame_and_is_left_where_it_was(tmp_path):
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    animation = Image.open(tmp_path / "a.gif")
    animation.seek(1)
    assert diptych.fit(animation, 16, 16).getpixel((8, 8))[0] > 200
    assert animation.tell() == 1


def test_the_input_is_not_changed():
    image = gradient().convert("RGBA")
    before = image.tobytes()
    diptych.fit(image, 16, 16)
    assert image.tobytes() == before and image.mode == "RGBA"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((gradient(), 30, 32), "width must be a multiple of 16, got 30; try 16 or 32"),
        ((gradient(), 32, 0), "height must be a whole number from 16 to 2048, got 0"),
        ((gradient(), 32, 32, "stretch"), "crop, pad, got 'stretch'"),
        (("cat.png", 32, 32), "image must be a PIL image, got str"),
        ((Image.new("RGB", (0, 5)), 32, 32), "the image is empty"),
    ],
)
def test_mistakes_name_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        diptych.fit(*arguments)


def test_pixels_span_minus_one_to_one():
    pixels = diptych.to_tensor([Image.new("RGB", (16, 32), "black"), Image.new("RGB", (16, 32), "white")])
    assert pixels.shape == (2, 3, 32, 16) and pixels.dtype == torch.float32
    assert pixels[0].unique().tolist() == [-1.0] and pixels[1].unique().tolist() == [1.0]


def test_the_canvas_is_the_reference_beside_black():
    reference = torch.rand(2, 3, 16, 32)
    canvas = diptych.compose(reference)
    left, right = diptych.split(canvas)
    assert canvas.shape == (2, 3, 16, 64)
    assert torch.equal(left, reference) and right.unique().tolist() == [-1.0]


def test_a_canvas_of_odd_width_is_refused():
    with pytest.raises(ValueError, match="got a width of 33"):
        diptych.split(torch.zeros(1, 3, 16, 33))
