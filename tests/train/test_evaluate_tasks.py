"""Relighting and edits are measured by the command that measures identity, with the same files."""

import json

import pytest

from dsd.evaluation import report, results
from dsd.files import jsonl
from tests.train.evaluating import TOY, be_process, save_models
from train import evaluate


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("task", ["relight", "edit"])
def test_a_task_is_measured_beside_its_baselines_and_reported(models, task, tmp_path, monkeypatch):
    command = [models["early"], "--teacher", models["teacher"], *TOY, "--subjects", "2", "--task", task]
    assert evaluate.main([*command, "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["settings"]["task"] == task and kept["protocol"]["benchmark"] == f"held-out critters, {task}"
    multiplied = {results.MULTIPLIED} if task == "relight" else set()
    assert {*kept["scores"]} == {"early", results.TEACHER, results.VAE, results.COPY} | multiplied
    assert kept["scores"][results.COPY]["changed"]["mean"] < 0.3 < kept["ceiling"]["changed"]["mean"]
    rows, data = jsonl.read(tmp_path / "images.jsonl"), report.read(tmp_path)
    assert len(rows) == len(data["rows"]) == 4 * len(kept["scores"])
    for row in rows:
        assert row["reason"].startswith("the change is ") and row["file"] in data["images"]
        assert row["asked"].startswith("a ") == (row["way"] == results.TEACHER)  # the full caption
        assert (row["light"] is None) == (task == "relight")
    for index in (1, 0):
        be_process(monkeypatch, index)
        evaluate.main([*command, "--out", str(tmp_path / "shared")])
    for name in ("results.json", "report.html", "images.jsonl"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--judge-model", "two", "--yes"], "--judge-model and --yes would have no effect without --judge"),
        (["--teacher-like", "flux-dev"], "--teacher-like would have no effect without --teacher"),
        (["--labels", "labels.json", "--steps", "9"], "--steps would have no effect beside --labels"),
        (["--size", "64"], "--size would have no effect without --images: add it, or drop it"),
        (["--images", "photos", "--subjects", "9"], "--subjects would have no effect beside --images: drop"),
        (["--images", "photos", "--teacher-guidance", "3"], "no effect without --teacher: add it, or drop"),
    ],
)
def test_a_flag_without_an_effect_is_refused(wrong, said, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["pocket", *wrong, "--out", str(tmp_path / "out")])
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
