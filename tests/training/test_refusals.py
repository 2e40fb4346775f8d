"""What a training refuses, in one sentence and before any work where it can; ."""

import sys
from pathlib import Path

import pytest

from dsd.training.options import TrainingError, TrainOptions
from dsd.training.student import find_base
from tests import student


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


def test_a_lora_target_that_matches_nothing_is_named_with_what_there_is(teacher, tmp_path):
    with pytest.raises(TrainingError, match="'to_z' matches no layer .*has add_k_proj, .* to_q, to_v"):
        student.run(teacher, tmp_path, targets=("to_q", "to_z"))


@pytest.mark.parametrize("model", ["flux-schnell", "someone/FLUX-Turbo"])
def test_a_distilled_base_must_be_meant(model):
    with pytest.raises(TrainingError, match=f"{model} was distilled .* --distilled-base"):
        find_base(TrainOptions(model=model))
    assert find_base(TrainOptions(model=model, distilled_base=True)).source


@pytest.mark.parametrize("place", ["turbo/flux", "schnell-runs/hyper-parameters/flux"])
def test_what_the_folders_above_a_base_are_called_says_nothing_of_it(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    assert find_base(TrainOptions(model=str(tmp_path / place))).source == str(tmp_path / place)
    distilled = tmp_path / place / "FLUX.1-schnell"
    distilled.mkdir()
    with pytest.raises(TrainingError, match="was distilled"):
        find_base(TrainOptions(model=f"{distilled}/"))


def test_a_snapshot_of_the_hub_is_known_by_the_folder_that_names_it(tmp_path):
    snapshot = tmp_path / "models--black-forest-labs--FLUX.1-schnell" / "snapshots" / "0a1b2c"
    snapshot.mkdir(parents=True)
    with pytest.raises(TrainingError, match="was distilled"):
        find_base(TrainOptions(model=str(snapshot)))


def test_columns_that_have_learnt_are_not_begun_anew(plain, tmp_path):
    with pytest.raises(
        TrainingError, match="already has trained columns .* --condition-init-scale 3.0 would overwrite"
    ):
        student.run(plain, tmp_path / "out", condition_init_scale=3.0)
    assert not (tmp_path / "out").exists()  # nothing was encoded
    student.run(plain, tmp_path / "out", condition_init_scale=0.0)  # training goes on from them


def test_pocket_starts_from_its_teacher():
    base = find_base(TrainOptions(model="pocket"))
    assert base.source.endswith("teacher") and base.license == "Apache-2.0"


def test_quantizing_without_its_package_says_which_to_install_before_any_work(teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match="--quantize 4bit needs the package bitsandbytes"):
        student.run(teacher, tmp_path / "out", quantize="4bit")
    assert not (tmp_path / "out").exists()  # nothing was encoded


@pytest.fixture(scope="module")
def plain(teacher, tmp_path_factory) -> Path:
    """What four steps left."""
    out = tmp_path_factory.mktemp("plain")
    student.run(teacher, out)
    return out


def test_a_run_of_other_settings_is_not_continued(plain, teacher):
    with pytest.raises(TrainingError, match="was started with rank 2, but now it is 3"):
        student.run(teacher, plain, rank=3)


def test_fewer_steps_than_were_done_are_refused(plain, teacher):
    before = (plain / "model_index.json").stat().st_mtime_ns
    with pytest.raises(TrainingError, match="has done 4 steps already, but now --steps is 3: pass 4"):
        student.run(teacher, plain, steps=3)
    assert (plain / "model_index.json").stat().st_mtime_ns == before
    student.run(teacher, plain, steps=4)  # nothing is left to do, which is no mistake


def test_a_training_that_diverges_says_so_and_saves_nothing_broken(teacher, tmp_path):
    with pytest.raises(TrainingError, match="the training has diverged .* smaller --lr"):
        student.run(teacher, tmp_path, full=True, lr=1e30, clip=1e30, steps=8, save_every=1)
    weights = [state for state in (tmp_path / "run" / "states").iterdir() if not state.name.startswith(".")]
    assert len(weights) <= 2 and not (tmp_path / "model_index.json").exists()
