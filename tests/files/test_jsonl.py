"""Rows on disk: whole or not at all, one writer at a time, and plain words when the disk refuses."""

import errno
import io
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from dsd.files import jsonl

ROWS = [{"id": f"{i:06}", "text": "Grüße, 世界 " * 40} for i in range(60)]


def filled(path: Path, content: list[jsonl.Row] = ROWS) -> Path:
    with jsonl.writing(path) as append:
        append(content)
    return path


def append(path: Path, *content: jsonl.Row) -> None:
    with jsonl.writing(path) as write:
        write(list(content))


def test_rows_come_back_as_they_were_written(tmp_path):
    path = filled(tmp_path / "new" / "folder" / "grids.jsonl")
    assert jsonl.read(path) == ROWS
    assert jsonl.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("cut", [1, 2, 17, 500, 2000])
def test_a_cut_last_line_is_not_there_and_is_written_anew(tmp_path, cut):
    whole = filled(tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    path.write_bytes(whole[:-cut])
    left = jsonl.read(path)
    assert left == ROWS[: len(left)] and len(left) < len(ROWS)
    append(path, *ROWS[len(left) :])
    assert path.read_bytes() == whole


def test_a_cut_line_longer_than_any_buffer_is_dropped(tmp_path):
    path = filled(tmp_path / "grids.jsonl", ROWS[:1])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "' + b"x" * 200_000)
    append(path, ROWS[1])
    assert jsonl.read(path) == ROWS[:2]
    path.write_bytes(b'{"id": "' + b"x" * 200_000)  # no whole row at all
    append(path, ROWS[0])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b'{"id": "0000', b"\x00\x00\x00", b"\xff\xfe", b""])
def test_a_corrupt_row_in_the_middle_is_named_and_nothing_is_dropped(tmp_path, damage):
    path = filled(tmp_path / "grids.jsonl")
    lines = path.read_bytes().split(b"\n")
    lines[4] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(jsonl.RunError, match=r"grids.jsonl line 5 is not a row.*delete that line"):
        jsonl.read(path)
    assert path.read_bytes() == b"\n".join(lines)


class FullDisk(io.FileIO):
    """A file on a disk with room for `capacity` bytes of it: what fits is written, then the disk is full."""

    capacity = 0

    def write(self, content) -> int:
        room = self.capacity - os.fstat(self.fileno()).st_size
        if len(content) and room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(memoryview(content)[:room])


@pytest.mark.parametrize("room", [0, 5, 9_000, 20_000, 39_000])
def test_a_full_disk_keeps_the_rows_of_before_and_no_half_row(tmp_path, monkeypatch, room):
    path = filled(tmp_path / "grids.jsonl")
    before = path.read_bytes()
    assert room < len(before)  # too small, by little or much: what is left over may stay in a buffer
    with monkeypatch.context() as full:
        full.setattr(FullDisk, "capacity", len(before) + room)
        full.setattr(
            Path,
            "open",
            lambda path, mode, buffering=-1: FullDisk(path, mode) if buffering == 0 else open(path, mode),
        )
        with pytest.raises(jsonl.RunError, match=r"cannot write .*grids.jsonl: No space left"):
            append(path, *ROWS)
    assert path.read_bytes() == before
    append(path, *ROWS)
    assert jsonl.read(path) == ROWS + ROWS


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_said_plainly(tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)  # chmod would not stop an administrator
    for write in (lambda path: append(path, ROWS[0]), lambda path: jsonl.write_atomic(path, b"")):
        with pytest.raises(jsonl.RunError, match=f"cannot write .*: {os.strerror(number)}.*fix this"):
            write(tmp_path / "run" / "grids.jsonl")


def test_a_file_where_the_folder_should_be_is_said_plainly(tmp_path):
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(jsonl.RunError, match="cannot write"):
        append(tmp_path / "run" / "grids.jsonl", ROWS[0])


def hold(path: Path, ready) -> None:
    with jsonl.writing(path) as write:
        write(ROWS[:1])
        ready.set()
        signal.pause()


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_a_second_writer_is_refused_until_the_first_is_gone_even_by_being_killed(tmp_path):
    path, fork = tmp_path / "grids.jsonl", multiprocessing.get_context("fork")
    ready = fork.Event()
    other = fork.Process(target=hold, args=(path, ready))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(jsonl.RunError, match=r"another command is writing .*grids.jsonl"):
            append(path, ROWS[1])
    finally:
        other.kill()
        other.join()
    append(path, ROWS[1])
    assert jsonl.read(path) == ROWS[:2]


def test_two_files_of_one_run_can_be_written_at_once(tmp_path):
    with jsonl.writing(tmp_path / "a.jsonl") as one, jsonl.writing(tmp_path / "b.jsonl") as other:
        one(ROWS[:1])
        other(ROWS[1:2])
    assert jsonl.read(tmp_path / "a.jsonl") + jsonl.read(tmp_path / "b.jsonl") == ROWS[:2]


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


def test_writing_a_whole_file_leaves_the_old_one_until_the_new_one_is_there(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    jsonl.write_atomic(path, b"old")

    def half(part: Path, content: bytes) -> None:
        part.open("wb").write(content[:2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", half)
        with pytest.raises(jsonl.RunError, match=r"cannot write .*grid.png: No space left"):
            jsonl.write_atomic(path, b"newer")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]
    jsonl.write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_an_item_that_a_kill_left_with_some_of_its_rows_is_finished_without_doubles(tmp_path):
    def do(block):
        return [{"id": f"{item['id']}-{part}", "item": item["id"]} for item in block for part in range(3)]

    items, path = [{"id": name} for name in "abcd"], tmp_path / "pairs.jsonl"
    whole = do(items)
    with jsonl.writing(jsonl.shard(path, 0)) as append:
        append(whole[:4])  # `a` whole, `b` cut after its first row
    blocks = jsonl.split_blocks(["a", "b", "c", "d"], batch=2)
    with jsonl.resuming(path, blocks, item_of=lambda row: row["item"]) as (todo, append):
        assert todo == blocks
        for block in todo:
            append(do([{"id": name} for name in block]))
    assert jsonl.read(jsonl.shard(path, 0)) == whole
