"""Pairs are read from our datasets and from the published one, in order, by index and by threads."""

import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image, ImageChops

from dsd.curation.dataset import write_dataset
from dsd.files.pairs import COLUMNS, column_names, join_pairs, read_pairs
from dsd.files.parquet import PairsError
from tests import wheel
from tests.parquet_files import IMAGE, image, published, write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = wheel.make_run(tmp_path_factory.mktemp("run"))
    write_dataset(folder, folder / "dataset", shard_rows=5)  # 12 rows in files of 5, 5 and 2
    return folder


def same(one: dict, other: dict) -> bool:
    """Rows with equal texts and pixels."""
    images = [(one[name], other[name]) for name in ("conditioning", "target")]
    texts = [{k: v for k, v in row.items() if not isinstance(v, Image.Image)} for row in (one, other)]
    return texts[0] == texts[1] and not any(ImageChops.difference(*pair).getbbox() for pair in images)


# ---------------------------------------------------------------- in order and by index


def test_rows_come_in_order_with_every_column_and_decoded_images(run):
    rows = list(read_pairs(run))
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows) and len(rows) == 12
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert {row["target"].size for row in rows} == {(wheel.SIZE, wheel.SIZE)}
    assert {row["conditioning"].mode for row in rows} == {"RGB"}


def test_an_index_finds_the_same_row_as_going_through_in_order(run):
    pairs = read_pairs(run)
    rows = list(pairs)
    assert len(pairs) == len(rows)
    assert all(same(pairs[i], rows[i]) and same(pairs[i - 12], rows[i]) for i in (11, 0, 5, 4, 9, 10))
    with pytest.raises(IndexError, match="12 among 12"):
        pairs[12]


def test_an_index_counts_over_row_groups_of_any_size(tmp_path):
    pairs = read_pairs(published(tmp_path / "data.parquet", 5))
    assert [pairs[i]["caption"] for i in range(5)] == [f"words {i}" for i in range(5)]


def test_a_run_its_dataset_and_a_file_can_be_opened(run):
    assert len(read_pairs(run)) == len(read_pairs(run / "dataset")) == 12
    assert len(read_pairs(run / "dataset" / "train-00001-of-00003.parquet")) == 5


def test_a_dataset_can_be_sent_to_another_process(run):
    pairs = read_pairs(run)
    assert pairs[3]
    assert same(pickle.loads(pickle.dumps(pairs))[3], pairs[3])


# ---------------------------------------------------------------- other people's columns


def test_the_published_layout_is_read_by_the_same_code(tmp_path):
    row = read_pairs(published(tmp_path / "data" / "train-00000-of-00001.parquet"))[1]
    assert row["caption"] == "words 1" and row["instruction"] is None
    assert row["id"] == "train-00000-of-00001-1"
    assert row["conditioning"].getpixel((4, 4))[0] > 200 and row["target"].getpixel((4, 4))[2] > 200


def test_columns_can_be_named(tmp_path):
    file = write(
        tmp_path / "a.parquet",
        conditioning=[image("red")],
        x=[image("lime")],
        y=[image("blue")],
        t=["w"],
    )
    row = read_pairs(file, columns={"target": "y", "caption": "t"})[0]
    assert row["target"].getpixel((0, 0)) == (0, 0, 255) and row["caption"] == "w"


@pytest.mark.parametrize(
    ("columns", "given", "words"),
    [
        (
            {"conditioning": image("red"), "a": image("red"), "b": image("red"), "caption": "w"},
            {},
            "fit: target",
        ),
        ({"conditioning": image("red"), "target": image("red"), "text": "w"}, {}, "fit: caption"),
        ({"conditioning": image("red"), "target": "w", "caption": "w"}, {}, "fit: target"),
        ({"conditioning": image("red"), "a": image("red"), "caption": "w"}, {"target": "b"}, "fit: b"),
        ({"conditioning": image("red"), "a": image("red"), "caption": "w"}, {"goal": "a"}, "fit: goal"),
    ],
)
def test_columns_that_do_not_fit_are_named_with_those_there_are(tmp_path, columns, given, words):
    file = write(tmp_path / "a.parquet", **{name: [value] for name, value in columns.items()})
    with pytest.raises(PairsError, match=words) as caught:
        read_pairs(file, columns=given)
    assert all(name in str(caught.value) for name in columns)


def test_lists_of_images_and_addresses_are_explained(tmp_path):
    pictures = pyarrow.array([[image("red"), image("blue")]], pyarrow.list_(IMAGE))
    file = write(tmp_path / "a.parquet", conditioning=["https://x.org/a.png"], target=pictures, caption=["w"])
    with pytest.raises(
        PairsError, match="conditioning .string., target .lists of images., caption"
    ) as caught:
        read_pairs(file)
    assert "fit: conditioning, target" in str(caught.value) and "one row each" in str(caught.value)


def test_columns_nobody_knows_are_left_out():
    schema = pyarrow.schema({"conditioning": IMAGE, "target": IMAGE, "caption": "string", "mood": "string"})
    assert set(column_names(schema)) == {"conditioning", "target", "caption"}


def test_other_splits_stay_out(tmp_path):
    for name in ("data/train-0", "data/test-0", "validation/0"):
        published(tmp_path / f"{name}.parquet", 2)
    assert len(read_pairs(tmp_path)) == 2
    assert read_pairs(tmp_path, split="validation").files == [(tmp_path / "validation/0.parquet").as_posix()]
    with pytest.raises(PairsError, match="'dev'"):
        read_pairs(tmp_path, split="dev")


def test_a_folder_without_parquet_is_named(tmp_path):
    with pytest.raises(PairsError, match="no parquet files of the split 'train'"):
        read_pairs(tmp_path)


def test_a_limit_keeps_the_first_rows_and_opens_no_more_files_than_it_needs(run):
    few, all_rows = read_pairs(run, max_rows=4), read_pairs(run)
    assert len(few) == 4 and len(all_rows) == len(read_pairs(run, max_rows=99)) == 12
    assert all(same(few[index], all_rows[index]) for index in range(4))
    assert len(pickle.loads(pickle.dumps(few))) == 4 and few._file.cache_info().currsize == 1
    with pytest.raises(IndexError):
        few[4]


def test_datasets_are_joined_in_their_order_if_they_have_the_same_columns(run, tmp_path):
    write_dataset(wheel.make_run(tmp_path / "other", grids=1), tmp_path / "other" / "dataset")
    one, other = read_pairs(run), read_pairs(tmp_path / "other")
    both = join_pairs([one, other])
    assert len(both) == len(one) + len(other) > len(one)
    assert same(both[0], one[0]) and same(both[len(one)], other[0]) and same(both[-1], other[len(other) - 1])
    with pytest.raises(PairsError, match="has the columns .*joined datasets need the same ones"):
        join_pairs([one, read_pairs(published(tmp_path / "data.parquet", 2))])
    with pytest.raises(PairsError, match="a dataset is given twice"):
        join_pairs([one, one])


def test_the_missing_package_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(PairsError, match="pyarrow, which is missing: pip install"):
        read_pairs(run)


def test_threads_that_share_a_dataset_find_what_one_would(tmp_path):
    colors = [(i, 255 - i, i // 2) for i in range(120)]
    file = write(
        tmp_path / "train-0.parquet", group=7, caption=[f"words {i}" for i in range(120)],
        conditioning=[image(color) for color in colors], target=[image(color) for color in colors],
    )  # fmt: skip
    shared = read_pairs(file)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(shared.__getitem__, range(len(shared))))
    assert [row["target"].getpixel((0, 0)) for row in found] == colors
