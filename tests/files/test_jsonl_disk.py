"""A full or read-only disk is named, and nothing on it is lost; files reach the disk before their names."""

import errno
import io
import os
from pathlib import Path

import pytest

from dsd.files import jsonl, whole
from tests.files.rows import ROWS, append, filled


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


@pytest.fixture
def events(monkeypatch) -> list[str]:
    """Return what is flushed and renamed, in order."""
    events, fsync, replace = [], os.fsync, Path.replace

    def flushed(number):
        events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name)
        fsync(number)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", lambda part, path: events.append("renamed") or replace(part, path))
    return events


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, events):
    """Without this, a power failure leaves a file of the right size that is full of zeros."""
    jsonl.write_atomic(tmp_path / "run" / "grid.png", b"content")
    assert events == [f".grid.png.{os.getpid()}.part", "renamed", "run"]


def test_a_folder_is_on_the_disk_before_it_gets_its_name(tmp_path, events):
    part, folder = tmp_path / "run" / ".state.part", tmp_path / "run" / "state"
    for place in (part, folder):
        (place / "inside").mkdir(parents=True)
        (place / "inside" / "weights").write_text(place.name)
    (part / "index").touch()
    whole.replace_folder(part, folder)
    assert {*events[:4]} == {"index", "inside", "weights", part.name} and events[4:] == ["renamed", "run"]
    assert (folder / "inside" / "weights").read_text() == part.name and not part.exists()


def test_only_our_own_unfinished_files_are_swept(tmp_path):
    ours = [
        ".grid.png.123.part",
        "run/.step-00000003.part/inside",
        ".checkpoint.part/inside",
        "..files.json.1.part",
    ]
    others = [".film.mp4.part", "film.1.part", ".photos.part/inside"]
    for name in ours + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    whole.sweep(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {*others}
