"""A dataset has the right pairs, the right words, and the order that was asked for."""

import json
from pathlib import Path

import pytest
from PIL import ImageChops

from dsd.curation.dataset import write_dataset
from dsd.curation.selection import Choice, read_run
from dsd.files.jsonl import RunError
from dsd.files.pairs import read_pairs
from tests import wheel

GRID = "000001"


@pytest.fixture
def run(tmp_path):
    return wheel.make_run(tmp_path / "run")


def rows(run: Path, choice: Choice | None = None) -> list[dict]:
    """What the dataset of this choice holds, without its images."""
    return write_dataset(run, run / "out", choice).rows


def ids(run: Path, **choice: object) -> list[str]:
    return [row["id"] for row in rows(run, Choice(**choice))]


def test_both_orders_of_what_the_judge_kept_are_there_and_nothing_else(run):
    assert [name for name in ids(run) if name.startswith(GRID)] == [
        f"{GRID}-{k}" for k in ("0-1", "1-0", "1-3", "3-1")
    ]
    assert len(ids(run)) == 12


def test_images_are_the_panels_of_the_grid_to_the_pixel(run):
    written = write_dataset(run, run / "dataset")
    assert len(written.rows) == 12
    for row in read_pairs(run):
        _, one, other = row["id"].split("-")
        for name, place in (("conditioning", one), ("target", other)):
            cut = wheel.panel(run, row["grid"], int(place)).convert("RGB")
            assert row[name].tobytes() == cut.tobytes()


def test_the_margin_is_cut_away(tmp_path):
    run = wheel.make_run(tmp_path, grids=1, margin=2)
    write_dataset(run, run / "dataset")
    row = read_pairs(run)[0]
    inner = wheel.panel(run, "000000", 0).crop((2, 2, wheel.SIZE - 2, wheel.SIZE - 2))
    assert row["conditioning"].size == inner.size
    assert not ImageChops.difference(row["conditioning"], inner).getbbox()


def test_a_row_says_where_it_comes_from(run):
    row = next(row for row in rows(run) if row["id"] == f"{GRID}-3-1")
    assert row["caption"] == "caption of 1" and row["instruction"] == "from 3 to 1"
    assert row["seed"] == 7 and row["generator_hash"] == "0123456789ab" and row["judge"] == "a tiny judge"
    assert json.loads(row["scores"]) == {"color": 4, "eyes": 3} and row["reason"] == "same subject"


def test_the_floor_and_all_are_there_for_comparison(run):
    assert len(ids(run, which="floor")) == 3 * 4 * 2
    assert len(ids(run, which="all")) == 3 * 6 * 2
    reasons = {row["reason"] for row in rows(run, Choice(which="floor"))}
    assert reasons == {"same subject", "judged different", "unreadable"}


def test_words_that_nobody_wrote_are_the_grids_own_and_say_so(run):
    grid = next(iter(read_run(run).grids.values()))
    found = {row["id"]: row for row in rows(run, Choice(which="all"))}
    assert found["000000-1-0"]["caption_writer"] == "a tiny judge"
    row = found["000000-0-2"]
    assert (row["caption"], row["instruction"]) == (
        f"a {grid.subject} {grid.places[2]}",
        grid.places[2],
    )
    assert row["caption_writer"] == "grid"


def test_the_same_words_for_all_can_be_asked_for(run):
    assert {row["caption_writer"] for row in rows(run, Choice(which="all", words="grid"))} == {"grid"}


def test_a_kept_pair_without_a_caption_is_refused(run):
    wheel.change(run / "captions.jsonl", lambda row: None if row["id"] == f"{GRID}-3-1" else row)
    with pytest.raises(RunError, match=f"1 of 12 rows have no caption yet, such as {GRID}-3-1"):
        rows(run)
    assert len(ids(run, words="grid")) == 12


def test_samples_are_of_equal_size_keep_both_orders_and_grow(run):
    small, large = ids(run, which="all", max_rows=8), ids(run, which="all", max_rows=20)
    assert len(small) == 8 and len(large) == 20 and set(small) < set(large)
    assert {"-".join([grid, b, a]) for grid, a, b in (name.split("-") for name in small)} == set(small)
    assert set(small) != set(ids(run, which="all", max_rows=8, seed=1))
    assert len(ids(run, max_rows=100)) == 12


def test_shuffling_is_an_order_and_its_seed_decides(run):
    plain, one, other = ids(run), ids(run, shuffle=True), ids(run, shuffle=True, seed=1)
    assert sorted(one) == sorted(other) == plain and plain != one != other
    assert ids(run, shuffle=True) == one


def test_a_person_overrules_the_judge_if_asked_to(run):
    said = [("0-1", "keep"), ("0-1", "drop"), ("0-3", "keep")]  # of several on one pair, the last counts
    wheel.append(run / "labels.jsonl", [{"id": f"{GRID}-{k}", "label": v, "time": "t"} for k, v in said])
    assert len(ids(run)) == 12
    names = ids(run, labels=True)
    assert f"{GRID}-0-1" not in names and {f"{GRID}-0-3", f"{GRID}-3-0"} < set(names)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"which": "best"}, "'best'"),
        ({"words": "mine"}, "'mine'"),
        ({"max_rows": 7}, "even.*got 7"),
        ({"max_rows": 0}, "got 0"),
        ({"which": "all", "labels": True}, "must be 'judge', got 'all'"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        Choice(**choice)
