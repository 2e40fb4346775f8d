"""The benchmark of training compares the same work: the usual way's batches are the cache's."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dsd.training.batches import Batches
from dsd.training.data import encode
from dsd.training.state import TrainState
from tests import student, tiny
from train.bench import training as bench


@pytest.fixture(scope="module")
def pairs() -> bench.Pairs:
    return bench.Pairs(6)


def settings(model: object, **changed: object) -> bench.TrainOptions:
    return student.options(model, **{"sizes": ("32",), "text_tokens": 8, "batch": 4, "steps": 3, **changed})


def test_encoding_at_every_step_gives_the_batches_of_the_cache(pairs, tmp_path):
    pipe, dropped = tiny.pipeline(), {"text_dropout": 0.3, "condition_dropout": 0.3}
    options = settings("tiny", **dropped)
    data = encode(pairs, pipe, options, tmp_path, "cpu")
    usual = bench.Encoding(bench.Uncached(pairs, pipe, options, tmp_path, "cpu"), options)
    blind = 0
    for ours, theirs in zip(Batches(data, options).steps(0), usual.steps(0), strict=True):
        (one,), (two,) = ours, theirs
        for name in ("data", "condition", "embeds", "pooled"):
            torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=3e-3, atol=3e-3)
        assert torch.equal(one.noise, two.noise) and torch.equal(one.t, two.t) and one.frame == two.frame
        blind += int((two.condition.abs().amax((1, 2)) == 0).sum())
    assert 0 < blind < 12


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


def test_rounds_are_what_the_loop_took_without_the_time_between_them(pairs, teacher, tmp_path):
    rounds = []
    bench._watched(pairs, settings(teacher, log_every=1), tmp_path, rounds.append)
    assert [row["step"] for row in rounds] == [1, 2, 3]
    assert all(0 < row["wall"] and 0 <= row["waited"] and row["loss"] > 0 for row in rounds)


def test_the_peak_is_known_where_there_is_no_resource_too(monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    assert 10 < bench._peak() < 1e6
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    told = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=123_000_000))
    monkeypatch.setattr(bench.psutil, "Process", lambda: told)
    assert bench._peak() == 123


def test_fewer_steps_than_two_rounds_are_refused():
    with pytest.raises(ValueError, match="--steps must be at least 8, as the first 4 do not count, got 7"):
        next(bench.training_rows(6, 7))


def test_saves_are_timed_one_by_one_and_the_loop_is_left_as_it_was(pairs, teacher, tmp_path):
    save = TrainState.save
    (row,) = bench.bench_save(pairs, settings(teacher, save_every=500), tmp_path)
    assert TrainState.save is save and row["every steps"] == 500
    assert 0 < row["s"] and 0 < row["share"] < 1


def test_every_canvas_and_batch_has_its_row(pairs, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "OTHER_SIDES", (48,))
    rows = list(bench.bench_sizes(pairs, settings(teacher), tmp_path))
    assert [(row["canvas"], row["batch"]) for row in rows] == [("96x48", 1), ("96x48", 4)]
    assert all(row["ms a pair"] > 0 and 0 <= row["waiting"] < 1 for row in rows)
