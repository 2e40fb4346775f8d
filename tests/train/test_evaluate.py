"""One command measures several checkpoints on the same ground, the same each time."""

import io
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from dsd.evaluation import judged, report, results, validation
from dsd.evaluation.judged import JudgedScorer
from dsd.files import jsonl, whole
from dsd.model.pipeline import DSDPipeline
from dsd.vlm.recorded import Recorded
from tests import tiny
from tests.evaluation.stand_ins import CASES, NETWORKS, said
from tests.judging import FakeJudge
from tests.train.evaluating import TOY, be_process, save_models
from train import comparison, evaluate


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    return save_models(tmp_path_factory.mktemp("models"))


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
    assert "3 subjects, 6 images for each row" in page and "Difference from early, case by case" in page


def test_the_numbers_are_kept(measured):
    kept = json.loads((measured / "scores.json").read_text())
    assert kept["scores"][comparison.COPY]["copy"]["mean"] > 0.85  # of the poses, 91 % are read
    assert kept["ceiling"]["identity"]["mean"] > 0.9 > kept["chance"]["identity"]["mean"]
    assert kept["settings"]["seed"] == 0 and kept["settings"]["steps"] == 1
    images = jsonl.read(measured / "images.jsonl")
    assert len(images) == 6 * len(kept["scores"])
    early = [row["identity"] for row in images if row["way"] == "early"]
    assert kept["scores"]["early"]["identity"]["mean"] == pytest.approx(sum(early) / 6, abs=1e-4)


def test_a_score_of_an_image_that_was_altered_is_found(measured, tmp_path):
    text, altered = (measured / "images.jsonl").read_text(), tmp_path / "images.jsonl"
    altered.write_text(text.replace('"seed": ', '"seed": 1'))
    with pytest.raises(jsonl.RunError, match="images.jsonl line 1 does not match its checksum"):
        jsonl.read(altered)


def test_the_report_says_what_was_measured_with_what(measured):
    content = (measured / "results.json").read_bytes()
    assert content == (measured / "scores.json").read_bytes()  # the name before
    about = json.loads(content)
    assert about["protocol"]["benchmark"] == "held-out critters" and about["protocol"]["subjects"] == 3
    assert {*about["models"]} == {*about["scores"]} and "by_student" in about["models"]["the fix"]
    assert about["models"]["early"] == about["models"]["early, full caption"]
    assert len({*about["models"].values()}) == 5  # both students are asked in two ways
    assert about["backbones"] and about["versions"].keys() >= {"dsd", "torch", "diffusers"}
    assert {"color", "hue"} <= about["scores"]["early"].keys() & about["ceiling"].keys()
    assert "Kept, part by part:" in (measured / "scores.md").read_text()


def test_every_image_has_its_files_score_and_reason_in_the_page(measured):
    data, rows = report.read(measured), jsonl.read(measured / "images.jsonl")
    assert len(data["rows"]) == len(rows) == len({row["id"] for row in rows}) == 42
    for row, shown in zip(rows, data["rows"], strict=True):
        assert row["reason"].startswith("traits lost: ") and shown["reason"] == row["reason"]
        assert shown["scores"]["identity"] == pytest.approx(row["identity"], abs=1e-3)
        for kind in ("file", "reference", "truth"):
            assert (measured / "images" / row[kind]).exists() and row[kind] in data["images"]
    assert {row["way"] for row in rows if row["asked"] != row["prompt"]} == {
        "early, full caption", "the fix, full caption", comparison.TEACHER
    }  # fmt: skip
    copies = [row for row in rows if row["way"] == results.COPY]
    assert all(row["file"] == row["reference"] for row in copies)


