"""Shards of several processes become one file, every row once and in order."""

import os
from pathlib import Path

import pytest

from dsd.files import jsonl
from tests.files.rows import ROWS, filled


def sharded(folder: Path) -> Path:
    """Rows 0 to 9 merged earlier, the others in two shards; row 9 is in two files, one shard's end is cut."""
    path = filled(folder / "grids.jsonl", ROWS[:10])
    filled(jsonl.shard(path, 0), ROWS[10::2] + ROWS[9:10])
    filled(jsonl.shard(path, 1), ROWS[11::2])
    with jsonl.shard(path, 1).open("ab") as file:
        file.write(b'{"id": "000099", "te')
    return path


def test_merging_gives_every_row_once_in_order_and_removes_the_shards(tmp_path):
    path = sharded(tmp_path)
    assert [file.name for file in jsonl.shards(path)] == ["grids.0.jsonl", "grids.1.jsonl"]
    assert jsonl.read_all(path) == ROWS
    jsonl.merge(path)
    assert jsonl.read(path) == ROWS and jsonl.shards(path) == []
    merged = path.read_bytes()
    jsonl.merge(path)
    assert path.read_bytes() == merged


def test_a_merge_that_was_stopped_is_finished_by_the_next(tmp_path, monkeypatch):
    path = sharded(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            jsonl.merge(path)
    jsonl.merge(path)
    assert jsonl.read(path) == ROWS and jsonl.shards(path) == []


def test_the_shards_of_another_file_are_left_alone(tmp_path):
    path = sharded(tmp_path)
    other = filled(tmp_path / "pairs.0.jsonl", ROWS[:1])
    jsonl.merge(path)
    assert other.exists()


@pytest.mark.parametrize("left", ["shard", "merged"])
def test_an_item_with_some_of_its_rows_is_finished_without_doubles(tmp_path, left):
    def do(block):
        return [{"id": f"{item['id']}-{part}", "item": item["id"]} for item in block for part in range(3)]

    items, path = [{"id": name} for name in "abcd"], tmp_path / "pairs.jsonl"
    whole = do(items)
    with jsonl.writing(path if left == "merged" else jsonl.shard(path, 0)) as append:
        append(whole[:4])  # `a` whole, `b` cut after its first row, by a kill or a damaged disk
    blocks = jsonl.split_blocks(["a", "b", "c", "d"], batch=2)
    columns = {"item_of": lambda row: row["item"], "rows_of": lambda item: 3}
    with jsonl.resuming(path, blocks, **columns) as (todo, append):
        assert todo == blocks
        for block in todo:
            append(do([{"id": name} for name in block]))
    assert jsonl.read_all(path) == whole and len(jsonl.read(jsonl.shard(path, 0))) >= 8


def test_shards_are_removed_only_when_their_rows_are_on_the_disk(tmp_path, monkeypatch):
    path, events = sharded(tmp_path), []
    fsync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda number: events.append("flushed") or fsync(number))
    monkeypatch.setattr(
        Path, "unlink", lambda file, **options: events.append(file.name) or unlink(file, **options)
    )
    jsonl.merge(path)
    assert events[:2] == ["flushed", "flushed"] and events[-2:] == ["grids.0.jsonl", "grids.1.jsonl"]
