"""The wheel of the tasks relight and edit behind a server: prompts, judging, captions and a dataset."""

import pytest

from dsd.files import jsonl, pairs
from dsd.files.jsonl import RunError
from dsd.grids.recipes import RECIPES
from tests.chat.server import Chat, serving
from tests.judging import BLUE, RED, make_run
from train import command, curate, dataset, prompts

BRIGHT, DIM, SAME = RED, "#900000", "#fb0000"
FLAGS = ["--embedder", "none"]


@pytest.mark.parametrize("task", ["relight", "edit"])
def test_a_run_keeps_the_pairs_with_one_change_and_words_it(tmp_path, task, capsys):
    (tmp_path / "captions.txt").write_text("a red fox in the snow\na grey cat on a sofa\n")
    run, chat = tmp_path / "run", Chat()
    with serving(chat) as address:
        asked = ["--count", "2", "--recipe", "identity", "--captions", str(tmp_path / "captions.txt")]
        assert prompts.main([str(run), *asked, "--task", task, "--writer", address]) == 0
        assert {row["recipe"] for row in jsonl.read(run / "prompts.jsonl")} == {task}
        make_run(run, (BRIGHT, DIM, SAME, BLUE), (BRIGHT, SAME), recipe=task)
        assert curate.main([str(run), "--judge", address, *FLAGS]) == 0
    judged = {row["id"]: row["reason"] for row in jsonl.read(run / "pairs.jsonl")}
    assert {name for name, reason in judged.items() if reason == "same subject"} == {
        "000000-0-1",
        "000000-1-2",
    }
    assert judged["000000-0-2"] == judged["000001-0-1"] == "nothing changes"
    assert judged["000000-0-3"] == "judged different" and "2 kept" in capsys.readouterr().out
    assert dataset.main([str(run)]) == 0
    assert f"# Pairs of {RECIPES[task].pairs}" in (run / "dataset" / "README.md").read_text()
    rows = pairs.read_pairs(run)
    assert len(rows) == 4 and all(row["instruction"] and row["caption"] for row in rows)


def test_a_run_is_judged_by_a_recipe_of_its_own_task(tmp_path, capsys):
    run = make_run(tmp_path / "run", (BRIGHT, DIM), recipe="relight")
    with serving(Chat()) as address, pytest.raises(SystemExit):
        command.run(lambda: curate.main([str(run), "--judge", address, *FLAGS, "--recipe", "edit"]))
    assert "a run has grids of one task, got edit and relight" in capsys.readouterr().err
    mixed = make_run(tmp_path / "mixed", (BRIGHT, DIM), recipe="identity")
    with jsonl.writing(mixed / "grids" / "grids.jsonl") as append:
        (row,) = jsonl.read(mixed / "grids" / "grids.jsonl")
        append([row | {"id": "000001", "recipe": "edit"}])
    with serving(Chat()) as address, pytest.raises(RunError, match="give each task a run of its own"):
        curate.main([str(mixed), "--judge", address, *FLAGS])
