"""A run becomes folders of images that ai-toolkit, SimpleTuner and `datasets` read as they document it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from dsd.curation.folders import FORMATS, crop, write_folder
from dsd.curation.selection import FLUX_DEV, Choice, read_run
from dsd.files.jsonl import RunError
from dsd.generate import provenance
from tests import wheel
from train import dataset as command

CONFIGS = {"ai-toolkit": "ai-toolkit.json", "simpletuner": "multidatabackend.json"}


@pytest.fixture
def run(tmp_path) -> Path:
    return wheel.make_run(tmp_path / "run")


def export(run: Path, format: str, *flags: str) -> Path:
    assert command.main([str(run), "--format", format, *flags]) == 0
    return run / f"dataset-{format}"


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names(folder: Path, end: str) -> list[str]:
    return sorted(path.stem for path in folder.glob(f"*.{end}"))


@pytest.mark.parametrize("format", FORMATS)
def test_every_target_has_a_control_image_of_its_name_to_the_pixel(run, format):
    out = export(run, format)
    ids = names(out / "images", "png")
    assert len(ids) == 12 and ids == names(out / "control", "png")
    assert "000001-0-1" in ids and "000001-1-0" in ids  # both orders
    for name in ids:
        grid, conditioning, target = name.split("-")
        for folder, panel in (("images", target), ("control", conditioning)):
            written = Image.open(out / folder / f"{name}.png")
            assert written.tobytes() == wheel.panel(run, grid, int(panel)).convert("RGB").tobytes()
            assert written.info["Source"] == provenance.MARK and written.mode == "RGB"
            assert not {side % 16 for side in written.size} - {0}


@pytest.mark.parametrize("format", CONFIGS)
def test_captions_stand_beside_their_targets(run, format):
    out = export(run, format)
    assert names(out / "images", "txt") == names(out / "images", "png") and not names(out / "control", "txt")
    assert (out / "images" / "000001-3-1.txt").read_text() == "caption of 1"


def test_ai_toolkit_gets_a_job_with_the_folders_and_their_control_path(run):
    job = json.loads((export(run, "ai-toolkit") / "ai-toolkit.json").read_text())
    (process,) = job["config"]["process"]
    (dataset,) = process["datasets"]
    assert job["job"] == "extension" and process["model"]["arch"] == "flux_kontext"
    for key, folder in (("folder_path", "images"), ("control_path", "control")):
        assert dataset[key] == folder and (run / "dataset-ai-toolkit" / folder).is_dir()
    assert dataset["caption_ext"] == "txt" and dataset["resolution"] == [wheel.SIZE]


def test_simpletuner_gets_targets_paired_to_a_conditioning_dataset_and_a_text_cache(run):
    backends = json.loads((export(run, "simpletuner") / "multidatabackend.json").read_text())
    kinds = {backend["dataset_type"]: backend for backend in backends}
    assert sorted(kinds) == ["conditioning", "image", "text_embeds"]
    targets, control = kinds["image"], kinds["conditioning"]
    assert targets["conditioning_data"] == [control["id"]] and kinds["text_embeds"]["default"] is True
    assert targets["caption_strategy"] == "textfile" and control["conditioning_type"] == "reference_loose"
    assert targets["instance_data_dir"] == "images" and control["instance_data_dir"] == "control"
    assert targets["cache_dir_vae"] != control["cache_dir_vae"]
    assert all(backend["type"] == "local" and backend["id"] for backend in backends)


def test_datasets_reads_the_imagefolder_with_both_images_and_all_columns(run, tmp_path):
    out = export(run, "imagefolder", "--trigger", "zwx")
    loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 12
    for row in loaded:
        grid, conditioning, target = row["id"].split("-")
        for name, panel in (("conditioning", conditioning), ("image", target)):
            assert row[name].convert("RGB").tobytes() == wheel.panel(run, grid, int(panel)).tobytes()
        assert row["caption"] == f"zwx, caption of {target}" and row["generator_license"] == "Apache-2.0"


def test_a_trigger_begins_the_texts_that_lack_it(run):
    choice = Choice(trigger="a toy")
    assert choice.mark("on a hill") == "a toy, on a hill" and choice.mark("") == "a toy, "
    assert (
        choice.mark("see a toy here") == "see a toy here" and choice.mark("a toyshop") == "a toy, a toyshop"
    )
    assert Choice().mark("hat") == "hat"
    with pytest.raises(ValueError, match="single spaces between them, got 'a '"):
        Choice(trigger="a ")
    out = export(run, "ai-toolkit", "--trigger", "a toy")
    assert (out / "images" / "000001-3-1.txt").read_text() == "a toy, caption of 1"
    assert "--format ai-toolkit --trigger 'a toy'" in (out / "README.md").read_text()


def test_sides_are_cropped_in_the_middle_to_multiples_of_16():
    image = Image.new("RGB", (50, 35))
    image.paste("red", (1, 1, 49, 33))
    assert crop(image).size == (48, 32) and crop(image).getcolors() == [(48 * 32, (255, 0, 0))]
    with pytest.raises(RunError, match="at least 16 pixels wide and high, got 40 x 12"):
        crop(Image.new("RGB", (40, 12)))


def test_a_card_with_license_and_samples_is_beside(tmp_path):
    run = wheel.make_run(tmp_path, grids=1, generator="flux-dev")
    out = export(run, "simpletuner")
    card = DatasetCard.load(out / "README.md")
    assert card.data.license_name.endswith("non-commercial-license") and FLUX_DEV in card.text
    assert "multidatabackend.json" in card.text and "train-*.parquet" not in card.content
    assert (out / "samples.png").exists()


@pytest.mark.parametrize("format", ("parquet", *FORMATS))
def test_no_file_names_a_folder_of_this_machine(run, format):
    assert command.main([str(run), "--format", format, "--out", str(run / "out")]) == 0
    for path in filter(Path.is_file, (run / "out").rglob("*")):
        assert str(run.parent).encode() not in path.read_bytes(), path


KILLED = """
import os, signal, sys
from pathlib import Path
from dsd.curation.folders import write_folder
from dsd.curation.selection import read_run
def die(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
run = Path(sys.argv[1])
write_folder(read_run(run), run / "dataset-ai-toolkit", format="ai-toolkit", on_rows=die)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_and_run_again_it_leaves_the_same_files_and_no_config_before(run):
    child = subprocess.run([sys.executable, "-c", KILLED, str(run)], cwd=Path(__file__).parents[2])
    out = run / "dataset-ai-toolkit"
    assert child.returncode == -signal.SIGKILL and not (out / "ai-toolkit.json").exists()
    first = out / "images" / "000000-0-1.png"
    half = out / "images" / "000000-1-0.png"
    time = first.stat().st_mtime_ns
    half.write_bytes(half.read_bytes()[:-20])  # as a lost power supply leaves it
    export(run, "ai-toolkit")
    assert first.stat().st_mtime_ns == time and len(names(out / "images", "txt")) == 12
    after = contents(out)
    os.rename(out, run / "before")
    assert contents(export(run, "ai-toolkit")) == after


def test_another_choice_replaces_its_own_files_alone(run):
    out = export(run, "ai-toolkit")
    (out / "images" / "mine.png").write_bytes(b"mine")
    export(run, "ai-toolkit", "--max-rows", "2")
    assert len(names(out / "images", "txt")) == 2
    assert (out / "images" / "mine.png").read_bytes() == b"mine"


def test_folders_of_somebody_else_are_not_touched(run):
    (run / "other" / "images").mkdir(parents=True)
    with pytest.raises(RunError, match="images was not written by this format: choose another --out"):
        write_folder(read_run(run), run / "other", format="imagefolder")
    assert command.main([str(run)]) == 0
    with pytest.raises(RunError, match="parquet was not written by this format"):
        write_folder(read_run(run), run / "dataset", format="imagefolder")


STRANGE = ["../mine", "images/../../mine", "/mine", "images/mine.jsonl", "README.md", "images/a/b.png"]
FORGED = [
    b"[]",
    b"[" * 100_000,
    b"\xff",
    b"{}",
    b'{"digest": 1, "files": []}',
    b'{"digest": "", "files": [1]}',
]


def test_a_strangers_table_deletes_nothing(run):
    out = run / "dataset-imagefolder"
    mine = [run / "mine", out / "images" / "a.png", out / "images" / "mine.jsonl", out / "README.md"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    lists = [json.dumps({"digest": "", "files": ["images/a.png", name]}).encode() for name in STRANGE]
    for table in FORGED + lists:
        (out / ".files.json").write_bytes(table)
        with pytest.raises(RunError, match="files.json was not written by this format: choose another --out"):
            write_folder(read_run(run), out, format="imagefolder")
        assert {path.read_text() for path in mine} == {"mine"}


@pytest.mark.parametrize("linked", ["images", "control"])
def test_a_link_to_a_folder_elsewhere_is_not_followed(run, linked):
    elsewhere, out = run / "elsewhere", run / "dataset-imagefolder"
    for folder in (elsewhere, out):
        folder.mkdir()
    (elsewhere / "a.png").write_text("mine")
    (out / linked).symlink_to(elsewhere)
    (out / ".files.json").write_text(json.dumps({"digest": "", "files": [f"{linked}/a.png"]}))
    with pytest.raises(RunError, match=f"{linked} was not written by this format"):
        write_folder(read_run(run), out, format="imagefolder")
    assert [path.name for path in elsewhere.iterdir()] == ["a.png"]


def test_a_refused_folder_keeps_all_that_is_in_it(run, tmp_path):
    out = tmp_path / "holiday"
    (out / "images").mkdir(parents=True)
    mine = [out / ".film.mp4.part", out / ".film.mp4.1.part", out / "images" / ".a.png.1.part"]
    for path in mine:
        path.touch()
    with pytest.raises(RunError, match="images was not written by this format"):
        command.main([str(run), "--format", "imagefolder", "--out", str(out)])
    assert all(path.exists() for path in mine)


@pytest.mark.parametrize("how", ["zeros", "a flipped bit", "cut"])
def test_a_damaged_image_is_written_again(run, how):
    out = export(run, "imagefolder")
    before, (first, *_) = contents(out), sorted((out / "control").glob("*.png"))
    content = bytearray(first.read_bytes())
    if how == "zeros":
        content[60:-12] = bytes(len(content) - 72)  # the end of the PNG is there
    elif how == "a flipped bit":
        content[len(content) // 2] ^= 1
    else:
        del content[-20:]
    first.write_bytes(content)
    assert contents(export(run, "imagefolder")) == before


def test_unfinished_files_of_others_stay(run):
    elsewhere, out = run / "elsewhere" / ".a.png.1.part", export(run, "imagefolder")
    elsewhere.parent.mkdir()
    elsewhere.touch()
    (out / "linked").symlink_to(elsewhere.parent)
    (own := out / "control" / ".a.png.1.part").touch()
    (other := out / "control" / ".film.mp4.part").touch()
    write_folder(read_run(run), out, format="imagefolder")
    assert elsewhere.exists() and other.exists() and not own.exists()


def test_an_id_that_leads_elsewhere_is_refused(tmp_path):
    run = wheel.make_run(tmp_path / "run", grids=1)
    for file in (run / "pairs.jsonl", run / "grids" / "grids.jsonl", run / "captions.jsonl"):
        file.write_text(file.read_text().replace('"000000', '"../000000'))
    with pytest.raises(RunError, match="cannot be a file name"):
        write_folder(read_run(run), run / "out", Choice(words="grid"), format="imagefolder")


def test_a_flag_without_effect_is_refused(run):
    with pytest.raises(ValueError, match="--shard-rows is for --format parquet, got --format imagefolder"):
        command.main([str(run), "--format", "imagefolder", "--shard-rows", "5"])
