"""What the loop says of its time: a step's is the step's, whatever is done between two of them."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from dsd.training import loop as training
from dsd.training import meter as training_meter
from dsd.training.meter import Meter
from dsd.training.options import TrainingError
from dsd.training.state import TrainState
from tests import student


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(training_meter, "time", SimpleNamespace(monotonic=lambda: self.now))

    def slow(self, work, seconds: float):
        """The same function, taking so long."""

        def slowly(*args, **options):
            self.now += seconds
            return work(*args, **options)

        return slowly


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch)


def step(meter: Meter, clock: Clock, *, wait: float = 0.0, work: float = 1.0) -> None:
    def coming():
        clock.now += wait
        yield "batches"

    list(meter.measure(coming()))
    clock.now += work
    meter.add(torch.tensor(2.0), 1.0)


def test_the_time_of_a_step_is_the_mean_since_the_last_reading(clock):
    meter = Meter(Accelerator(cpu=True), seconds=100.0)
    for work in (1.0, 3.0):
        step(meter, clock, work=work)
    assert meter.read()["seconds_per_step"] == 2.0
    step(meter, clock, work=5.0)
    values = meter.read()
    assert values["seconds_per_step"] == 5.0 and values["seconds"] == 109.0


@pytest.mark.parametrize("when", ["between two readings", "right after one"])
def test_what_is_done_while_it_is_paused_is_no_steps_time(clock, when):
    meter = Meter(Accelerator(cpu=True), seconds=0.0)
    if when == "between two readings":
        step(meter, clock)
    with meter.pause():
        clock.now += 50.0
    step(meter, clock)
    values = meter.read()
    assert values["seconds_per_step"] == 1.0 and values["seconds"] > 50


def test_waiting_is_a_share_of_the_steps_time_alone(clock):
    meter = Meter(Accelerator(cpu=True), seconds=0.0)
    step(meter, clock, wait=1.0, work=3.0)
    with meter.pause():
        clock.now += 12.0
    assert meter.read()["waiting"] == 0.25


def test_what_has_diverged_is_neither_validated_nor_saved(clock):
    meter = Meter(Accelerator(cpu=True), seconds=0.0)
    meter.add(torch.tensor(float("nan")), 1.0)
    with pytest.raises(TrainingError, match="has diverged"):
        with meter.pause():
            pytest.fail("it went on")


def test_validation_and_saves_are_not_charged_to_the_next_steps(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "batch_loss", clock.slow(training.batch_loss, 0.5))
    monkeypatch.setattr(TrainState, "save", clock.slow(TrainState.save, 20.0))
    teacher, reports = student.teacher(tmp_path / "teacher"), []
    training.train(
        student.pairs(),
        student.options(teacher, steps=8, log_every=2, validate_every=3, save_every=4),
        tmp_path / "out",
        validate=clock.slow(lambda pipe, step: {"identity": 0.5}, 100.0),
        on_step=lambda step, values: reports.append(values),
    )
    assert [row["seconds_per_step"] for row in reports if "loss" in row] == [0.5] * 4
    assert sum("identity" in row for row in reports) == 3 and clock.now == 8 * 0.5 + 2 * 20 + 3 * 100
