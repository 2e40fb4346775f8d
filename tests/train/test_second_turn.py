"""The second turn on pocket, command by command, with the embedded teacher and judge.

The drawn grids are painted over in between: with one seed all panels show one critter, with the other four.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState

from dsd.files import jsonl
from dsd.model.presets import LORA
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.world import sample_context, sample_critter
from train import curate, dataset, grids, prompts, teacher

QUICK = "--steps 1 --batch 2 --rank 2 --warmup 1 --share 0.5".split()


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> Path:
    """A judged run of one prompt and two seeds."""
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("turns") / "one"
    assert prompts.main([str(run), "--count", "1"]) == 0
    assert grids.main([str(run), "--steps", "1", "--seeds", "2"]) == 0
    rng, rows = np.random.default_rng(5), jsonl.read(run / "grids" / "grids.jsonl")
    for row, critters in zip(rows, (1, 4), strict=True):
        own = [sample_critter(rng) for _ in range(critters)]
        panels = [draw(own[i % critters], sample_context(rng), row["panel"]) for i in range(4)]
        draw_grid(panels, 2).save(run / "grids" / row["file"])
    jsonl.write_rows(run / "grids" / "grids.jsonl", [row | {"rejected": None, "boxes": None} for row in rows])
    assert (
        curate.main([str(run), "--judge", "pocket", "--no-captions", "--floor", "-1", "--ceiling", "1"]) == 0
    )
    yield run
    PartialState._reset_state()


def test_the_teacher_learns_from_its_kept_grids_and_draws_the_next(first, capsys):
    assert teacher.main([str(first), "--model", "pocket", *QUICK]) == 0
    assert "on 1 grids that pocket drew" in capsys.readouterr().out
    second = first.with_name("two")
    jsonl.write_rows(second / "prompts.jsonl", jsonl.read(first / "prompts.jsonl"))
    lora = str(first / "teacher" / LORA)
    assert grids.main([str(second), "--steps", "1", "--teacher-lora", lora]) == 0
    (row,) = jsonl.read(second / "grids" / "grids.jsonl")
    assert row["license"] == "Apache-2.0" and row["teacher_lora"]["run"] == "one"
    assert row["generator_hash"] != jsonl.read(first / "grids" / "grids.jsonl")[0]["generator_hash"]


def test_what_the_judge_rejected_is_a_preference(first):
    out = first.with_name("preferences")
    assert dataset.main([str(first), "--preferences", str(out)]) == 0
    assert "judged different" in (out / "README.md").read_text() and list(out.glob("*.parquet"))
