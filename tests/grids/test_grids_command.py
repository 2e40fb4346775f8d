"""The command that draws grids: its report, its flags, several seeds of each prompt."""

import shutil
from dataclasses import replace

import pytest
from accelerate import PartialState

from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.grids import grids
from tests.grids.drawn_run import Fake, make_run
from train import grids as command


@pytest.fixture
def fake(monkeypatch) -> Fake:
    fake = Fake()

    def open_fake(name: str, *, batch: int | None = None, **options) -> Fake:
        fake.settings = fake.settings if batch is None else replace(fake.settings, batch=batch)
        return fake

    monkeypatch.setattr("dsd.grids.teacher.load_teacher", open_fake)
    yield fake
    PartialState._reset_state()


def test_the_command_draws_reports_and_goes_on(tmp_path, fake, capsys):
    run = make_run(tmp_path / "run")
    assert command.main([str(run), "--batch", "4"]) == 0
    told = capsys.readouterr()
    assert "20 grids in " in told.out and "14 kept, 3 gutters, 3 prompt too long; " in told.out
    assert "20/20" in told.err and "14 kept" in told.err and "grid/s" in told.err
    assert max(map(len, fake.asked)) == 4
    drawn = len(fake.asked)
    (run / "grids" / "000001.png").write_bytes(b"")
    with pytest.raises(RunError, match="--mend"):
        command.main([str(run), "--batch", "4"])
    assert command.main([str(run), "--batch", "4", "--mend"]) == 0 and len(fake.asked) == drawn + 1
    assert "1 grids will be drawn again" in capsys.readouterr().out
    shutil.rmtree(run / "grids")
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        command.main([str(run), "--batch", "0"])


def test_each_prompt_is_drawn_with_several_seeds(tmp_path, fake):
    run = make_run(tmp_path / "run", 3)
    assert command.main([str(run)]) == 0
    before = jsonl.read(grids.table(run))
    assert command.main([str(run), "--seeds", "2"]) == 0
    rows = {row["id"]: row for row in jsonl.read(grids.table(run))}
    assert [rows[f"{i:06}"] for i in range(3)] == before and len(rows) == 6
    for i in range(3):
        first, second = rows[f"{i:06}"], rows[f"{i:06}_1"]
        assert first["prompt"] == second["prompt"] and grids.prompt_id(second["id"]) == first["id"]
    assert len({row["seed"] for row in rows.values()}) == 6
    assert (run / "grids" / "000001.png").read_bytes() != (run / "grids" / "000001_1.png").read_bytes()
    assert max(row["seed"] for row in rows.values()) < 2**32


def test_ids_of_further_seeds_take_no_other_prompts_place(tmp_path):
    prompts = grids.read_prompts(make_run(tmp_path, 2))
    prompts = [prompts[0], replace(prompts[1], id="000000_1")]
    assert grids.with_seeds(prompts, 1) == prompts
    with pytest.raises(RunError, match="--seeds 2 needs the id 000000_1, which another prompt has"):
        grids.with_seeds(prompts, 2)
    with pytest.raises(ValueError, match="--seeds must be at least 1, got 0"):
        grids.with_seeds(prompts, 0)
