"""`python -m train.train`: from parquet files to a checkpoint with card, curves and samples."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from dsd.files import whole
from dsd.files.hub import LoadError
from dsd.files.parquet import TASK
from dsd.model.checkpoint import load_pipeline
from dsd.training import estimate as plan
from dsd.training.curves import Curves
from dsd.training.options import TrainingError
from tests import student
from tests.parquet_files import published
from train import train as command

pytest.importorskip("pyarrow")


def dataset(
    folder: Path, count: int = 6, drop: tuple[str, ...] = (), task: str | None = None, **facts: str
) -> Path:
    """Made-up pairs as a parquet file."""
    import pyarrow
    import pyarrow.parquet

    from dsd.files.contact_sheet import png

    folder.mkdir(parents=True)
    rows = [{k: v for k, v in student.pair(number).items() if k not in drop} for number in range(count)]
    for row in rows:
        row |= {k: {"bytes": png(v), "path": None} for k, v in row.items() if isinstance(v, Image.Image)}
        row |= {"generator": "tiny", "generator_license": "Apache-2.0", **facts}
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({TASK: task}) if task else table
    pyarrow.parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


FLAGS = (
    "--steps 4 --batch 2 --accumulate 1 --rank 2 --log-every 2 --save-every 2 --warmup 1 --lr 0.01".split()
)


WATCHED = "--validate critters --validate-subjects 2 --validate-prompts 1 --validate-every 2".split()


def call(teacher: Path, data: Path | str, out: Path, *flags: str) -> int:
    return command.main([str(data), "--out", str(out), "--model", str(teacher), *FLAGS, *flags])


def test_a_second_training_in_one_folder_is_refused(teacher, tmp_path):
    data = dataset(tmp_path / "data")
    with whole.locked(tmp_path / "out" / "run"):
        with pytest.raises(ValueError, match="another command is writing .*run; let it finish or stop it"):
            call(teacher, data, tmp_path / "out")
    assert not (tmp_path / "out" / "run").exists()


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    (folder / "run").mkdir()
    dataset(folder / "run" / "dataset")
    (folder / "run" / "dataset" / "README.md").write_text("## How many\n\nthe judge kept 40 %\n")
    assert call(teacher, folder / "run", folder / "out", *WATCHED) == 0
    return folder


def test_a_run_becomes_a_checkpoint_that_draws(trained):
    pipe = load_pipeline(trained / "out", device="cpu")
    assert student.tiny.draw(pipe).isfinite().all()


def test_the_card_tells_data_and_keep_rates(trained):
    text = (trained / "out" / "README.md").read_text()
    assert "| generator | tiny |" in text and "the judge kept 40 %" in text
    assert "4 steps of 2 pairs, 8 samples of 6 rows" in text and "(curves.png)" in text


def lines(out: Path, name: str) -> list[dict]:
    rows = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    return [row for row in rows if name in row]


def test_curves_are_rows_and_an_image_and_on_tensorboard(trained):
    rows = lines(trained / "out", "loss")
    assert [row["step"] for row in rows] == [2, 4] and all(row["loss"] > 0 for row in rows)
    assert Image.open(trained / "out" / "curves.png").width > 100
    pytest.importorskip("tensorboard")
    assert list((trained / "out" / "run" / "tensorboard").glob("events*"))


def test_held_out_subjects_are_drawn_and_scored_every_k_steps(trained):
    out = trained / "out"
    scored = lines(out, "identity")
    assert [row["step"] for row in scored] == [2, 4]
    assert all({"following", "product", "copy", "copy_low", "identity_ceiling"} <= set(row) for row in scored)
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["000002.png", "000004.png"]
    assert (out / "samples.png").read_bytes() == (out / "samples" / "000004.png").read_bytes()
    text = (out / "README.md").read_text()
    assert f"| identity | {scored[-1]['identity']:.4g} |" in text and "(samples.png)" in text
    assert "- identity (CP): " in text and "- copy: " in text and "less is better" in text


def report(out: Path, model: str = "tests") -> command.Report:
    args = command._parser().parse_args(["data", "--out", str(out), "--model", model, "--validate", "none"])
    return command.Report(args, command.options_of(args))


def test_the_alarm_is_said_and_stands_on_the_image(tmp_path, capsys):
    watching, heights = report(tmp_path), []
    for step in range(10):
        copy = {"copy": 0.05 * step, "copy_low": 0.0, "following": 0.9 - 0.05 * step, "following_low": 0.0}
        watching.step(1 + step, copy)
        heights.append(Image.open(tmp_path / "curves.png").height)
    assert "alarm: over the last 10 evaluations copying rose" in capsys.readouterr().out
    assert heights[0] < heights[-1]  # it stands below


def test_pockets_curves_are_drawn_beside_those_that_ship(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "ASSETS", tmp_path / "assets")
    own = tmp_path / "own"
    Curves(own / "curves.jsonl").add(1, {"loss": 0.5})
    alone = _image(report(own, "pocket"))
    Curves(tmp_path / "assets" / "curves.jsonl").add(1, {"loss": 0.9})
    Curves(tmp_path / "assets" / "curves.jsonl").add(2, {"loss": 0.4})
    assert _image(report(own, "tests")) == alone != _image(report(own, "pocket"))


def _image(watching: command.Report) -> bytes:
    watching.plot()
    return (watching.args.out / "curves.png").read_bytes()


def test_the_same_command_with_more_steps_goes_on(trained, teacher):
    assert call(teacher, trained / "run", trained / "out", "--steps", "6") == 0
    assert [row["step"] for row in lines(trained / "out", "loss")] == [2, 4, 6]


def test_the_plan_is_printed_and_nothing_is_written(trained, teacher, tmp_path, capsys):
    assert call(teacher, trained / "run", tmp_path / "out", "--plan") == 0
    said = capsys.readouterr().out
    assert "2 pairs" in said and "memory" in said and "in all   4 steps" in said
    assert not (tmp_path / "out").exists()


def test_a_plan_for_a_dataset_on_the_hub_downloads_nothing_and_counts_all_rows(
    teacher, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    data = dataset(tmp_path / "datasets" / "me" / "pairs", count=6)
    (file,) = data.iterdir()
    file.rename(data / "train-0.parquet")
    shutil.copy(data / "train-0.parquet", data / "train-1.parquet")
    filesystem = DirFileSystem(str(tmp_path), LocalFileSystem(skip_instance_cache=True))
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: filesystem)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a download"))
    made, make = [], plan.make
    monkeypatch.setattr(
        plan, "make", lambda *args, rows, **given: made.append(rows) or make(*args, rows=rows, **given)
    )
    assert call(teacher, "me/pairs", tmp_path / "out", "--plan") == 0
    assert made == [12] and not (tmp_path / "out").exists()


def test_without_a_network_a_plan_takes_the_dataset_that_is_there(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    data = dataset(tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(data))
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: pytest.fail("the network was asked"))
    assert call(teacher, "me/pairs", tmp_path / "out", "--plan") == 0


@pytest.mark.parametrize("flags", [(), ("--plan",)], ids=["training", "plan"])
def test_what_the_base_cannot_be_is_said_before_the_dataset_is_read(teacher, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(command.pairs, "read_pairs", lambda *_, **__: pytest.fail("it was read"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match="needs the package bitsandbytes"):
        call(teacher, "me/pairs", tmp_path / "out", "--quantize", "4bit", *flags)


def test_one_student_is_trained_on_several_datasets(teacher, tmp_path):
    strict = {"generator": "flux-dev", "generator_license": "FLUX.1 [dev] Non-Commercial License"}
    names = [
        dataset(tmp_path / "identity", count=2),
        dataset(tmp_path / "lights", 2, task="relight", **strict),
    ]
    (names[1] / "README.md").write_text("## How many\n\nthe judge kept 40 %\n")
    out = tmp_path / "out"
    flags = ["--out", str(out), "--model", str(teacher), *FLAGS, "--steps", "1"]
    assert command.main([*map(str, names), *flags]) == 0
    card = (out / "README.md").read_text()
    assert "identity, " in card and "| rows | 4 |" in card and "kept 40 %" in card
    assert (
        "| generator | tiny, flux-dev |" in card
        and f"| generator's license | {strict['generator_license']} |" in card
    )
    assert "| tasks | identity, relight |" in card
    assert load_pipeline(out, device="cpu").trained_tasks == ("identity", "relight")
    with pytest.raises(ValueError, match="--max-rows takes the first rows of one dataset, got 2"):
        command.main([*map(str, names), *flags, "--max-rows", "2"])


def test_columns_may_be_called_otherwise(teacher, tmp_path):
    data = dataset(tmp_path / "data", drop=("instruction",))
    with pytest.raises(TrainingError, match="the dataset has no instructions"):
        call(teacher, data, tmp_path / "out")
    with pytest.raises(ValueError, match="OURS=THEIRS"):
        call(teacher, data, tmp_path / "out", "--columns", "caption")
    with pytest.raises(ValueError, match="do not fit: words"):
        call(teacher, data, tmp_path / "out", "--columns", "caption=words")


def test_the_published_layout_trains_over_the_network(teacher, tmp_path, monkeypatch):
    published(tmp_path / "datasets" / "me" / "pairs" / "data" / "train-00000-of-00001.parquet")
    filesystem = DirFileSystem(str(tmp_path), LocalFileSystem(skip_instance_cache=True))
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: filesystem)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a download"))
    flags = ("--columns", "target=image", "--streaming", "--instruction-prob", "0")
    assert call(teacher, "me/pairs", tmp_path / "out", *flags) == 0
    assert "| rows | 5 |" in (tmp_path / "out" / "README.md").read_text()
    load_pipeline(tmp_path / "out", device="cpu")


def test_streaming_what_lies_here_is_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match=f"--streaming is for datasets on the hub, but {tmp_path} is local"):
        call(teacher, tmp_path, tmp_path / "out", "--streaming")


def test_an_empty_dataset_and_publicity_without_an_upload_are_refused(teacher, tmp_path, capsys):
    with pytest.raises(TrainingError, match="the dataset has no rows"):
        call(teacher, empty(tmp_path), tmp_path / "out")
    for flags, why in (
        (["--public"], "without --push-to-hub"),
        (["--validate-every", "9"], "without --validate"),
        (["--validate-subjects", "9", "--validate", "photos"], "beside --validate photos"),
    ):
        with pytest.raises(SystemExit):
            call(teacher, tmp_path, tmp_path / "out", *flags)
        assert f"{flags[0]} would have no effect {why}" in capsys.readouterr().err


def test_an_upload_that_cannot_be_is_refused_before_any_work(teacher, tmp_path, monkeypatch):
    with pytest.raises(LoadError, match="called owner/name, got 'model'"):
        call(teacher, tmp_path, tmp_path / "out", "--push-to-hub", "model")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(LoadError, match="uploading me/model needs a token: set the variable HF_TOKEN"):
        call(teacher, tmp_path, tmp_path / "out", "--push-to-hub", "me/model")
    assert not (tmp_path / "out").exists()


def empty(folder: Path) -> Path:
    import pyarrow.parquet

    file = dataset(folder / "empty") / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file).slice(0, 0), file)
    return file.parent
