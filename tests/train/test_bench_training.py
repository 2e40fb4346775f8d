"""The benchmark of training: encoding at every step costs more, and every row is there."""

from argparse import Namespace
from pathlib import Path

import pytest

from tests import student
from train.bench import training as bench


@pytest.fixture(scope="module")
def pairs() -> bench.Pairs:
    return bench.Pairs(6)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench, "WARM_UP", 1)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Train in this process."""
    monkeypatch.setattr(
        bench,
        "measure",
        lambda pairs, options, out, encodes=False: bench._measure(
            pairs, bench.replace(options, log_every=1), out, encodes
        ),
    )


def settings(model: object, **changed: object) -> bench.TrainOptions:
    return student.options(model, **{"sizes": ("32",), "text_tokens": 8, "batch": 4, "steps": 3, **changed})


def test_cached_training_is_compared_with_encoding_at_every_step(pairs, teacher, tmp_path):
    speed, memory = bench.cache_rows(pairs, settings(teacher, steps=6), tmp_path)
    assert speed["times as fast"] > 1 and speed["loss"] > 0
    assert memory["MB"] > 10 and memory["canvas"] == "64x32"


def test_a_training_is_measured_in_a_process_of_its_own(pairs, teacher, tmp_path, monkeypatch):
    monkeypatch.undo()
    cost = bench.measure(pairs, settings(teacher, steps=6), tmp_path)
    assert cost.step.wall > 0 and 0 <= cost.waiting < 1 and 10 < cost.peak < 1e6


def test_fewer_steps_than_the_warm_up_are_refused(monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match="--steps must be at least 8, got 7: the first 4 are not measured"):
        next(bench.measure_rows(Namespace(count=6, steps=7, model="pocket")))


def test_the_time_of_a_save_is_what_a_step_with_it_takes_longer(pairs, teacher, tmp_path):
    (row,) = bench.save_rows(pairs, settings(teacher, save_every=500), tmp_path)
    assert row["every steps"] == 500 and row["s"] > 0 and 0 < row["share"] < 1


def test_every_canvas_and_batch_has_its_row(pairs, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "OTHER_SIDES", (48,))
    rows = list(bench.size_rows(pairs, settings(teacher), tmp_path))
    assert [(row["canvas"], row["batch"]) for row in rows] == [("96x48", 1), ("96x48", 4)]
    assert all(row["ms a pair"] > 0 and 0 <= row["waiting"] < 1 for row in rows)
