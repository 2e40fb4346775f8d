"""A run of prompts is continued row for row, and never with other settings."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from dsd.files import jsonl
from dsd.grids import prompts
from tests.writing import PETS, Fake, pairs, rng, written


@pytest.mark.parametrize("cut", [1, 300, 2500, 4000])
def test_a_run_that_was_cut_anywhere_is_completed_row_for_row(tmp_path, cut):
    whole = (written(tmp_path / "whole"), tmp_path / "whole" / "prompts.jsonl")[1].read_bytes()
    path = tmp_path / "cut" / "prompts.jsonl"
    path.parent.mkdir()
    path.write_bytes(whole[:-cut])
    written(path.parent)
    assert path.read_bytes() == whole


def test_more_rows_asked_for_later_are_added_and_fewer_remove_none(tmp_path):
    whole = written(tmp_path / "whole")
    assert written(tmp_path / "parts", count=5) == whole[:5]
    assert written(tmp_path / "parts") == whole
    assert written(tmp_path / "parts", count=2) == whole


def test_another_seed_gives_other_prompts(tmp_path):
    one, other = written(tmp_path / "one"), written(tmp_path / "other", seed=4)
    assert not {row["prompt"] for row in one} & {row["prompt"] for row in other}
    assert not {row["seed"] for row in one} & {row["seed"] for row in other}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 4}, "seed was 3000000, now 4000000"),
        ({"rows": 2}, "rows was 1, now 2"),
        ({"recipe": "critters", "captions": None}, "recipe was 'identity', now 'critters'"),
        ({"vlm": Fake()}, "writer was 'template', now 'fake'"),
        ({"captions": ["a blue car"]}, "caption was 'a photo of a red fox in the snow', now 'a blue car'"),
    ],
)
def test_a_run_is_not_continued_with_other_settings(tmp_path, changes, difference):
    before = written(tmp_path, PETS, **pairs())
    with pytest.raises(
        jsonl.RunError, match=f"made with other settings .{difference}.*: use those again, or another folder"
    ):
        written(tmp_path, **pairs(captions=PETS) | changes)
    assert jsonl.read(tmp_path / "prompts.jsonl") == before


@pytest.mark.parametrize("change", [{"batch": 3}, {"name": "other"}])
def test_answers_are_only_used_for_the_questions_they_answer(tmp_path, change):
    written(tmp_path, PETS, Fake(), **pairs(count=1))
    (tmp_path / "prompts.jsonl").unlink()
    vlm = Fake()
    vars(vlm).update(change)
    if "name" in change:
        with pytest.raises(
            jsonl.RunError, match="writer.jsonl was made with other settings .writer was 'fake', now 'other'"
        ):
            written(tmp_path, PETS, vlm, **pairs())
    else:
        assert len(written(tmp_path, PETS, vlm, **pairs())) == 3 and vlm.asked == []


def test_an_edited_row_is_not_built_upon(tmp_path):
    made = written(tmp_path)
    made[4]["prompt"] = "something else"
    with jsonl.writing(tmp_path / "prompts.jsonl") as append:
        (tmp_path / "prompts.jsonl").write_text("")
        append(made)
    with pytest.raises(
        jsonl.RunError, match="row 000004 was made with other settings .prompt was 'something else'"
    ):
        written(tmp_path)


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    """More often half done."""
    monkeypatch.setattr(prompts, "BLOCK", 5)


def write_in_blocks(run: Path, model: bool) -> None:
    if model:
        captions = [f"a photo of a toy called {i:04}" for i in range(70)]
        written(run, captions, Fake(wait=0.001), **pairs(count=60))
    else:
        written(run, count=100)


def content(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.glob("*.jsonl")}


@pytest.mark.usefixtures("small_blocks")
def test_answers_that_a_killed_command_left_are_removed_at_the_end(tmp_path):
    write_in_blocks(tmp_path, model=True)
    (tmp_path / "answers.0.jsonl").write_text('{"id": "0", "answer": "Yes."}\n')
    write_in_blocks(tmp_path, model=True)
    assert not (tmp_path / "answers.0.jsonl").exists()


@pytest.mark.all_faults
@pytest.mark.usefixtures("small_blocks")
@pytest.mark.skipif(os.name == "nt", reason="forks")
@pytest.mark.parametrize("model", [False, True])
def test_runs_killed_at_twenty_random_moments_equal_an_uninterrupted_one(tmp_path, model):
    fork, generator, begun = multiprocessing.get_context("fork"), rng(7), time.monotonic()
    whole = fork.Process(target=write_in_blocks, args=(tmp_path / "whole", model))
    whole.start()
    whole.join()
    took = time.monotonic() - begun
    kills, run = 0, 0
    while kills < 20 and run < 20:
        child = fork.Process(target=write_in_blocks, args=(tmp_path / str(run), model))
        child.start()
        child.join(generator.uniform(0, 0.4 * took))
        child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        run += child.exitcode == 0  # it was done before: on with a new one
        assert child.exitcode in (0, -signal.SIGKILL)
    write_in_blocks(tmp_path / str(run), model)
    assert kills == 20
    for number in range(run + 1):
        assert content(tmp_path / str(number)) == content(tmp_path / "whole")
