"""A run that is continued with another number of steps: a jump of the learning rate is reported."""

import logging
import shutil
from pathlib import Path

import pytest

from dsd.files import jsonl
from dsd.training.optimizer import describe_jump
from dsd.training.options import TrainOptions
from tests import student

SCHEDULE = {"decay": 0.5, "warmup": 1, "lr": 1e-2, "save_every": 1, "log_every": 1}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory) -> Path:
    """A run of 4 steps, of which the last two decay."""
    out = tmp_path_factory.mktemp("finished")
    student.run(teacher, out, steps=4, **SCHEDULE)
    return out


def go_on(teacher: Path, finished: Path, out: Path, caplog, **changed) -> str:
    """Continue a copy of the run; return what was logged."""
    shutil.copytree(finished, out, dirs_exist_ok=True)
    with caplog.at_level(logging.WARNING, "dsd"):
        student.run(teacher, out, **{"steps": 4, **SCHEDULE, **changed})
    return caplog.text


def test_more_steps_after_the_decay_began_report_the_jump_in_a_sentence(teacher, finished, tmp_path, caplog):
    said = go_on(teacher, finished, tmp_path, caplog, steps=7)
    rates = [row["rate"] for row in student.said(tmp_path) if "rate" in row]
    last, first = rates[3], rates[4]
    assert first > 1.2 * last and len(rates) == 7
    assert f"from {last:.3g} to {first:.3g} at step 5" in said
    assert "--steps was raised from 4 to 7" in said and said.count("learning rate") == 1


def test_the_same_steps_or_a_schedule_without_a_jump_say_nothing(teacher, finished, tmp_path, caplog):
    assert "learning rate" not in go_on(teacher, finished, tmp_path / "same", caplog)
    student.run(teacher, tmp_path / "flat", steps=1, **SCHEDULE | {"decay": 0.0})
    assert "learning rate" not in go_on(
        teacher, tmp_path / "flat", tmp_path / "on", caplog, steps=2, decay=0.0
    )


def test_a_state_of_before_without_its_steps_is_continued(teacher, finished, tmp_path, caplog):
    before = shutil.copytree(finished, tmp_path / "before")
    for manifest in before.rglob("state.json"):
        about = jsonl.parse(manifest.read_bytes().rstrip(), "the state")
        assert about.pop("steps") == 4
        jsonl.write_rows(manifest, [about])
    assert "learning rate" not in go_on(teacher, before, tmp_path / "on", caplog, steps=5)
    assert max(row["step"] for row in student.said(tmp_path / "on")) == 5


@pytest.mark.parametrize(
    ("step", "planned", "steps", "said"),
    [
        (
            9,
            10,
            14,
            "raised from 10 to 14 after 9 steps, so the learning rate goes from 0.359 to 0.816 at step 10",
        ),
        (7, 14, 8, "lowered from 14 to 8 after 7 steps, so the learning rate goes from 1 to 0.164 at step 8"),
        (3, 10, 14, None),
        (14, 10, 14, None),
    ],
)
def test_a_jump_up_or_down_is_told_and_nothing_before_the_decay(step, planned, steps, said):
    options = TrainOptions(lr=1.0, steps=steps, warmup=0, decay=0.5)
    told = describe_jump(step, planned, options)
    assert told is None if said is None else said in told
