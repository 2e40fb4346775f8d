"""Rows with several references: which panels go together, what a batch holds, and a training of them."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dsd.files.pairs import Pairs, join_pairs, read_pairs
from dsd.model import latents
from dsd.model.checkpoint import load_pipeline
from dsd.model.presets import LORA
from dsd.training import estimate
from dsd.training.batches import Batches
from dsd.training.data import encode
from dsd.training.loop import frame_weights, start
from dsd.training.options import TrainingError, TrainOptions
from dsd.training.references import choose, find_further
from dsd.training.student import find_base
from tests import student, tiny

PLAIN = {"batch": 4, "accumulate": 1, "text_dropout": 0.0, "condition_dropout": 0.0, "instruction_prob": 0.0}
CANVAS, FRAME = 8, 4  # tokens


def row(grid: str, conditioning: int, target: int) -> dict:
    seed = 10 * sum(map(ord, grid))
    images = {"conditioning": tiny.image(seed + conditioning), "target": tiny.image(seed + target)}
    return student.pair(target, **images) | {"id": f"{grid}-{conditioning}-{target}", "grid": grid}


def rows_of(grid: str, kept: str) -> list[dict]:
    """Both orders of pairs such as `01 02`."""
    return [row(grid, *order) for pair in kept.split() for order in permutations(map(int, pair))]


WHOLE = "01 02 03 12 13 23"


def whole(rows: list[dict], most: int) -> dict[str, list[str]]:
    further = find_further(rows, range(len(rows)), most)
    return {one["id"]: [rows[i]["id"] for i in more] for one, more in zip(rows, further, strict=True)}


# ---------------------------------------------------------------- which panels go together


def test_panels_that_were_all_kept_with_each_other_are_added():
    found = whole(rows_of("g", WHOLE) + rows_of("h", "01"), 3)
    assert found["g-0-3"] == ["g-1-3", "g-2-3"] and found["g-2-0"] == ["g-1-0", "g-3-0"]
    assert found["h-0-1"] == found["h-1-0"] == []
    assert whole(rows_of("g", WHOLE), 2)["g-0-3"] == ["g-1-3"]


def test_a_panel_that_was_rejected_beside_any_other_is_left_out():
    found = whole(rows_of("g", "01 02 12 13 23") + rows_of("h", WHOLE), 3)  # 0 and 3 of g do not match
    assert found["g-0-1"] == ["g-2-1"] and found["g-1-2"] == ["g-0-2"] and found["g-3-1"] == ["g-2-1"]


def test_grids_whose_names_hold_numbers_are_told_apart():
    rows = rows_of("g-1", WHOLE) + rows_of("g", WHOLE)
    assert all(one.rsplit("-", 2)[0] == name.rsplit("-", 2)[0] for name, more in whole(rows, 3).items()
               for one in more)  # fmt: skip


def test_one_reference_asks_for_nothing():
    assert find_further([{"id": None}], [0], 1) == ()


@pytest.mark.parametrize(
    ("rows", "most", "highest"),
    [(student.pairs(), 2, 1), (rows_of("g", "01"), 2, 1), (rows_of("g", WHOLE), 4, 3)],
)
def test_more_references_than_any_row_has_are_refused(rows, most, highest):
    with pytest.raises(
        TrainingError, match=rf"references is {most}, but .* at most {highest} .* --references {highest}"
    ):
        find_further(rows, range(len(rows)), most)


def read_from_files(rows: list[dict], folder: Path) -> Pairs:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = {name: [one[name] for one in rows] for name in ("id", "grid", "caption")}
    table |= {name: [{"bytes": b"no image", "path": None}] * len(rows) for name in ("conditioning", "target")}
    folder.mkdir(exist_ok=True)
    parquet.write_table(pa.table(table), folder / "train.parquet", row_group_size=5)
    return read_pairs(folder)


def test_grids_of_joined_datasets_are_told_apart(tmp_path):
    rows = rows_of("g", WHOLE)
    pairs = [read_from_files(rows, tmp_path / name) for name in ("one", "two")]
    alone, both = find_further(rows, range(12), 3), find_further(join_pairs(pairs), range(24), 3)
    assert both == [*alone, *(tuple(12 + row for row in more) for more in alone)]


def test_the_columns_are_read_from_files_without_images(tmp_path):
    rows = rows_of("g", WHOLE)
    pairs = read_from_files(rows, tmp_path)
    assert find_further(pairs, range(12), 3) == find_further(rows, range(12), 3)
    assert pairs.read_texts("id", "reason")[3] == (None, None), "a column that is not there"


def test_numbers_of_references_are_equally_likely_and_their_order_is_random():
    further = find_further(rows_of("g", WHOLE), range(12), 3)
    chosen = [choose(further, np.arange(12), 0, step) for step in range(200)]
    counts = [{len(shown) for shown in step} for step in chosen]
    assert all(len(one) == 1 for one in counts)
    assert np.allclose([np.mean([n in one for one in counts]) for n in (1, 2, 3)], 1 / 3, atol=0.1)
    pairs = {tuple(step[0]) for step in chosen if len(step[0]) == 3}
    assert pairs == {(0, *order) for order in permutations(further[0])}
    assert chosen[7] == choose(further, np.arange(12), 0, 7) != choose(further, np.arange(12), 1, 7)


# ---------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = rows_of("g", WHOLE) + rows_of("h", "01 02 12") + rows_of("i", "01")
    options = TrainOptions(text_tokens=8, references=3)
    return encode(rows, tiny.pipeline(), options, tmp_path_factory.mktemp("cache"), "cpu")


def made(data, *place: int, **options) -> Batches:
    return Batches(data, TrainOptions(**{**PLAIN, "references": 3, **options}), *place)


def test_rows_of_other_counts_are_in_other_steps_and_all_come(data):
    counts, rows = set(), set()
    for step in range(60):
        (batch,) = made(data).step(step)
        places = made(data).order.rows(step)
        rows |= set(places.tolist())
        assert len({len(data.further[place]) for place in places}) == 1
        counts.add((batch.data.shape[1] - CANVAS) // FRAME)
    assert counts == {0, 1, 2} and rows == set(range(len(data)))


def test_a_further_frame_is_the_panels_own_condition_in_both_inputs(data):
    step = next(step for step in range(60) if made(data).step(step)[0].data.shape[1] == CANVAS + 2 * FRAME)
    (batch,), rows = made(data).step(step), made(data).order.rows(step)
    shown = choose(data.further, rows, 0, step)
    for sample, (_, *more) in enumerate(shown):
        for place, other in enumerate(more):
            condition = torch.cat(
                [data.latents.read(key)[0] for key in data.entries[other].condition], dim=-1
            )
            left = latents.pack(condition[None, ..., : condition.shape[-1] // 2].float())[0]
            tokens = slice(CANVAS + place * FRAME, CANVAS + (place + 1) * FRAME)
            assert torch.equal(batch.data[sample, tokens], left)
            assert torch.equal(batch.condition[sample, tokens], left)


def test_the_canvas_does_not_depend_on_further_references(data):
    for step in range(6):
        (several,), (one,) = made(data).step(step), made(data, references=1).step(step)
        assert one.data.shape[1] == CANVAS
        for name in ("data", "condition", "noise"):
            assert torch.equal(getattr(several, name)[:, :CANVAS], getattr(one, name))


def test_the_references_are_dropped_together_and_stay_in_the_data(data):
    for step in range(12):
        (batch,) = made(data, condition_dropout=1.0).step(step)
        assert batch.condition.abs().max() == 0 and (batch.data.abs().amax((1, 2)) > 0).all()


def test_processes_share_out_the_same_samples(data):
    for step in range(6):
        (joint,) = made(data, batch=8).step(step)
        shares = [made(data, process, 2, batch=4).step(step)[0] for process in (0, 1)]
        for name in ("data", "condition", "noise"):
            assert torch.equal(torch.cat([getattr(one, name) for one in shares]), getattr(joint, name))


def test_several_references_weigh_as_much_as_one():
    weights = frame_weights((48, 32), 8, (0.3, 1.0), 3)[0, :, 0]
    assert len(weights) == 12 + 2 * 6 and weights[12:].eq(weights[0]).all()
    assert weights.sum().item() == pytest.approx(frame_weights((48, 32), 8, (0.3, 1.0)).sum().item())


# ---------------------------------------------------------------- a training


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return student.teacher(tmp_path_factory.mktemp("teacher"))


ROWS = rows_of("g", WHOLE) + rows_of("i", "01")
QUICK = {"references": 3, "rows": ROWS, "save_every": 2, "steps": 6}


@pytest.fixture(scope="module")
def trained(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    student.run(teacher, out, **QUICK)
    return out


def test_the_folder_and_the_lora_say_how_many_references_they_know(teacher, trained):
    own, lora = load_pipeline(trained), load_pipeline(teacher, weights=trained / "lora" / LORA)
    assert own.trained_references == lora.trained_references == 3
    shown = [[tiny.image(seed) for seed in range(3)]]
    assert tiny.draw(own, image=shown).shape[1] == CANVAS + 2 * FRAME
    with pytest.raises(ValueError, match="trained with 3 references, got 4"):
        tiny.draw(own, image=[[*shown[0], tiny.image(9)]])


def test_a_training_that_was_stopped_ends_in_the_same_weights(teacher, trained, tmp_path):
    student.run(teacher, tmp_path, **QUICK | {"steps": 3})
    student.run(teacher, tmp_path, **QUICK)
    ours, theirs = (load_file(out / "lora" / LORA) for out in (tmp_path, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(TrainingError, match="started with references 3, but now it is 2"):
        student.run(teacher, tmp_path, **QUICK | {"references": 2})


def test_a_cache_that_drops_rows_is_refused():
    with pytest.raises(TrainingError, match="references=2 needs all rows of a grid, but cache_gb=1"):
        TrainOptions(references=2, cache_gb=1)
    with pytest.raises(TrainingError, match="references must be a whole number from 1 to 4, got 5"):
        TrainOptions(references=5)


def test_the_plan_counts_the_largest_canvas_and_the_mean_work(teacher):
    options = student.options(teacher)
    base = find_base(options)
    one, three = (
        estimate.make(base, replace(options, references=n), start(options), rows=10) for n in (1, 3)
    )
    text = 16
    assert three.activations == pytest.approx(one.activations * (16 + text) / (8 + text))
    assert one.flops < three.flops < 2 * one.flops and three.disk == one.disk
