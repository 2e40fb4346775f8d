"""Files of version 0, before names were changed: they open, and what was begun goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from dsd.curation.selection import Choice
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.files.pairs import read_pairs
from dsd.model.checkpoint import weights_hash
from dsd.model.presets import POCKET
from dsd.training.loop import train
from tests import student
from train import curate, dataset, grids, prompts
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
    judge = weights_hash(AutoModelForImageTextToText.from_pretrained(POCKET.judge))
    old = (run / "pairs.jsonl").read_text()
    (run / "pairs.jsonl").write_text(old.replace("3f527b9ab5f3", judge))  # as if that judge still shipped
    before = {path: jsonl.read(path) for path in run.rglob("*.jsonl")}
    flags = ["--votes", "2", "2", "--embedder", "judge", "--floor", "0.5"]
    assert curate.main([str(run), "--judge", "pocket", *flags]) == 0
    assert "asked 0 questions" in capsys.readouterr().out
    assert {path: jsonl.read(path) for path in before} == before
    assert dataset.main([str(run), "--words", "sheet"]) == 0  # the old name of the option
    assert {row["caption_writer"] for row in read_pairs(run / "dataset")} == {"grid"}
    assert Choice(words="grid").words == "grid"


@pytest.mark.parametrize(
    ("command", "flags", "sentence"),
    [
        (prompts, ["--count", "4"], "row 000000 was made with other settings .caption was"),
        (
            grids,
            ["--model", "pocket", "--shared-noise", "0", "--refine", "0"],
            "was made with other settings .generator_hash was",
        ),
        (curate, ["--judge", "pocket"], "was made with other settings .judge_hash was '3f527b9ab5f3', now"),
    ],
)
def test_an_old_run_of_other_weights_is_not_mixed_with_those_that_ship(run, command, flags, sentence):
    before = {path: path.read_bytes() for path in run.rglob("*.*")}
    with pytest.raises(RunError, match=sentence):
        command.main([str(run), *flags])
    assert {path: path.read_bytes() for path in before} == before


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
