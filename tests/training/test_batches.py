"""Batches: functions of the seed and the sample's number, whatever the processes; dropout; damage."""

import copy
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dsd.model import flow, latents
from dsd.training.batches import Batch, Batches, Order
from dsd.training.cache import DamagedRecord, ImageEncoder, TextEncoder
from dsd.training.data import Data, prepare
from dsd.training.options import TrainingError, TrainOptions
from tests import tiny
from tests.student import pair

PLAIN = {"batch": 4, "accumulate": 1, "text_dropout": 0.0, "image_dropout": 0.0, "instruction_share": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(folder) -> Data:
    pipe = tiny.pipeline()
    rows = [pair(i, size=(48, 32) if i % 3 == 0 else (32, 32)) for i in range(12)]
    frames = ((32, 32), (48, 32))
    images, texts = ImageEncoder(pipe.vae, folder), TextEncoder(pipe, 8, folder)
    return prepare(rows, TrainOptions(), images, texts, frames, folder)


def batches(data: Data, *place: int, **options) -> Batches:
    return Batches(data, TrainOptions(**{**PLAIN, **options}), *place)


def joined(parts: list[Batch]) -> dict[str, torch.Tensor]:
    names = ("data", "condition", "noise", "t", "embeds", "pooled")
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# ---------------------------------------------------------------- order


def test_every_row_comes_once_before_any_comes_again():
    order = Order(np.zeros(10, dtype=int), 4, seed=0)
    drawn = np.concatenate([order.rows(step) for step in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_a_step_may_be_larger_than_the_dataset():
    order = Order(np.zeros(3, dtype=int), 8, seed=0)
    rows = np.concatenate([order.rows(0), order.rows(1)])
    assert all(sorted(rows[i : i + 3]) == [0, 1, 2] for i in range(0, 15, 3))


def test_the_order_is_a_function_of_seed_and_step():
    buckets = np.arange(30) % 3
    order, again = Order(buckets, 4, seed=1), Order(buckets, 4, seed=1)
    backwards = [again.rows(step) for step in reversed(range(50))][::-1]
    assert all(np.array_equal(order.rows(step), backwards[step]) for step in range(50))
    assert any(not np.array_equal(order.rows(s), Order(buckets, 4, seed=2).rows(s)) for s in range(5))


def test_a_step_has_one_frame_size_and_each_size_its_share():
    buckets = np.array([0] * 30 + [1] * 10)
    order = Order(buckets, 5, seed=0)
    steps = [set(buckets[order.rows(step)]) for step in range(400)]
    assert all(len(found) == 1 for found in steps)
    assert abs(np.mean([0 in found for found in steps]) - 0.75) < 0.06


# ---------------------------------------------------------------- batches


def test_a_batch_is_the_row_interpolated_by_nothing_but_its_parts(data):
    made = batches(data)
    (batch,) = made.step(0)
    rows = made.order.rows(0)
    (canvas,) = data.latents.read(data.canvases[rows[1], 0])
    (condition,) = data.latents.read(data.conditions[rows[1], 0])
    assert torch.equal(batch.data[1], latents.pack(canvas[None].float())[0])
    assert torch.equal(batch.condition[1], latents.pack(condition[None].float())[0])
    assert torch.equal(batch.embeds[1], data.texts.read(data.captions[rows[1]])[0].float())
    assert batch.frame == data.frames[data.buckets[rows[1]]]


@pytest.mark.parametrize("processes, accumulate", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_accumulation_share_out_the_same_samples(data, processes, accumulate):
    changed = {"text_dropout": 0.3, "image_dropout": 0.3, "instruction_share": 0.5}
    batch = 8 // (processes * accumulate)
    for step in (0, 5):
        (whole,) = batches(data, batch=8, **changed).step(step)
        shares = [
            batches(data, process, processes, batch=batch, accumulate=accumulate, **changed).step(step)
            for process in range(processes)
        ]
        in_order = [share[turn] for turn in range(accumulate) for share in shares]
        assert same(joined(in_order), joined([whole]))


def test_steps_from_the_middle_are_those_of_an_unbroken_run(data):
    unbroken = list(batches(data, steps=6).steps(0))
    continued = list(batches(data, steps=6).steps(4))
    assert len(unbroken) == 6 and len(continued) == 2
    assert all(same(joined(a), joined(b)) for a, b in zip(unbroken[4:], continued, strict=True))
    assert not same(joined(unbroken[0]), joined(unbroken[1]))
    assert list(batches(data, steps=6).steps(6)) == []


def test_noise_is_normal_and_every_samples_own(data):
    noise = torch.cat([batches(data, batch=64).step(step)[0].noise.flatten() for step in range(3)])
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    (batch,) = batches(data, batch=64).step(0)
    assert len(torch.unique(batch.noise[:, 0, 0])) == 64
    assert not torch.equal(batch.noise, batches(data, batch=64, seed=1).step(0)[0].noise)


def test_times_are_those_of_flow_with_their_shift(data):
    times = torch.cat([batches(data, batch=64, shift=4.0).step(step)[0].t for step in range(40)])
    expected = flow.sample_times(4000, shift=4.0, generator=torch.Generator().manual_seed(0))
    for share in (0.1, 0.5, 0.9):
        assert abs(times.quantile(share) - expected.quantile(share)) < 0.03


def test_the_image_is_dropped_as_zeros_and_the_text_as_the_empty_prompt(data):
    changed = {"batch": 64, "text_dropout": 0.3, "image_dropout": 0.2, "instruction_share": 0.5}
    empty = data.texts.read(data.empty)[0].float()
    blind, wordless = [], []
    for step in range(20):
        (batch,) = batches(data, **changed).step(step)
        blind.append(batch.condition.abs().amax((1, 2)) == 0)
        wordless.append((batch.embeds == empty).all((1, 2)))
    blind, wordless = torch.cat(blind).float(), torch.cat(wordless).float()
    assert abs(blind.mean() - 0.2) < 0.05 and abs(wordless.mean() - 0.3) < 0.05
    assert abs((blind * wordless).mean() - 0.06) < 0.03  # independent of each other
    (none,) = batches(data, batch=64).step(0)
    assert (none.condition.abs().amax((1, 2)) > 0).all() and not (none.embeds == empty).all((1, 2)).any()


def test_instructions_take_the_captions_place_in_their_share(data):
    def instructed(share: float) -> float:
        made = batches(data, batch=64, instruction_share=share)
        found = []
        for step in range(10):
            rows, (batch,) = made.order.rows(step), made.step(step)
            texts = [data.texts.read(data.instructions[row])[0].float() for row in rows]
            found += [torch.equal(one, text) for one, text in zip(batch.embeds, texts, strict=True)]
        return float(np.mean(found))

    assert instructed(0.0) == 0.0 and instructed(1.0) == 1.0
    assert abs(instructed(0.3) - 0.3) < 0.06


def test_a_row_without_an_instruction_keeps_its_caption(data):
    bare = replace(data, instructions=np.full_like(data.instructions, -1))
    (with_share,) = batches(bare, instruction_share=1.0).step(0)
    (without,) = batches(data, instruction_share=0.0).step(0)
    assert torch.equal(with_share.embeds, without.embeds)


def damaged(data: Data, rows: list[int]) -> Data:
    """As if bits had flipped on the disk in the canvases of these rows."""
    latents = copy.deepcopy(data.latents)
    for row in rows:
        file, place = data.canvases[row, 0]
        latents._files[file].sums[place] ^= 1
    return replace(data, latents=latents)


def test_a_damaged_record_is_named_and_the_next_row_takes_its_place(data, caplog, monkeypatch):
    monkeypatch.setattr("dsd.training.batches.TOLERATED", 1 / 12)  # there are twelve rows
    made = batches(data, batch=12)
    rows = made.order.rows(0)
    bad = int(rows[3])
    members = np.flatnonzero(data.buckets == data.buckets[bad])
    following = members[(members.tolist().index(bad) + 1) % len(members)]
    (whole,) = made.step(0)
    made = batches(damaged(data, [bad]), batch=12)
    with caplog.at_level(logging.WARNING):
        (batch,) = made.step(0)
    untouched = rows != bad
    assert torch.equal(batch.data[untouched], whole.data[untouched])
    assert torch.equal(batch.data[3], whole.data[rows.tolist().index(following)])
    assert "skipped a row: record" in caplog.text and made.damaged == {bad}


@pytest.mark.parametrize("rows", [[0], [0, 1, 2]], ids=["one of twelve", "three of twelve"])
def test_over_one_in_a_hundred_damaged_records_are_an_error(data, rows):
    made = batches(damaged(data, rows), batch=12)
    with pytest.raises(TrainingError, match="1 of 12 rows are damaged in the cache, over 1 %"):
        for step in range(20):
            made.step(step)


def test_one_in_a_hundred_is_not_over_it(data):
    again = np.arange(108) % 12  # each row nine times, but for the last hundred's damaged one
    names = ("buckets", "canvases", "conditions", "captions", "instructions")
    many = replace(data, **{name: getattr(data, name)[again][:100] for name in names})
    made = batches(many)
    error = DamagedRecord("record 3 of a file is damaged")
    made._next(3, error)
    with pytest.raises(TrainingError, match="2 of 100 rows"):
        made._next(4, error)


def test_a_damaged_record_that_all_rows_share_is_an_error_however_many_there_are(data, caplog):
    names = ("buckets", "canvases", "conditions", "captions", "instructions")
    rows = np.arange(120_000) % len(data)
    many = replace(
        data, texts=copy.deepcopy(data.texts), **{name: getattr(data, name)[rows] for name in names}
    )
    file, place = many.empty
    many.texts._files[file].sums[place] ^= 1
    with pytest.raises(TrainingError, match="1201 of 120000 rows are damaged in the cache, over 1 %"):
        batches(many, batch=1, text_dropout=1.0).step(0)


def test_an_error_while_assembling_reaches_the_loop(data, monkeypatch):
    made = batches(data, steps=3)
    monkeypatch.setattr(made, "_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(made.steps(0))
