"""One command measures several checkpoints on the same ground, the same each time."""

import json
import subprocess
import sys

import pytest
from diffusers import FluxPipeline
from PIL import Image

from dsd.evaluation import validation
from dsd.files import jsonl, whole
from dsd.model.pipeline import DSDPipeline
from tests import tiny
from train import comparison, evaluate

TOY = "--subjects 3 --prompts 2 --steps 1 --image-guidance 1 --device cpu --batch 4".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("early", "late")):
        DSDPipeline(**tiny.components(seed=seed)).save_pretrained(folder / name)
    FluxPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()}).save_pretrained(
        folder / "teacher"
    )
    return {file.name: str(file) for file in folder.iterdir()}


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    command = [models["early"], f"the fix={models['late']}", "--teacher", models["teacher"], *TOY]
    assert evaluate.main([*command, "--out", str(out), "--described"]) == 0
    return out


def test_every_way_of_drawing_has_its_row(measured):
    page = (measured / "scores.md").read_text()
    for name in (
        "early",
        "early, full caption",
        comparison.TEACHER,
        comparison.COPY,
        comparison.TRUTH,
        comparison.CHANCE,
    ):
        assert f"\n| {name} | " in page
    assert "3 subjects, 6 images each" in page and "Difference from early, case by case" in page


def test_the_numbers_are_kept(measured):
    kept = json.loads((measured / "scores.json").read_text())
    assert kept["scores"][comparison.COPY]["copy"]["mean"] == pytest.approx(1)
    assert kept["ceiling"]["identity"]["mean"] > 0.9 > kept["chance"]["identity"]["mean"]
    assert kept["settings"]["seed"] == 0 and kept["settings"]["steps"] == 1
    images = jsonl.read(measured / "images.jsonl")
    assert len(images) == 6 * len(kept["scores"])
    early = [row["identity"] for row in images if row["way"] == "early"]
    assert kept["scores"]["early"]["identity"]["mean"] == pytest.approx(sum(early) / 6, abs=1e-4)


def test_a_task_is_measured_beside_its_baselines(models, tmp_path):
    command = [
        models["early"],
        "--teacher",
        models["teacher"],
        *TOY,
        "--subjects",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert evaluate.main([*command, "--task", "relight"]) == 0
    kept = json.loads((tmp_path / "scores.json").read_text())
    assert {comparison.COPY, comparison.MULTIPLIED} <= set(kept["scores"]) and kept["settings"][
        "task"
    ] == "relight"
    assert kept["scores"][comparison.COPY]["asked"]["mean"] < 0.3 < kept["ceiling"]["asked"]["mean"]


def test_the_grid_has_a_column_for_each_way(measured):
    page = Image.open(measured / "samples.png")
    columns = 1 + 2 * 2 + 1 + 1  # reference, two students asked in two ways, teacher, truth
    assert page.size == (130 * columns + 330, 24 + 130 * 6)


def test_the_same_command_gives_the_same_numbers(models, tmp_path):
    for name in ("a", "b"):
        evaluate.main([models["early"], "--teacher", models["teacher"], *TOY, "--out", str(tmp_path / name)])
    for file in ("scores.json", "scores.md", "images.jsonl", "samples.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_stopped_command_goes_on_and_draws_nothing_twice(models, measured, tmp_path, monkeypatch):
    command = [models["early"], "--teacher", models["teacher"], *TOY, "--out", str(tmp_path)]
    drawn, draw = [], DSDPipeline.__call__

    def counting(pipe, prompts, **settings):
        drawn.extend(prompts)
        return draw(pipe, prompts, **settings)

    def stopping(pipe, prompts, **settings):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return counting(pipe, prompts, **settings)

    monkeypatch.setattr(DSDPipeline, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(command)  # the second batch, of two
    assert len(list((tmp_path / "images").iterdir())) == 4
    monkeypatch.setattr(DSDPipeline, "__call__", counting)
    evaluate.main(command)
    assert len(drawn) == 6
    scores = [json.loads((out / "scores.json").read_text())["scores"] for out in (measured, tmp_path)]
    assert scores[0]["early"] == scores[1]["early"]


def test_rows_are_told_apart():
    assert comparison.label(["runs/a", "b=runs/a"]) == {"runs/a": "runs/a", "b": "runs/a"}
    with pytest.raises(ValueError, match="two rows cannot both be called 'pocket': write LABEL=pocket"):
        comparison.label(["pocket", "pocket"])
    with pytest.raises(ValueError, match="called 'chance'"):
        comparison.label(["chance=pocket"])


def test_weights_of_their_own_go_on_the_base(monkeypatch, tmp_path, models):
    asked = []
    monkeypatch.setattr(
        "dsd.model.checkpoint.load_pipeline",
        lambda name, **options: asked.append((name, options["weights"])) or tiny.pipeline(),
    )
    (tmp_path / "lora.safetensors").write_bytes(b"")
    for source in ("pocket", models["early"], str(tmp_path / "lora.safetensors")):
        comparison.open_student(source, base="flux-dev", device="cpu")
    assert asked == [
        ("pocket", None),
        (models["early"], None),
        ("flux-dev", str(tmp_path / "lora.safetensors")),
    ]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["nowhere/at/all"], "unknown model 'nowhere/at/all'"),
        (["pocket", "--subjects", "1"], "--subjects must be at least 2, got 1"),
        (["pocket", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["pocket", "--images", "no-such-folder"], "there is no folder no-such-folder"),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_drawn(wrong, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        evaluate.main([*wrong, "--out", str(tmp_path)])
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_batch_that_was_saved_in_part_is_drawn_as_a_whole(tmp_path, caplog):
    """An image depends on its batch by a rounding, so what is missing cannot be drawn alone."""

    def draw(prompts, references, seeds):  # every image shows the size of its batch
        return [Image.new("RGB", (16, 16), (len(prompts), seed, 0)) for seed in seeds]

    save = validation.save_in(tmp_path, "a way", draw)
    columns = [["a", "b", "c"], [tiny.image(i) for i in range(3)], [1, 2, 3]]
    before = [image.tobytes() for image in save(*columns)]
    files = sorted(tmp_path.iterdir())
    contents = [file.read_bytes() for file in files]
    files[0].unlink()
    files[1].write_bytes(contents[1][:-40] + b"\0" * 40)  # as a power failure leaves it
    assert [image.tobytes() for image in save(*columns)] == before
    assert f"{files[1]} cannot be read" in caplog.text and "it is drawn again" in caplog.text
    assert [file.read_bytes() for file in files] == contents


def test_two_commands_do_not_write_one_folder(tmp_path, models):
    with whole.locked(tmp_path / "scores"):
        with pytest.raises(ValueError, match="another command is writing .*scores; let it finish or stop it"):
            evaluate.main([models["early"], *TOY, "--out", str(tmp_path)])


def test_the_command_says_it_on_one_line(tmp_path):
    command = [sys.executable, "-m", "train.evaluate", "pocket", "--subjects", "1", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stdout == ""
    assert (
        ended.stderr.startswith("train.evaluate: --subjects must be at least 2")
        and ended.stderr.count("\n") == 1
    )


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_drawn(tmp_path, models):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ValueError, match="cannot write .*taken"):
        evaluate.main([models["early"], *TOY, "--out", str(tmp_path / "taken")])
