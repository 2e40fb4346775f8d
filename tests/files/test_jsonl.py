"""Rows on disk: whole or not at all, one writer at a time, and plain words when the disk refuses."""

import errno
import io
import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
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


def test_a_row_ends_with_a_checksum_that_is_not_part_of_it(tmp_path):
    path = filled(tmp_path / "grids.jsonl", ROWS[:2])
    assert path.read_bytes().count(b'", "row_crc32": "') == 2
    assert jsonl.read(path) == ROWS[:2]
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)  # as version 0 wrote them
    path.write_text(rows)
    assert jsonl.read(path) == ROWS


def test_every_flipped_bit_of_a_row_is_found(tmp_path):
    """Only a bit in the checksum's name or in the newline may pass, and then the row itself is whole."""
    path = filled(tmp_path / "grids.jsonl", [{"id": "000001", "floor": 0.5, "text": "a row"}, {"id": "2"}])
    whole, rows = path.read_bytes(), jsonl.read(path)
    for place in range(8 * (whole.index(b"\n") + 1)):
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            read = jsonl.read(path)
        except jsonl.RunError as error:
            assert "line 1" in str(error) and "\n" not in str(error)
        else:
            assert {name: read[0][name] for name in rows[0]} == rows[0] and read[1:] == rows[1:], place


def test_a_row_whose_text_was_edited_is_named_with_what_to_do(tmp_path):
    path = filled(tmp_path / "prompts.jsonl", ROWS[:2])
    path.write_bytes(path.read_bytes().replace(b"000001", b"000007"))
    with pytest.raises(jsonl.RunError, match="line 2 does not match its checksum.*its row_crc32 if you edit"):
        jsonl.read(path)
    for row in ROWS[:2]:  # written anew by another program, which keeps the key
        path.write_text(json.dumps(row | {"row_crc32": "00000000"}, indent=None) + " \n")
        with pytest.raises(jsonl.RunError, match="does not match its checksum"):
            jsonl.read(path)


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Without this, a power failure leaves a file of the right size that is full of zeros."""
    events, fsync, replace = [], os.fsync, Path.replace

    def flushed(number):
        events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", lambda part, path: events.append("renamed") or replace(part, path))
    jsonl.write_atomic(tmp_path / "run" / "grid.png", b"content")
    assert events == [f".grid.png.{os.getpid()}.part", "renamed", "run"]


def test_shards_are_removed_only_when_their_rows_are_on_the_disk(tmp_path, monkeypatch):
    path, events = sharded(tmp_path), []
    fsync, unlink = os.fsync, Path.unlink
    monkeypatch.setattr(os, "fsync", lambda number: events.append("flushed") or fsync(number))
    monkeypatch.setattr(
        Path, "unlink", lambda file, **options: events.append(file.name) or unlink(file, **options)
    )
    jsonl.merge(path)
    assert events[:2] == ["flushed", "flushed"] and events[-2:] == ["grids.0.jsonl", "grids.1.jsonl"]


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: float = 0.0

    def __post_init__(self):
        if self.low > 1:
            raise ValueError("low is too high")


@dataclass(frozen=True, kw_only=True)
class Example(jsonl.Record):
    text: str
    count: int
    share: float | None
    flag: bool
    names: list[str]
    scores: dict[str, int] | None
    inner: Inner
    note: str = ""

    OPTIONAL = frozenset({"note"})


GOOD = {"id": "a", "text": "b", "count": 1, "share": 1, "flag": True, "names": ["x"], "scores": {"y": 2},
        "inner": {"low": 0.5}}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 3}, {"id": None}, {"id": ["a"]}, {"text": None}, {"count": True}, {"count": 1.0},
        {"share": "x"}, {"share": float("nan")}, {"flag": 1}, {"names": "x"}, {"names": [1]},
        {"scores": {"y": "2"}}, {"scores": []}, {"inner": None}, {"inner": {"high": 1}},
        {"inner": {"low": 2}}, {"inner": {"low": "x"}}, {"note": 3},
    ],
)  # fmt: skip
def test_a_row_of_the_wrong_type_is_named_with_line_and_field(tmp_path, wrong):
    path = filled(tmp_path / "rows.jsonl", [GOOD])
    assert jsonl.read_records(path, Example)[0].inner == Inner(low=0.5)
    append(path, GOOD | wrong)
    with pytest.raises(jsonl.RunError, match=rf"rows.jsonl line 2 cannot be used.*{next(iter(wrong))}"):
        jsonl.read_records(path, Example)


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"', "{}", '{"id": 3}', '{"id": {}}', "[" * 9999])
def test_valid_json_that_is_not_a_row_is_an_error_in_one_sentence(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    for read in (jsonl.read_all, lambda path: jsonl.read_records(path, Example)):
        with pytest.raises(jsonl.RunError, match="rows.jsonl line 1"):
            read(tmp_path / "rows.jsonl")
