"""Files of version 0, before names were changed: they open, and what was begun goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dsd.curation.selection import Choice
from dsd.files import jsonl
from dsd.files.pairs import read_pairs
from dsd.training.loop import train
from tests import student
from train import curate, dataset, grids
from train.train import _parser, options_of

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(DATA / "old_run", tmp_path / "run"))


def test_rows_are_read_under_todays_names(run):
    for grid in jsonl.read(run / "grids" / "grids.jsonl"):
        assert grid["license"] == "Apache-2.0" and "licence" not in grid


def test_an_old_dataset_is_read_under_todays_names(run):
    rows = list(read_pairs(run / "dataset"))
    assert len(rows) == 6 and {row["generator_license"] for row in rows} == {"Apache-2.0"}


def test_an_old_run_is_finished_and_nothing_is_made_again(run, capsys):
    before = {path: jsonl.read(path) for path in run.rglob("*.jsonl")}
    assert curate.main([str(run), "--judge", "pocket", "--votes", "2", "2", "--floor", "0.5"]) == 0
    assert "asked 0 questions" in capsys.readouterr().out
    assert {path: jsonl.read(path) for path in before} == before
    assert dataset.main([str(run), "--words", "sheet"]) == 0  # the old name of the option
    assert {row["caption_writer"] for row in read_pairs(run / "dataset")} == {"grid"}
    assert Choice(words="grid").words == "grid"


def test_an_old_run_takes_more_prompts(run):
    from train import prompts

    assert prompts.main([str(run), "--count", "4"]) == 0
    assert grids.main([str(run), "--model", "pocket"]) == 0
    rows = jsonl.read(run / "grids" / "grids.jsonl")
    assert len(rows) == 4 and {row["license"] for row in rows} == {"Apache-2.0"}


def test_an_old_training_goes_on_to_the_same_weights(tmp_path):
    """Its state holds `quantise`; the weights after four steps are those that version 0 reached."""
    torch.set_num_threads(1)
    out = Path(shutil.copytree(DATA / "old_training" / "run", tmp_path / "run"))
    model = Path(shutil.copytree(DATA / "old_training" / "teacher", tmp_path / "teacher"))
    state = next(out.rglob("state.json"))
    about = json.loads(state.read_text())
    about["bound"]["model"] = str(model)  # the folder was moved
    state.write_text(json.dumps(about))
    steps = []
    train(student.pairs(), student.options(model), out, on_step=lambda step, values: steps.append(step))
    assert steps[0] == 2, "it began with the first step"
    ours = load_file(out / "lora" / "pytorch_lora_weights.safetensors")
    theirs = load_file(DATA / "old_training" / "finished.safetensors")
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=1e-5)  # CPUs round differently


def test_the_old_spelling_of_a_flag_is_taken():
    args = _parser().parse_args(["run", "--out", "out", "--model", "flux-dev", "--quantise", "4bit"])
    assert options_of(args).quantize == "4bit"
