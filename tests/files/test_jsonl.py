"""Rows on disk: whole or not at all, checked, one writer at a time."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from dsd.files import jsonl
from tests.files.rows import ROWS, append, filled


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
