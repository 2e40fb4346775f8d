"""A run becomes a dataset that any reader opens: lossless, the same bytes every time."""

import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from dsd.curation.dataset import write_dataset
from dsd.curation.selection import Choice, read_run
from dsd.files import parquet
from dsd.files.jsonl import RunError
from dsd.files.pairs import COLUMNS, join_pairs, read_pairs
from dsd.files.parquet import PairsError
from dsd.generate import provenance
from tests import wheel
from train import dataset as command

GRID = "000001"


@pytest.fixture
def run(tmp_path):
    return wheel.make_run(tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


def test_datasets_opens_it_with_two_columns_of_images(run, tmp_path):
    assert command.main([str(run), "--shard-rows", "5"]) == 0
    loaded = datasets.load_dataset(str(run / "dataset"), split="train", cache_dir=str(tmp_path / "cache"))
    kinds = {
        name: "image" if isinstance(f, datasets.Image) else f.dtype for name, f in loaded.features.items()
    }
    assert kinds == COLUMNS and len(loaded) == 12
    assert {one["target"].info["Source"] for one in loaded} == {provenance.MARK}
    mine = list(read_pairs(run))
    assert loaded["id"] == [row["id"] for row in mine]
    assert all(
        one["target"].tobytes() == row["target"].tobytes() for one, row in zip(loaded, mine, strict=True)
    )


def test_without_its_card_datasets_opens_it_too(run, tmp_path):
    write_dataset(run, run / "dataset")
    pattern = str(run / "dataset" / "*.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=pattern, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert (
        isinstance(loaded[0]["conditioning"], Image.Image) and loaded[0]["target"].size == (wheel.SIZE,) * 2
    )


def test_the_files_of_a_task_beside_identity_name_it(run, tmp_path):
    write_dataset(run, run / "dataset")
    lights = wheel.make_run(tmp_path / "lights", recipe="critters-relight")
    write_dataset(lights, lights / "dataset")
    same, relit = read_pairs(run), read_pairs(lights)
    assert (same.read_tasks(), relit.read_tasks()) == (("identity",), ("relight",))
    assert join_pairs([relit, same]).read_tasks() == ("relight", "identity")
    for folder, names in ((run, False), (lights, True)):
        (file,) = (folder / "dataset").glob("*.parquet")
        assert (parquet.TASK in pyarrow.parquet.read_schema(file).metadata) == names


KILLED = """
import os, signal, sys
from pathlib import Path
from dsd.curation.dataset import write_dataset
def die(done, total):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
write_dataset(Path(sys.argv[1]), Path(sys.argv[1], "dataset"), shard_rows=5, on_rows=die)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_in_a_shard_and_run_again_it_leaves_the_same_bytes(run):
    whole = write_dataset(run, run / "whole", shard_rows=5).folder
    child = subprocess.run([sys.executable, "-c", KILLED, str(run), "8"], cwd=Path(__file__).parents[2])
    folder = run / "dataset"
    assert child.returncode == -signal.SIGKILL and list(folder.glob(".*.part"))
    with pytest.raises(PairsError, match="not complete: 1 of 3 files"):
        read_pairs(run)
    assert write_dataset(run, folder, shard_rows=5).new == 2
    assert files(folder) == files(whole) and not list(folder.glob(".*.part"))


def test_a_dataset_that_has_not_changed_is_left_alone(run):
    assert command.main([str(run), "--shard-rows", "5"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (run / "dataset").iterdir()}
    assert command.main([str(run), "--shard-rows", "5"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (run / "dataset").iterdir()} == before


@pytest.mark.parametrize("change_of", [{"max_rows": 10}, {"shuffle": True}, {"words": "grid"}])
def test_another_choice_replaces_the_dataset_whole(run, change_of):
    write_dataset(run, run / "dataset", shard_rows=5)
    choice = Choice(**change_of)
    again = write_dataset(run, run / "dataset", choice, shard_rows=5)
    assert again.new == len(again.shards)
    assert files(run / "dataset") == files(write_dataset(run, run / "fresh", choice, shard_rows=5).folder)


def test_a_damaged_shard_is_written_again(run):
    first, second, _ = write_dataset(run, run / "dataset", shard_rows=5).shards
    whole = second.read_bytes()
    second.write_bytes(whole[:-20])
    assert write_dataset(run, run / "dataset", shard_rows=5).new == 1
    assert second.read_bytes() == whole


@pytest.mark.parametrize("name", ["instruction", "similarity", "license"])
def test_a_column_whose_name_is_damaged_is_not_taken_for_one_that_was_never_there(run, name):
    (shard,) = write_dataset(run, run / "dataset").shards
    content = shard.read_bytes()
    place = content.index(name.encode(), content.rindex(b"PAR1") - _footer_bytes(content))
    shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(PairsError, match="train-00000-of-00001.parquet is damaged .*make or download it"):
        read_pairs(run)
    assert write_dataset(run, run / "dataset").new == 1 and shard.read_bytes() == content


def _footer_bytes(content: bytes) -> int:
    return int.from_bytes(content[-8:-4], "little") + 4


def test_a_program_that_changes_the_columns_drops_the_checksum(run):
    (shard,) = write_dataset(run, run / "dataset").shards
    table = pyarrow.parquet.read_table(shard).drop_columns(["similarity"])
    pyarrow.parquet.write_table(table, shard)
    with pytest.raises(PairsError, match="a program that changes them on purpose must drop .* dsd.layout"):
        read_pairs(run)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"dsd.layout"}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), shard)
    assert "similarity" not in read_pairs(run)[0]


def test_files_of_somebody_else_are_not_touched(run):
    other = run / "dataset" / "train-00000-of-00001.parquet"
    other.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), other)
    before = other.read_bytes()
    with pytest.raises(RunError, match="train-00000-of-00001.parquet was not written by this command"):
        write_dataset(run, run / "dataset")
    assert other.read_bytes() == before


def test_a_damaged_grid_is_named(run):
    file = run / "grids" / f"{GRID}.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(RunError, match=f"{GRID}.png"):
        write_dataset(run, run / "dataset")
    assert not list((run / "dataset").glob("*.parquet"))


def test_a_run_that_lacks_a_stage_says_which(run):
    with pytest.raises(RunError, match="grids.jsonl: python -m train.grids"):
        read_run(run / "nowhere")
    (run / "pairs.jsonl").unlink()
    with pytest.raises(RunError, match="pairs.jsonl: python -m train.curate"):
        read_run(run)


def test_a_run_of_which_nothing_was_kept_says_why(run):
    wheel.change(run / "pairs.jsonl", lambda row: row | {"verdict": "drop", "reason": "unreadable"})
    with pytest.raises(RunError, match="no pair of .* is kept.* .18 unreadable"):
        write_dataset(run, run / "dataset")


@pytest.mark.parametrize(
    ("file", "edit", "words"),
    [
        ("pairs.jsonl", lambda row: row | {"similarity": "much"}, "wrong type"),
        ("pairs.jsonl", lambda row: row | {"grid": "777"}, "grid that grids.jsonl does not have"),
        ("grids/grids.jsonl", lambda row: {k: v for k, v in row.items() if k != "seed"}, "lacks .*seed"),
    ],
)
def test_rows_that_do_not_fit_are_refused(run, file, edit, words):
    wheel.change(run / file, edit)
    with pytest.raises(RunError, match=words):
        write_dataset(run, run / "dataset")


def test_progress_reaches_the_end_however_much_was_there(run):
    for _ in range(2):
        heard = []
        write_dataset(
            run, run / "dataset", shard_rows=5, on_rows=lambda *told, heard=heard: heard.append(told)
        )
        assert heard[-1] == (12, 12) and heard == sorted(heard)
