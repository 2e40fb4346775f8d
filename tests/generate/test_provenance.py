"""An image carries its settings and references, from which it is drawn again."""

import json

import numpy as np
import pytest
from PIL import Image

from dsd.generate import drawing, provenance
from dsd.generate.drawing import Options
from tests import tiny

ASKED = {"seed": 7, "steps": 3, "width": 48, "fit": "pad"}


def test_settings_and_reference_survive_the_file(pipe, photo, tmp_path):
    prompt = 'a "red" hat, très chic, 帽子 🎩\nand a scarf'
    result = drawing.generate(pipe, photo, Options(prompt=prompt, **ASKED), model="tiny")[0]
    path = drawing.save(result, tmp_path / "out.png")
    settings = provenance.read_settings(path)
    assert settings == json.loads(json.dumps(result.settings))
    assert settings["prompt"] == prompt and settings["seed"] == 7 and settings["model"] == "tiny"
    assert settings["made_by"] == "AI-generated image"
    assert set(settings["versions"]) == {"dsd", "torch", "diffusers"}
    assert (settings["width"], settings["height"], settings["fit"]) == (48, 32, "pad")
    reference = provenance.read_reference(path)
    assert provenance.image_hash(reference) == settings["reference_sha256"]
    with Image.open(path) as image:
        assert image.info["Source"] == provenance.MARK and image.info["Description"] == prompt
        assert tiny.difference(image, result.image) == 0


def test_the_same_image_comes_from_its_file(pipe, photo, tmp_path):
    result = drawing.generate(pipe, photo, Options(prompt="a red hat", **ASKED))[0]
    path = drawing.save(result, tmp_path / "out.png")
    options = drawing.options_from(provenance.read_settings(path))
    (again,) = drawing.generate(pipe, provenance.read_reference(path), options)
    assert tiny.difference(again.image, result.image) == 0


def test_a_large_frame_still_fits_in_the_text(tmp_path):
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8))
    settings = {"prompt": "x", "versions": provenance.versions()}
    path = provenance.save(tmp_path / "large.png", Image.new("RGB", (32, 32)), settings, frame)
    assert tiny.difference(provenance.read_reference(path), frame) == 0


def test_an_image_without_settings_says_so(photo, tmp_path):
    photo.save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="has no settings"):
        provenance.read_settings(tmp_path / "plain.png")


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "{}", '{"prompt": "x", "seed": "abc"}'])
def test_forged_settings_end_in_a_sentence(text, tmp_path):
    info = provenance.PngInfo()
    info.add_itxt(provenance.SETTINGS, text)
    info.add_text(provenance.REFERENCE, "not base64")
    Image.new("RGB", (32, 32)).save(tmp_path / "forged.png", pnginfo=info)
    with pytest.raises(ValueError, match="settings"):
        drawing.options_from(provenance.read_settings(tmp_path / "forged.png"))
    with pytest.raises(ValueError, match="reference"):
        provenance.read_reference(tmp_path / "forged.png")


def test_names_of_private_folders_stay_out_of_the_file(pipe, photo, tmp_path):
    options = Options(prompt="a red hat", steps=1)
    names = {"model": str(tmp_path / "mine"), "weights": str(tmp_path / "w")}
    (result,) = drawing.generate(pipe, photo, options, **names)
    assert (result.settings["model"], result.settings["weights"]) == ("mine", "w")


def test_a_further_reference_that_was_cut_from_the_file_is_missed(tmp_path):
    settings = {"prompt": "x", "further_references_sha256": ["a", "b"]}
    path = provenance.save(tmp_path / "out.png", tiny.image(), settings, tiny.image(1), tiny.image(2))
    with pytest.raises(ValueError, match="no readable reference"):
        provenance.read_references(path)
