"""The app's examples of each task: the seed whose image shows the change, and keeps the rest, is kept."""

import json
from types import SimpleNamespace

from dsd.evaluation.tasks import task_cases
from dsd.pocket.world import COLORS
from train.pocket import examples

FEW = 8


def test_a_student_of_several_tasks_gets_examples_of_each(tmp_path, monkeypatch):
    cases = task_cases("edit", examples.SEED, FEW, 1)
    truths = {(case.facts.critter.color, case.prompt): case.truth for case in cases}

    def draw(pipe, reference, options, **_):
        """Only the second of three seeds shows what was asked for."""
        color, prompt = reference.filename.split("-")[-3], options.prompt
        shown = [reference.convert("RGB"), truths[color, prompt], reference.convert("RGB")]
        return [SimpleNamespace(image=image, seed=seed) for seed, image in enumerate(shown)]

    monkeypatch.setattr(examples.drawing, "generate", draw)
    monkeypatch.setattr(examples, "CRITTERS", FEW)
    first = {"image": "0.png", "prompt": "in the snow", "seed": 9}
    (tmp_path / "examples.json").write_text(json.dumps([first]))
    examples.add_tasks(tmp_path, SimpleNamespace(trained_tasks=("identity", "edit")), seeds=3)
    kept, *rows = json.loads((tmp_path / "examples.json").read_text())
    assert kept == first and {row["task"] for row in rows} == {"edit"}
    assert len({row["image"].split("-")[2] for row in rows} & {*COLORS}) == len(rows) > 3
    assert [row["seed"] for row in rows] == [1] * len(rows)
    assert all((tmp_path / row["image"]).exists() for row in rows)
