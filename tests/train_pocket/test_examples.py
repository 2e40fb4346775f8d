"""The app's examples: of each the seed that the scorer reads best, and its image, are kept."""

import json
from types import SimpleNamespace

from PIL import Image

from dsd.evaluation.tasks import task_cases
from dsd.generate import provenance
from dsd.generate.drawing import Result
from dsd.pocket.world import COLORS
from train.pocket import examples

FEW = 8
OWN = {"image_guidance": 2.5, "text_guidance": 3.5}


def result(image: Image.Image, seed: int, prompt: str) -> Result:
    return Result(image, image, image, seed, {"prompt": prompt, "seed": seed})


def drawn(folder, row) -> None:
    """The image of the kept seed lies there, and beside its reference to pick it by."""
    assert provenance.read_settings(folder / row["result"])["seed"] == row["seed"]
    with Image.open(folder / row["tile"]) as tile, Image.open(folder / row["result"]) as image:
        assert tile.size == (2 * image.width, image.height)
        assert tile.crop((image.width, 0, *tile.size)).tobytes() == image.tobytes()
        assert tile.info["Source"] == provenance.MARK


def test_every_example_is_finished_and_the_page_opens_with_the_best(tmp_path, monkeypatch):
    def draw(pipe, reference, options, **_):
        assert (options.image_guidance, options.text_guidance) == (2.5, 3.5)  # as the page draws them
        return [result(Image.new("RGB", (16, 16), (seed, 0, 0)), seed, options.prompt) for seed in range(3)]

    best = iter([1] * 5 + [2] + [1] * 2)  # of three seeds the second has the best score, of one example twice

    class Scorer:
        def read(self, images):
            return [0, next(best), -1]

    monkeypatch.setattr(examples.drawing, "generate", draw)
    monkeypatch.setattr(examples.scorer, "load", Scorer)
    monkeypatch.setattr(examples, "_score", lambda critter, wanted, reading: reading)
    examples.finish(tmp_path, examples.write(tmp_path), SimpleNamespace(scales=OWN))
    rows = json.loads((tmp_path / "examples.json").read_text())
    assert [row["seed"] for row in rows] == [1] * 8
    assert [row.get("first", False) for row in rows] == [False] * 5 + [True] + [False] * 2
    for row in rows:
        drawn(tmp_path, row)


def test_a_student_of_several_tasks_gets_examples_of_each(tmp_path, monkeypatch):
    cases = task_cases("edit", examples.SEED, FEW, 1)
    truths = {(case.facts.critter.color, case.prompt): case.truth for case in cases}

    def draw(pipe, reference, options, **_):
        """Only the second of three seeds shows what was asked for."""
        color, prompt = reference.filename.split("-")[-3], options.prompt
        shown = [reference.convert("RGB"), truths[color, prompt], reference.convert("RGB")]
        return [result(image, seed, prompt) for seed, image in enumerate(shown)]

    monkeypatch.setattr(examples.drawing, "generate", draw)
    monkeypatch.setattr(examples, "CRITTERS", FEW)
    first = {"image": "0.png", "prompt": "in the snow", "seed": 9}
    (tmp_path / "examples.json").write_text(json.dumps([first]))
    examples.add_tasks(tmp_path, SimpleNamespace(trained_tasks=("identity", "edit"), scales=OWN), seeds=3)
    kept, *rows = json.loads((tmp_path / "examples.json").read_text())
    assert kept == first and {row["task"] for row in rows} == {"edit"}
    assert len({row["image"].split("-")[2] for row in rows} & {*COLORS}) == len(rows) > 3
    assert [row["seed"] for row in rows] == [1] * len(rows)
    for row in rows:
        drawn(tmp_path, row)