def test_labels_join_the_report_and_stay(models, measured, tmp_path, capsys):
    out = tmp_path / "report"
    shutil.copytree(measured, out)
    rows = [row for row in jsonl.read(out / "images.jsonl") if row["way"] != results.COPY]
    kept = [{"image": row["id"], "same": row["identity"] > 0.4} for row in rows]
    (tmp_path / "mine.json").write_text(json.dumps({"report": "x", "labels": kept}))
    assert evaluate.main([str(out), "--labels", str(tmp_path / "mine.json")]) == 0
    assert "36 images labeled" in capsys.readouterr().out
    about = json.loads((out / "results.json").read_bytes())
    assert about["agreement"]["agreement"]["identity"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert report.read(out)["about"] == about
    command = [models["early"], f"the fix={models['late']}", "--teacher", models["teacher"], *TOY]
    evaluate.main([*command, "--out", str(out), "--described"])  # a later run keeps the labels
    assert json.loads((out / "results.json").read_bytes()) == about


def test_two_processes_draw_what_one_does(models, measured, tmp_path, monkeypatch):
    drawn, draw = [], DSDPipeline.__call__

    def counting(pipe, prompts, **settings):
        drawn.append(len(prompts))
        return draw(pipe, prompts, **settings)

    monkeypatch.setattr(DSDPipeline, "__call__", counting)
    command = [models["early"], f"the fix={models['late']}", "--teacher", models["teacher"], *TOY]
    for index, counts in ((1, [2] * 4), (0, [4] * 4)):  # of each way: its share of two batches
        be_process(monkeypatch, index)
        drawn.clear()
        evaluate.main([*command, "--out", str(tmp_path), "--described"])
        assert drawn == counts
        assert (tmp_path / "results.json").exists() == (index == 0)
    assert (tmp_path / "results.json").read_bytes() == (measured / "results.json").read_bytes()


def test_processes_share_the_judges_questions(tmp_path, monkeypatch):
    judge = FakeJudge(said)
    way = comparison.Way(name="copy", draw=validation.by_copying, key="none")
    for index, asked in ((1, 6), (0, 12)):
        place = SimpleNamespace(process_index=index, num_processes=2)
        monkeypatch.setattr(comparison, "PartialState", lambda place=place: place)
        scorer = JudgedScorer(NETWORKS, lambda index=index: Recorded(judge, tmp_path, index))
        benchmark = validation.Benchmark(CASES, scorer, rotations=1)
        comparison._draw_share(SimpleNamespace(batch=1, judge="one"), benchmark, way)
        assert len(judge.requests) == asked
    scorer.score(CASES, [case.reference for case in CASES])
    assert len(judge.requests) == 12


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
    before = {name: (tmp_path / name).read_bytes() for name in ("results.json", "report.html")}
    evaluate.main(command)
    assert before == {name: (tmp_path / name).read_bytes() for name in before} and len(drawn) == 6


def test_rows_are_told_apart():
    assert comparison.label(["runs/a", "b=runs/a"]) == {"runs/a": "runs/a", "b": "runs/a"}
    with pytest.raises(ValueError, match="two rows cannot both be called 'pocket': write LABEL=pocket"):
        comparison.label(["pocket", "pocket"])
    with pytest.raises(ValueError, match="called 'chance'"):
        comparison.label(["chance=pocket"])
    with pytest.raises(ValueError, match="called 'a, full caption'"):  # the row of a that --described adds
        comparison.label(["a=pocket", "a, full caption=runs/b"])


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_images_of_other_weights_are_not_taken_for_these(tmp_path, part):
    pipe = tiny.pipeline()

    def key(quantize: str | None = None) -> str:
        args = SimpleNamespace(out=tmp_path, batch=1, quantize=quantize)
        return comparison._way(args, "a", validation.by_student, pipe, steps=1).key

    before = key()
    assert key() == before != key("fp8-compute") != key("fp8")  # the last two have the same weights
    next(getattr(pipe, part).parameters()).data.add_(1)
    assert key() != before


def test_weights_of_their_own_go_on_the_base(monkeypatch, tmp_path, models):
    asked = []
    monkeypatch.setattr(
        "dsd.model.checkpoint.load_pipeline",
        lambda name, **options: asked.append((name, options["weights"])) or tiny.pipeline(),
    )
    (lora := tmp_path / "lora.safetensors").write_bytes(b"")
    for source in ("pocket", models["early"], str(lora)):
        comparison.open_student(source, base="flux-dev", device="cpu")
    assert asked == [("pocket", None), (models["early"], None), ("flux-dev", str(lora))]


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["nowhere/at/all"], "unknown model 'nowhere/at/all'"),
        (["pocket", "--subjects", "1"], "--subjects must be at least 2, got 1"),
        (["pocket", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["pocket", "--images", "no-such-folder"], "there is no folder no-such-folder"),
        (["pocket", "--judge", "pocket"], "--judge scores photographs, so it needs --images FOLDER"),
        (
            ["pocket", "--task", "edit", "--images", "nowhere", "--judge", "http://127.0.0.1/v1"],
            "the task edit is measured on critters alone",  # before the cost is estimated
        ),
        (["nowhere", "--labels", "labels.json"], "--labels takes one report and no --out"),
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


def test_the_folder_of_the_results_must_be_named():
    with pytest.raises(ValueError, match="no folder given for the results: add --out REPORT"):
        evaluate.main(["pocket"])


def test_a_server_is_asked_only_after_its_cost_is_confirmed(monkeypatch, capsys):
    args = SimpleNamespace(price=[2.5, 10.0], yes=False)
    cost = judged.Estimate(images=2, requests=6, tokens_in=1_000_000, tokens_out=100_000)
    with pytest.raises(ValueError, match="may cost money: add --yes"):  # there is nobody to ask
        comparison.confirm_cost(cost, args, is_remote=True)
    assert "6 questions about 2 images" in (said := capsys.readouterr().err) and "about $3.50" in said
    for answer in ("y\n", "n\n", "\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        if answer == "y\n":
            comparison.confirm_cost(cost, args, is_remote=True)
        else:
            with pytest.raises(ValueError, match="nothing was asked: the cost was not confirmed"):
                comparison.confirm_cost(cost, args, is_remote=True)
    comparison.confirm_cost(cost, args, is_remote=False)  # this machine sends no bill
    comparison.confirm_cost(cost, SimpleNamespace(price=None, yes=True), is_remote=True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
