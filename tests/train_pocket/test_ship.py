"""What ships: files that git can push, the same weights, and pipelines that plain diffusers draws with."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FluxControlPipeline, FluxPipeline
from PIL import Image

from dsd.model.presets import ASSETS
from dsd.model.transformer import load_transformer
from train.pocket.ship import ship


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    run, out = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("assets")
    for name in ("teacher", "student"):
        shutil.copytree(ASSETS / name, run / name, ignore=shutil.ignore_patterns("diffusion_pytorch_model*"))
        # As training saves it, in one file.
        load_transformer(ASSETS / name).save_pretrained(run / name / "transformer")
    AutoencoderKL.from_pretrained(ASSETS / "student" / "vae").save_pretrained(run / "vae")  # with its folder
    assert ship(run, out, largest="3MB") == ["teacher", "student"]
    return out


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_no_file_is_too_large_and_the_weights_are_the_same(shipped, name):
    files = list((shipped / name / "transformer").glob("*.safetensors"))
    assert len(files) > 5 and max(file.stat().st_size for file in files) < 3.1e6
    before, after = (load_transformer(folder / name).state_dict() for folder in (ASSETS, shipped))
    assert all(
        torch.equal(after[key], value) and value.dtype == after[key].dtype for key, value in before.items()
    )
    assert before.keys() == after.keys()


def test_nothing_names_the_folders_of_the_run(shipped):
    configs = [*shipped.rglob("config.json"), *shipped.rglob("model_index.json")]
    assert len(configs) > 8
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


def test_plain_diffusers_draws_without_being_told_a_dtype(shipped):
    settings = {"prompt": "a red critter", "num_inference_steps": 1, "height": 64, "width": 64}
    settings |= {"max_sequence_length": 28}
    reference = Image.new("RGB", (64, 64))
    by_teacher = FluxPipeline.from_pretrained(shipped / "teacher")(**settings).images
    student = FluxControlPipeline.from_pretrained(shipped / "student")
    by_student = student(control_image=reference, **settings).images
    assert [image.size for image in by_teacher + by_student] == 2 * [(64, 64)]
    assert all(
        image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1] for image in by_student
    )
