"""A dataset as records: what is refused, what is skipped, which frames, which texts, and going on."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch

from dsd.files.pairs import BadRow
from dsd.model import latents
from dsd.model.canvas import compose, fit, to_tensor
from dsd.training import data as training_data
from dsd.training.batches import Batches
from dsd.training.cache import text_hash
from dsd.training.data import Data, check_rows, dataset_name
from dsd.training.options import TrainingError, TrainOptions
from tests import tiny
from tests.student import Rows, pair, pairs


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


def encode(pipe, rows, folder, *sizes: str) -> Data:
    options = TrainOptions(sizes=sizes or ("32",), text_tokens=8)
    return training_data.encode(rows, pipe, options, folder, "cpu")


def test_an_empty_dataset_is_refused():
    with pytest.raises(TrainingError, match="the dataset has no rows"):
        check_rows([], TrainOptions())


def test_a_table_of_more_rows_serves_a_run_on_fewer(pipe, tmp_path):
    (file := tmp_path / "rows.parquet").touch()
    encode(pipe, pairs(1), tmp_path / "other")  # the first use of a tokenizer changes its settings
    whole = Rows(pairs(4), file)
    assert len(encode(pipe, whole, tmp_path / "cache")) == 4
    few = Rows(pairs(4)[:2], file)
    assert len(encode(pipe, few, tmp_path / "cache")) == 2 and few.reads == 0


def test_missing_columns_are_named():
    with pytest.raises(TrainingError, match="lacks target, caption; it has conditioning, words"):
        check_rows([{"conditioning": tiny.image(), "words": "a hat"}], TrainOptions())


def test_a_dataset_without_instructions_says_which_setting_to_change(pipe, tmp_path):
    row = pair(0)
    del row["instruction"]
    with pytest.raises(TrainingError, match="instruction_prob is 0.5.*--instruction-prob 0"):
        check_rows([row], TrainOptions())
    check_rows([row], TrainOptions(instruction_prob=0))
    with pytest.raises(TrainingError, match="the dataset has no instructions"):
        encode(pipe, [pair(0, instruction=None)], tmp_path)


def test_a_row_becomes_the_canvas_and_the_condition_that_drawing_uses(pipe, tmp_path):
    data = encode(pipe, pairs(3), tmp_path)
    row = pair(1)
    reference, target = (to_tensor([row[name]]) for name in ("conditioning", "target"))
    with torch.no_grad():
        canvas = latents.encode(pipe.vae, torch.cat([reference, target], dim=-1))[0]
        condition = latents.encode(pipe.vae, compose(reference))[0]
    entry = data.entries[1]
    for keys, expected in ((entry.canvas, canvas), (entry.condition, condition)):
        (stored,) = data.latents.read(*keys)
        torch.testing.assert_close(stored.float(), expected, rtol=2e-3, atol=2e-3)


def test_references_that_no_sample_shows_are_not_encoded(pipe, tmp_path, named):
    usual = TrainOptions(sizes=("32",), text_tokens=8, accumulate=1)
    unseen = replace(usual, condition_dropout=1.0)
    first, later = (
        training_data.encode(named, pipe, options, tmp_path, "cpu") for options in (unseen, usual)
    )
    assert first.latents.has({*first.entries[0].canvas})
    assert not first.latents.has({*first.entries[0].condition})
    assert later.latents.has({*later.entries[0].condition}), "another training needs them"
    written, named.reads = files(tmp_path), 0
    again = training_data.encode(named, pipe, unseen, tmp_path, "cpu")  # a cache that has them still opens
    assert named.reads == 0 and files(tmp_path) == written
    assert first.name == later.name == again.name, "a training of an earlier version goes on"
    batches = [batch for data in (first, later) for batch in Batches(data, unseen).step(0)]
    assert all(torch.equal(*values) for values in zip(*(batch[:6] for batch in batches), strict=True))


def test_frames_encoded_apart_give_the_same_as_whole_canvases(tmp_path):
    from dsd.model.checkpoint import load_pipeline

    pocket = load_pipeline("pocket", device="cpu")
    rows = [pair(0, size=(64, 64))]
    data = encode(pocket, rows, tmp_path, "64")
    assert len(data.entries[0].canvas) == 2  # two frames, as this VAE reads each block alone
    frames = [data.latents.read(key)[0] for key in data.entries[0].condition]
    with torch.no_grad():
        expected = latents.encode(pocket.vae, compose(to_tensor([rows[0]["conditioning"]])))[0]
    torch.testing.assert_close(torch.cat(frames, dim=-1).float(), expected, rtol=5e-3, atol=5e-3)


def test_texts_are_the_captions_and_instructions(pipe, tmp_path):
    data = encode(pipe, pairs(4), tmp_path)
    with torch.no_grad():
        caption, *_ = pipe.encode_prompt("a hat 1", None, max_sequence_length=8)
        instruction, *_ = pipe.encode_prompt("put on 3", None, max_sequence_length=8)
        empty, *_ = pipe.encode_prompt("", None, max_sequence_length=8)
    for key, expected in (
        (data.entries[1].caption, caption),
        (data.entries[3].instruction, instruction),
        (text_hash(""), empty),
    ):
        torch.testing.assert_close(data.texts.read(key)[0].float(), expected[0], rtol=2e-3, atol=2e-3)


def test_a_row_goes_to_the_frame_of_the_nearest_shape(pipe, tmp_path):
    rows = [pair(0, size=(64, 32)), pair(1, size=(32, 32)), pair(2, size=(40, 90))]
    data = encode(pipe, rows, tmp_path, "32", "48x32", "32x48")
    assert [data.frames[bucket] for bucket in data.buckets] == [(48, 32), (32, 32), (32, 48)]
    (canvas,) = data.latents.read(*data.entries[0].canvas)
    assert canvas.shape == (4, 4, 12)  # two frames of 48 x 32, an eighth of that
    with torch.no_grad():
        seen = compose(to_tensor([fit(rows[0]["conditioning"], 48, 32)]))
    torch.testing.assert_close(
        data.latents.read(*data.entries[0].condition)[0].float(),
        latents.encode(pipe.vae, seen)[0].detach(), rtol=2e-3, atol=2e-3,
    )  # fmt: skip


def test_a_bad_row_is_named_skipped_and_counted(pipe, tmp_path, caplog):
    rows = Rows(pairs(110), tmp_path / "none")
    rows[7:8] = [BadRow("train-0.parquet row 7: the target image cannot be read")]
    rows.files = None
    with caplog.at_level(logging.WARNING):
        data = encode(pipe, rows, tmp_path)
    assert (len(data), data.skipped) == (109, 1)
    assert "skipped row 7: train-0.parquet row 7: the target image cannot be read" in caplog.text
    assert "skipped 1 of 110 rows" in caplog.text


def test_texts_that_are_cut_are_counted_every_time(pipe, tmp_path, named, caplog):
    options = TrainOptions(sizes=("32",), text_tokens=16)
    named[3:5] = [pair(3, caption="hat " * 20), pair(4, instruction="hat " * 20)]
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        training_data.encode(named, pipe, options, tmp_path, "cpu")
        assert "the texts of 2 of 6 rows are longer than 16 tokens" in caplog.text


def test_over_one_in_a_hundred_bad_rows_are_an_error(pipe, tmp_path):
    rows = Rows([*pairs(20), BadRow("it has no caption")], tmp_path)
    rows.files = None
    with pytest.raises(TrainingError, match="1 of 21 rows cannot be used, .* row 20: it has no caption"):
        encode(pipe, rows, tmp_path)


def test_rows_without_an_instruction_use_their_caption_and_say_so(pipe, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        data = encode(pipe, [pair(0), pair(1, instruction="")], tmp_path)
    assert data.entries[0].instruction and data.entries[1].instruction is None
    assert "1 of 2 rows have no instruction" in caplog.text


def files(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.fixture
def named(tmp_path) -> Rows:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"rows")
    return Rows(pairs(6), file)


def test_the_second_time_nothing_is_read_or_encoded(pipe, tmp_path, named):
    first = encode(pipe, named, tmp_path)
    written, named.reads = files(tmp_path), 0
    again = encode(pipe, named, tmp_path)
    assert named.reads == 0 and files(tmp_path) == written and again.name == first.name
    (tmp_path / "train.parquet").write_bytes(b"other rows")
    encode(pipe, named, tmp_path)
    assert named.reads == 6  # the file has changed


def test_a_file_of_the_same_size_and_time_is_known_by_its_content(named):
    file, name = Path(named.files[0]), dataset_name(named)
    before = file.stat()
    file.write_bytes(b"sowr")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns and dataset_name(named) != name


def test_a_dataset_over_the_network_is_known_again_until_its_files_change(named):
    named.filesystem = fsspec.filesystem("file")
    name = dataset_name(named)
    assert dataset_name(named) == name
    Path(named.files[0]).write_bytes(b"other rows")
    assert dataset_name(named) != name


def test_a_lost_cache_file_is_made_again(pipe, tmp_path, named):
    first = encode(pipe, named, tmp_path)
    (tmp_path / next(iter(tmp_path.glob("latents-*"))).name).joinpath(
        next(iter(first.latents.folder.glob("*.safetensors"))).name
    ).unlink()
    again = encode(pipe, named, tmp_path)
    assert again.name == first.name and len(again) == 6
    assert torch.equal(*(data.latents.read(*data.entries[0].canvas)[0] for data in (again, first)))


def test_encoding_that_was_killed_goes_on_at_its_block(pipe, tmp_path, named, monkeypatch):
    monkeypatch.setattr(training_data, "BLOCK", 2)
    whole = encode(pipe, Rows(list(named), named.files[0]), tmp_path / "whole")
    (tmp_path / "whole").rename(tmp_path / "elsewhere")
    broken = Rows([*pairs(4), RuntimeError("killed"), pair(5)], named.files[0])
    with pytest.raises(RuntimeError, match="killed"):
        encode(pipe, broken, tmp_path / "whole")
    named.reads = 0
    data = encode(pipe, named, tmp_path / "whole")
    assert named.reads == 2 and data.name == whole.name
    assert sorted(files(tmp_path / "whole")) == sorted(files(tmp_path / "elsewhere"))


def test_the_order_of_the_rows_is_kept(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training_data, "BLOCK", 2)
    data = encode(pipe, pairs(5), tmp_path)
    keys = [entry.caption for entry in data.entries]
    assert keys[0] == keys[3] and keys[1] == keys[4] and keys[0] != keys[1]  # captions repeat every three
    assert len({entry.canvas[0] for entry in data.entries}) == 5
