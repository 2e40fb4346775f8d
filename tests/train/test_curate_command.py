"""`python -m train.curate`: grids in, judged pairs and captions out, and mistakes in a sentence."""

from dataclasses import replace

import pytest

from dsd.files import jsonl, whole
from dsd.files.jsonl import RunError
from dsd.grids.recipes import CRITTERS, RECIPES
from tests.judging import BLUE, DARK_RED, ORANGE, RED, FakeEyes, FakeJudge, by_colors, make_run
from train import command, curate


@pytest.fixture
def judge(monkeypatch) -> FakeJudge:
    """Whatever judge the command opens, it is this one."""

    def said(request) -> str:
        return by_colors(request) if request.question == CRITTERS.compare else "a red critter on the beach"

    judge = FakeJudge(said)
    monkeypatch.setattr(curate, "open_vlm", lambda name, **options: judge)
    eyes = {"ranker": FakeEyes()}
    monkeypatch.setattr(curate, "_open_embedder", lambda name, vlm, device: eyes.get(name))
    monkeypatch.setitem(RECIPES, "critters", replace(CRITTERS, thresholds={}))  # those are the ranker's
    return judge


def test_the_command_judges_captions_and_tells_what_it_did(tmp_path, judge, capsys):
    run = make_run(tmp_path, (RED, DARK_RED, ORANGE, BLUE), (RED, ORANGE), (RED, BLUE))
    assert curate.main([str(run), "--judge", "pocket"]) == 0
    told = capsys.readouterr().out
    assert (
        "8 pairs of 3 grids, 3 kept (37.5%)" in told and "4 too different" in told and "1 too alike" in told
    )
    assert "this process asked 3 questions" in told and "6 captions, 0 of them cut" in told
    assert len(jsonl.read(run / "pairs.jsonl")) == 8 and jsonl.shards(run / "pairs.jsonl") == []
    captions = jsonl.read(run / "captions.jsonl")
    assert {row["id"] for row in captions} == {
        "000000-0-2", "000000-2-0", "000000-1-2", "000000-2-1", "000001-0-1", "000001-1-0",
    }  # fmt: skip
    asked = len(judge.requests)
    assert curate.main([str(run), "--judge", "pocket"]) == 0
    assert len(judge.requests) == asked and "asked 0 questions" in capsys.readouterr().out
    assert jsonl.read(run / "captions.jsonl") == captions


@pytest.mark.parametrize("mode", [["RUN"], ["--grade", "--count", "16", "--out", "RUN"]])
def test_no_judge_is_opened_where_another_command_writes(tmp_path, monkeypatch, mode):
    run = make_run(tmp_path, (RED, ORANGE))
    monkeypatch.setattr(curate, "open_vlm", lambda *_, **__: pytest.fail("a judge was opened"))
    arguments = [str(run) if part == "RUN" else part for part in mode]
    name = "grades" if "--grade" in mode else "pairs"
    with whole.locked(run / name), pytest.raises(RunError, match="another command is writing"):
        curate.main([*arguments, "--judge", "pocket"])


@pytest.mark.parametrize("name", ["pairs.jsonl", "captions.jsonl"])
@pytest.mark.parametrize("lost", [1, 700])
def test_what_a_damaged_disk_cut_off_is_asked_again_and_nothing_else(tmp_path, judge, name, lost):
    """The cut goes through the rows of the last grid; no other grid is asked about."""
    run = make_run(tmp_path, (RED, ORANGE), (RED, ORANGE, DARK_RED, "#ff9000"))
    arguments = [str(run), "--judge", "pocket", "--batch", "1"]
    curate.main(arguments)
    files = {file: file.read_bytes() for file in (run / "pairs.jsonl", run / "captions.jsonl")}
    asked = [*judge.requests]
    (run / name).write_bytes((run / name).read_bytes()[:-lost])
    judge.requests.clear()
    curate.main(arguments)
    assert {file: file.read_bytes() for file in files} == files
    again = [(one.question, *(image.tobytes() for image in one.images)) for one in judge.requests]
    before = [(one.question, *(image.tobytes() for image in one.images)) for one in asked]
    assert 0 < len(again) < len(before) and len({*again}) == len(again) and {*again} <= {*before}
    judge.requests.clear()
    curate.main(arguments)
    assert judge.requests == []


def test_the_command_applies_stricter_thresholds_to_what_is_there(tmp_path, judge, capsys):
    run = make_run(tmp_path, (RED, ORANGE), (RED, "#ff9000"))
    curate.main([str(run), "--judge", "pocket", "--no-captions"])
    assert not (run / "captions.jsonl").exists()
    kept = sorted(pair["similarity"] for pair in jsonl.read(run / "pairs.jsonl"))
    asked = len(judge.requests)
    curate.main([str(run), "--redecide", "--floor", str(sum(kept) / 2)])
    assert len(judge.requests) == asked and "2 pairs of 2 grids, 1 kept (50.0%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "no run given"),
        (["RUN"], "no judge given"),
        (["RUN", "--judge", "pocket", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["RUN", "--judge", "pocket", "--votes", "3", "2"], "needed votes must be in 1..2"),
        (["RUN", "--judge", "pocket", "--floor", "0.99"], "floor and ceiling"),
        (["RUN", "--judge", "pocket", "--minimum-score", "4"], "minimum_score was 3, now 4"),
        (["RUN", "--judge", "pocket", "--recipe", "identity"], "recipe was 'critters', now 'identity'"),
        (["RUN", "--judge", "pocket", "--embedder", "none"], "embedder was 'tiny eyes', now None"),
        (["--grade", "RUN", "--judge", "pocket", "--out", "grades"], "leave out RUN"),
        (["nowhere", "--judge", "pocket"], "nothing to judge in nowhere: there are no grids"),
        (["nowhere", "--redecide"], "no judged pairs"),
        (["nowhere", "--worth"], "no judged pairs"),
        (["RUN", "--redecide", "--judge", "pocket"], "--judge would have no effect beside --redecide"),
        (["RUN", "--worth", "--votes", "1", "2"], "--votes would have no effect beside --worth: drop it"),
        (["RUN", "--judge", "pocket", "--size", "64"], "--size would have no effect without --grade: add"),
        (["--grade", "--judge", "pocket"], "give --out FOLDER"),
        (["--grade", "--judge", "pocket", "--out", "grades", "--count", "21"], "must be even"),
        (["--grade", "--out", "grades", "--recipe", "relight"], "no drawn pairs for the changes of relight"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_exit_code_2(
    tmp_path, judge, capsys, monkeypatch, flags, sentence
):
    run = make_run(tmp_path / "run", (RED, ORANGE))
    curate.main([str(run), "--judge", "pocket", "--no-captions"])
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: curate.main([str(run) if flag == "RUN" else flag for flag in flags]))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and sentence in error.splitlines()[-1] and "Traceback" not in error


def test_a_folder_of_grids_that_were_all_rejected_says_so(tmp_path, judge):
    run = make_run(tmp_path, (RED, ORANGE), rejected="no gutters")
    with pytest.raises(RunError, match="all 1 grids were rejected"):
        curate.main([str(run), "--judge", "pocket"])
