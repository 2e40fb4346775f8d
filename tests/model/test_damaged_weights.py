"""A weight file that was cut short or is none: one sentence names it, whoever opens it."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from dsd.files import hub
from dsd.generate import command as drawing
from dsd.generate import flags
from dsd.grids.teacher import load_teacher
from dsd.model import checkpoint
from dsd.model.checkpoint import LoadError, load_pipeline, save_pipeline
from dsd.model.presets import LORA
from dsd.training import student
from dsd.training.options import TrainOptions
from tests import tiny
from train import command

CONTENTS = {"empty": b"", "three bytes": b"abc", "text": b"<html>Sorry, this page is not here.</html>\n" * 9}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_pipeline(tiny.pipeline(), folder)
    return folder


@pytest.fixture
def saved(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "saved")


def cut(folder: Path) -> Path:
    """The folder's weight file, half of it gone."""
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    return file


PARTS = pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "text_encoder_2"])


@PARTS
def test_a_file_that_was_cut_short_is_named(saved, part):
    file = cut(saved / part)
    with pytest.raises(LoadError, match=rf"{file} is damaged.*: copy, download or save it again"):
        load_pipeline(saved, device="cpu")


def lose(folder: Path) -> str:
    """Remove a tensor from the folder's weight file and return its name."""
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    name = next(name for name in sorted(state) if "layer" in name or "conv" in name)
    del state[name]
    save_file(state, file, {"format": "pt"})
    return name


@pytest.mark.parametrize("part", ["vae", "text_encoder", "text_encoder_2"])
def test_a_part_that_lacks_weights_is_refused(saved, part):
    lost = lose(saved / part)
    with pytest.raises(LoadError, match=rf"the {part} of {saved} lacks 1 of its weights, such as {lost}: "):
        load_pipeline(saved, device="cpu")
    with pytest.raises(LoadError, match="lacks 1 of its weights"):
        student.open_encoders(student.find_base(TrainOptions(model=str(saved))), torch.float32)


def test_a_teacher_that_lacks_weights_is_refused(tmp_path):
    parts = {**tiny.components(), "transformer": tiny.plain_transformer()}
    FluxPipeline(**parts).save_pretrained(tmp_path)
    lose(tmp_path / "text_encoder_2")
    with pytest.raises(LoadError, match="the text_encoder_2 of .* lacks 1 of its weights"):
        load_teacher(str(tmp_path), like="pocket", device="cpu")


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_lora_that_is_none_is_named(whole, tmp_path, content):
    file = tmp_path / LORA
    file.write_bytes(content)
    for weights in (file, tmp_path):
        with pytest.raises(LoadError, match=rf"{file} is damaged or not a safetensors file"):
            load_pipeline(whole, weights=weights, device="cpu")


def test_a_damaged_lora_shows_before_its_base_is_opened(tmp_path, monkeypatch):
    (tmp_path / LORA).write_bytes(b"abc")
    monkeypatch.setattr(checkpoint.DSDPipeline, "load_config", lambda base: {})
    monkeypatch.setattr(checkpoint, "load_transformer", lambda *_, **__: pytest.fail("the base was opened"))
    with pytest.raises(LoadError, match=f"{LORA} is damaged"):
        load_pipeline("flux-schnell", weights=tmp_path, device="cpu")


def test_in_the_hubs_cache_the_file_to_delete_is_named_and_not_its_link(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--me--model"
    snapshot = shutil.copytree(whole, place / "snapshots" / "abc")
    (place / "blobs").mkdir()
    file = cut(snapshot / "vae")
    blob = file.replace(place / "blobs" / "0123")
    file.symlink_to(blob)
    with pytest.raises(LoadError, match=rf"{blob} is damaged.*: delete it to download it again"):
        with hub.explain_errors("me/model", ["me/model"]):
            load_file(file)


def test_a_file_that_cannot_be_found_again_is_still_a_sentence(tmp_path):
    (file := tmp_path / "x.safetensors").write_bytes(b"abc")
    with pytest.raises(LoadError, match="cannot open a/b .*header too small"):
        with hub.explain_errors("a/b", ["a/b"]):
            load_file(file)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_training_names_it_too(saved, part, capsys):
    file = cut(saved / part)

    def train() -> None:
        options = TrainOptions(model=str(saved))
        base = student.find_base(options)
        student.open_encoders(base, torch.float32)
        student.open_transformer(base, options, torch.float32, torch.device("cpu"))

    with pytest.raises(SystemExit) as ended:
        command.run(train)
    said = capsys.readouterr().err.splitlines()[-1]  # below the bars of diffusers
    assert ended.value.code == 2 and f"{file} is damaged" in said and "save it again" in said


def test_the_command_line_says_it_in_one_line(tmp_path, capsys):
    (weights := tmp_path / "lora.safetensors").write_bytes(CONTENTS["text"])
    tiny.image().save(tmp_path / "in.png")
    job = [str(tmp_path / "in.png"), "a hat", "-o", str(tmp_path / "out.png"), "--device", "cpu"]
    assert drawing.run(flags.parse([*job, "--weights", str(weights)])) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{weights} is damaged" in said and "memory" not in said
