"""Batches: functions of the seed and the sample's number, whatever the processes; dropout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dsd.model import flow, latents
from dsd.training.batches import Batch, Batches
from dsd.training.cache import text_hash
from dsd.training.data import Data, encode
from dsd.training.options import TrainOptions
from dsd.training.order import Order
from tests import tiny
from tests.student import pair

PLAIN = {"batch": 4, "accumulate": 1, "text_dropout": 0.0, "condition_dropout": 0.0, "instruction_prob": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(folder) -> Data:
    pipe = tiny.pipeline()
    rows = [pair(i, size=(48, 32) if i % 3 == 0 else (32, 32)) for i in range(12)]
    return encode(rows, pipe, TrainOptions(sizes=("32", "48x32"), text_tokens=8), folder, "cpu")


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
    entry = data.entries[rows[1]]
    (canvas,), (condition,) = (data.latents.read(*keys) for keys in (entry.canvas, entry.condition))
    assert torch.equal(batch.data[1], latents.pack(canvas[None].float())[0])
    assert torch.equal(batch.condition[1], latents.pack(condition[None].float())[0])
    assert torch.equal(batch.embeds[1], data.texts.read(entry.caption)[0].float())
    assert batch.frame == data.frames[data.buckets[rows[1]]]


@pytest.mark.parametrize("processes, accumulate", [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_processes_and_accumulation_share_out_the_same_samples(data, processes, accumulate):
    changed = {"text_dropout": 0.3, "condition_dropout": 0.3, "instruction_prob": 0.5}
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
    changed = {"batch": 64, "text_dropout": 0.3, "condition_dropout": 0.2, "instruction_prob": 0.5}
    empty = data.texts.read(text_hash(""))[0].float()
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
        made = batches(data, batch=64, instruction_prob=share)
        found = []
        for step in range(10):
            rows, (batch,) = made.order.rows(step), made.step(step)
            texts = [data.texts.read(data.entries[row].instruction)[0].float() for row in rows]
            found += [torch.equal(one, text) for one, text in zip(batch.embeds, texts, strict=True)]
        return float(np.mean(found))

    assert instructed(0.0) == 0.0 and instructed(1.0) == 1.0
    assert abs(instructed(0.3) - 0.3) < 0.06


def test_a_row_without_an_instruction_keeps_its_caption(data):
    bare = replace(data, entries=[replace(entry, instruction=None) for entry in data.entries])
    (with_share,) = batches(bare, instruction_prob=1.0).step(0)
    (without,) = batches(data, instruction_prob=0.0).step(0)
    assert torch.equal(with_share.embeds, without.embeds)


def test_an_error_while_assembling_reaches_the_loop(data, monkeypatch):
    made = batches(data, steps=3)
    monkeypatch.setattr(made, "_batch", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(made.steps(0))
