"""A dataset encoded while it trains: the same records whatever is kept, dropped or damaged."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dsd.files.pairs import BadRow
from dsd.training import data as training_data
from dsd.training import order as orders
from dsd.training.data import open_rows
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.order import WindowedOrder, block_of, split
from dsd.training.streamed import StreamedData
from tests import student, tiny
from tests.student import Rows, pair, pairs

LARGE = 1.0  # GB
COUNT = 12


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    student.small_blocks(monkeypatch.setattr)
    yield
    orders._mix.cache_clear()


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny.pipeline()
    pipe.encode_prompt("", None, max_sequence_length=8)  # the first use of a tokenizer changes its settings
    return pipe


@pytest.fixture
def rows(tmp_path) -> Rows:
    (file := tmp_path / "rows.parquet").write_bytes(b"rows")
    return Rows(pairs(COUNT), file)


def stream(pipe, rows, folder: Path, cache_gb: float = LARGE, **options) -> StreamedData:
    options = TrainOptions(sizes=("32",), text_tokens=8, cache_gb=cache_gb, **options)
    return StreamedData(open_rows(rows, pipe, options, folder), pipe, options, folder, "cpu")


def records(data: StreamedData, row: int) -> list[torch.Tensor]:
    entry, images, texts = data.find(row)
    return [*images.read(entry.canvas[0]), *images.read(entry.condition[0]), *texts.read(entry.caption)]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def size(data: StreamedData) -> int:
    return len(list(data.folder.glob("block.*")))


# ---------------------------------------------------------------- order


def test_blocks_hold_every_row_once_and_none_is_short():
    for count in range(1, 12):
        blocks = split(count)
        assert [row for block in blocks for row in block] == list(range(count))
        assert all(len(block) >= min(2, count) for block in blocks)
        assert all(row in blocks[block_of(row, count)] for row in range(count))


def test_every_row_comes_once_before_any_repeats_and_in_another_order():
    order = WindowedOrder(10, 4, seed=0)
    drawn = np.concatenate([order.rows(step) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist() != list(range(10))
    assert WindowedOrder(10, 4, seed=1).rows(0).tolist() != order.rows(0).tolist()


def test_a_step_reads_from_the_blocks_of_two_windows_at_most():
    order = WindowedOrder(1000, 4, seed=0)
    blocks = [{block_of(row, 1000) for row in order.rows(step).tolist()} for step in range(250)]
    assert max(map(len, blocks)) <= 4 and len(set.union(*blocks[:5])) <= 12


# ---------------------------------------------------------------- blocks


def test_a_row_is_encoded_as_it_would_be_before_the_first_step(pipe, rows, tmp_path):
    data = stream(pipe, rows, tmp_path / "streamed")
    data.prepare(np.arange(COUNT))
    options = TrainOptions(sizes=("32",), text_tokens=8)
    whole = training_data.encode(rows, pipe, options, tmp_path / "whole", "cpu")
    for row in range(COUNT):
        (entry, *_), expected = data.find(row), whole.entries[row]
        assert entry == expected
        canvas = whole.latents.read(*expected.canvas), whole.latents.read(*expected.condition)
        for one, other in zip(records(data, row)[:2], (canvas[0][0], canvas[1][0]), strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=2e-3, atol=2e-3)  # other batches


def test_only_what_a_step_needs_is_read(pipe, rows, tmp_path):
    data = stream(pipe, rows, tmp_path)
    data.prepare(np.array([0, 5]))
    assert rows.reads == 4 and size(data) == 2
    data.prepare(np.array([1, 4]))
    assert rows.reads == 4


def test_the_least_recently_used_blocks_are_dropped_and_come_back_bit_for_bit(pipe, rows, tmp_path):
    data = stream(pipe, rows, tmp_path)
    data.prepare(np.array([0, 2]))
    before = [[tensor.clone() for tensor in records(data, row)] for row in (0, 2)]
    bytes_of_two = sum(file.stat().st_size for file in data.folder.rglob("*.*") if file.is_file())
    data = stream(pipe, rows, tmp_path, cache_gb=1.1 * bytes_of_two / 1e9)
    for index in (0, 1):  # block 0 is used last
        os.utime(data._path(index), (10 - index, 10 - index))
    data.prepare(np.array([4]))
    assert sorted(path.name[-1] for path in data.folder.glob("block.*")) == ["0", "2"]
    data.prepare(np.array([0, 2]))
    assert equal(records(data, 0), before[0]) and equal(records(data, 2), before[1]) and size(data) == 2


def test_what_one_process_has_encoded_another_opens(pipe, rows, tmp_path):
    one = stream(pipe, rows, tmp_path)
    one.prepare(np.arange(4))
    reads, other = rows.reads, stream(pipe, rows, tmp_path)
    other.prepare(np.arange(4))
    assert rows.reads == reads and equal(records(one, 3), records(other, 3))


@pytest.mark.parametrize("how", ["cut", "gone", "empty"])
def test_a_damaged_block_is_encoded_again(pipe, rows, tmp_path, how):
    data = stream(pipe, rows, tmp_path)
    data.prepare(np.arange(2))
    before = [tensor.clone() for tensor in records(data, 1)]
    file = next(data._path(0).glob("latents/*"))
    {"cut": lambda: file.write_bytes(b"x"), "gone": file.unlink,
     "empty": (data._path(0) / "entries.jsonl").unlink}[how]()  # fmt: skip
    again = stream(pipe, rows, tmp_path)
    again.prepare(np.arange(2))
    assert rows.reads == 4 and equal(records(again, 1), before)


def test_other_rows_or_files_have_other_blocks(pipe, rows, tmp_path):
    name = stream(pipe, rows, tmp_path).name
    fewer = Rows(list(rows)[:-1], rows.files[0])
    assert stream(pipe, fewer, tmp_path).name != name  # the last block ends elsewhere
    Path(rows.files[0]).write_bytes(b"other rows")
    assert stream(pipe, rows, tmp_path).name != name
    with pytest.raises(TrainingError, match="needs rows in files, got a list: pass cache_gb=0"):
        stream(pipe, pairs(3), tmp_path)


# ---------------------------------------------------------------- unusable rows


def test_an_unusable_row_is_replaced_by_the_next_of_its_block(pipe, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dsd.training.streamed.TOLERATED", 0.1)
    (file := tmp_path / "rows").touch()
    rows = Rows([pair(0), BadRow("row 1 is torn"), *pairs(COUNT)[2:]], file)
    data = stream(pipe, rows, tmp_path)
    data.prepare(np.arange(COUNT))
    assert data.find(1)[0] == data.find(0)[0] and data.skipped == 1 and "row 1 is torn" in caplog.text


def test_long_texts_are_reported_once(pipe, tmp_path, caplog):
    (file := tmp_path / "rows").touch()
    rows = Rows([pair(number, caption="a hat " * 20) for number in range(COUNT)], file)
    stream(pipe, rows, tmp_path).prepare(np.arange(COUNT))
    assert caplog.text.count("longer than 8 tokens") == 1


def test_too_many_unusable_rows_end_the_training(pipe, tmp_path):
    (file := tmp_path / "rows").touch()
    rows = Rows([pair(0), BadRow("row 1 is torn"), *pairs(COUNT)[2:]], file)
    with pytest.raises(TrainingError, match="1 of 12 rows cannot be used.*row 1: row 1 is torn"):
        stream(pipe, rows, tmp_path).prepare(np.arange(2))


def test_a_dataset_without_instructions_is_refused_and_one_frame_size_is_needed(pipe, tmp_path):
    (file := tmp_path / "rows").touch()
    rows = Rows([pair(number, instruction=None) for number in range(4)], file)
    with pytest.raises(TrainingError, match="--instruction-prob 0"):
        stream(pipe, rows, tmp_path).prepare(np.arange(2))
    with pytest.raises(TrainingError, match="cache_gb=1 .* one of the sizes, got 32x32, 48x32"):
        TrainOptions(cache_gb=1, sizes=("32x32", "48x32"))
