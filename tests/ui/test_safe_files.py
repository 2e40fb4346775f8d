"""What is opened runs no code: no pickle, no code that a model brings, no format that calls a program."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from dsd.files import hub, intake
from dsd.files.hub import LoadError
from dsd.grids.teacher import load_teacher
from dsd.model.checkpoint import load_pipeline, save_pipeline
from dsd.vlm.embed import open_embedder
from dsd.vlm.open import open_vlm
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


class Boom:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def pickled(folder: Path, mark: Path) -> Path:
    """The same folder with every weight in a pickle instead, which does harm when it is opened."""
    for weights in folder.rglob("*.safetensors"):
        name = {"model": "pytorch_model"}.get(weights.stem, weights.stem)
        weights.with_name(f"{name}.bin").write_bytes(pickle.dumps(Boom(mark)))
        weights.unlink()
    return folder


@pytest.fixture
def student(tmp_path) -> Path:
    save_pipeline(tiny.pipeline(), tmp_path / "student")
    return tmp_path / "student"


def test_a_folder_of_pickles_is_refused_and_none_is_opened(student, tmp_path):
    mark = tmp_path / "mark"
    for opener, options in ((load_pipeline, {}), (load_teacher, {"like": "pocket"})):
        with pytest.raises(LoadError, match=r"a pickle, which can run code.*to .safetensors"):
            opener(str(pickled(student, mark)), **options)
    for opener in (open_vlm, open_embedder):
        with pytest.raises(LoadError, match="a pickle, which can run code"):
            opener(str(pickled(tiny.vlm(tmp_path / opener.__name__), mark)))
    assert not mark.exists()


def test_one_part_in_a_pickle_is_refused_too(student, tmp_path):
    pickled(student / "text_encoder_2", tmp_path / "mark")
    with pytest.raises(LoadError, match="cannot open"):
        load_pipeline(str(student))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora.ckpt"])
def test_a_lora_in_a_pickle_is_refused(student, tmp_path, name):
    torch.save({"x": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(LoadError, match=f"{name}, a pickle"):
        load_pipeline(str(student), weights=tmp_path / name)


def test_a_model_that_brings_code_is_refused_and_it_is_not_run(tmp_path):
    folder, mark = tiny.vlm(tmp_path / "vlm"), tmp_path / "mark"
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": auto}))
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: ...\nclass Model: ...\n")
    with pytest.raises(LoadError, match="custom model code, which is never run"):
        open_vlm(str(folder))
    assert not mark.exists()


def test_a_pipeline_that_brings_code_does_not_run_it(student, tmp_path):
    index, mark = student / "model_index.json", tmp_path / "mark"
    (student / "vae" / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["evil", "AutoencoderKL"]}))
    with pytest.raises(LoadError, match="custom model code, which is never run"):
        load_pipeline(str(student))
    assert not mark.exists()


def test_what_is_needed_to_draw_comes_as_safetensors_alone():
    assert hub.SAFE == {"use_safetensors": True, "trust_remote_code": False}
    shipped = [path for path in (ROOT / "assets").rglob("*") if path.suffix in hub.PICKLES]
    assert shipped == []


def test_postscript_and_other_formats_that_call_programs_are_not_even_tried():
    assert not set(intake.FORMATS) & {"EPS", "PDF", "WMF", "GRIB", "HDF5", "BUFR", "MPEG", "FITS"}
