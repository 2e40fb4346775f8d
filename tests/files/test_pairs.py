"""Pairs are read from our datasets and from the published one, and nothing damaged is dropped in silence."""

import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from PIL import Image, ImageChops

from dsd.curation.dataset import write_dataset
from dsd.files.hub import LoadError
from dsd.files.pairs import COLUMNS, BadRow, Pairs, column_names, join_pairs, read_pairs
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


def test_a_dataset_with_configurations_names_them(tmp_path, monkeypatch):
    for config, total in (("plain", 1), ("turned", 2)):
        for number in range(total):
            name = f"train-{number:05}-of-{total:05}.parquet"
            published(tmp_path / "datasets" / "a" / "b" / config / name)
    root = tmp_path / "datasets" / "a" / "b"
    with pytest.raises(PairsError, match="2 configurations .plain, turned.* such as .*/plain"):
        read_pairs(root)
    assert len(read_pairs(root / "turned")) == 10
    hub_files(tmp_path, monkeypatch)
    with pytest.raises(PairsError, match="2 configurations"):
        read_pairs("a/b", streaming=True)


# ---------------------------------------------------------------- damage


def readable(pairs: Pairs, bad: list[BadRow]) -> Iterator[dict]:
    """The rows that can be read; the errors of the others go into `bad`."""
    for index in range(len(pairs)):
        try:
            yield pairs[index]
        except BadRow as error:
            bad.append(error)


def test_a_damaged_image_is_named_and_left_to_whoever_reads(tmp_path):
    images = [image(color) for color in ("red", "lime", "blue", "white")]
    images[1]["bytes"] = images[1]["bytes"][:-30]
    images[2]["bytes"] = None
    images[3]["bytes"] = b"no image"
    file = write(tmp_path / "a.parquet", conditioning=[image("red")] * 4, target=images, caption=list("wxyz"))
    bad = []
    assert [row["caption"] for row in readable(read_pairs(file), bad)] == ["w"]
    assert [f"{file} row {i} (a-{i}): the target image" in str(e) for i, e in enumerate(bad, 1)] == [True] * 3
    with pytest.raises(BadRow, match="row 1"):
        list(read_pairs(file))
    with pytest.raises(BadRow, match="row 3"):
        read_pairs(file)[3]


@pytest.mark.parametrize("caption", [None, "", " \n"])
def test_a_row_without_a_caption_is_named(tmp_path, caption):
    captions = pyarrow.array([caption], "string")
    file = write(tmp_path / "a.parquet", conditioning=[image("red")], target=[image("red")], caption=captions)
    with pytest.raises(BadRow, match="row 0 .* has no caption"):
        read_pairs(file)[0]


def test_flipped_bytes_cost_their_own_rows_only(tmp_path):
    file = published(tmp_path / "a.parquet", 6)
    content = bytearray(file.read_bytes())
    place = content.index(b"words 2")
    content[place] ^= 1  # still a fine text, so that only the checksum can tell
    file.write_bytes(content)
    bad = []
    rows = list(readable(read_pairs(file), bad))
    assert [row["caption"] for row in rows] == ["words 0", "words 1", "words 4", "words 5"]
    assert [str(error).split(" is damaged")[0] for error in bad] == [f"{file} row {i}" for i in (2, 3)]


def test_a_file_cut_short_is_refused(tmp_path):
    file = published(tmp_path / "a.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(PairsError, match="a.parquet is damaged or not a parquet file"):
        read_pairs(tmp_path)


def test_a_dataset_with_a_missing_file_is_refused(tmp_path):
    for index in (0, 2):
        published(tmp_path / f"train-0000{index}-of-00003.parquet")
    with pytest.raises(PairsError, match="not complete: 2 of 3 files"):
        read_pairs(tmp_path)


def test_files_of_two_versions_are_refused(run, tmp_path):
    other = wheel.make_run(tmp_path / "run", generator="another teacher")
    write_dataset(other, other / "dataset", shard_rows=5)
    mixed = run / "dataset" / "train-00001-of-00003.parquet"
    (other / "dataset" / mixed.name).write_bytes(mixed.read_bytes())
    with pytest.raises(PairsError, match="2 versions"):
        read_pairs(other)


# ---------------------------------------------------------------- the hub


def test_a_hub_dataset_is_downloaded_and_read(tmp_path, monkeypatch):
    published(tmp_path / "data" / "train-00000-of-00001.parquet")
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert len(read_pairs("primecai/dsd_data")) == 5
    assert asked["name"] == "primecai/dsd_data" and asked["repo_type"] == "dataset"


def hub_files(folder, monkeypatch, kind=DirFileSystem):
    filesystem = kind(str(folder), LocalFileSystem(skip_instance_cache=True))
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", lambda: filesystem)
    return filesystem


def test_streaming_reads_over_the_network_and_downloads_nothing(tmp_path, monkeypatch):
    published(tmp_path / "datasets" / "primecai" / "dsd_data" / "data" / "train-0.parquet")
    hub_files(tmp_path, monkeypatch)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    pairs = read_pairs("primecai/dsd_data", streaming=True)
    assert [row["caption"] for row in pairs] == [f"words {i}" for i in range(5)]


def test_a_network_that_fails_is_no_damaged_row(tmp_path, monkeypatch):
    published(tmp_path / "datasets" / "a" / "b" / "train-0.parquet", 200)
    hub_files(tmp_path, monkeypatch)
    pairs, bad = read_pairs("a/b", streaming=True), []
    rows = readable(pairs, bad)
    assert next(rows)

    def refuse(*args, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr(pairs._file(0), "read_row_group", refuse, raising=False)
    with pytest.raises(LoadError, match="a/b"):
        list(rows)
    assert bad == []


def test_what_is_neither_here_nor_a_hub_id_is_named():
    with pytest.raises(LoadError, match="no/such/dataset"):
        read_pairs("no/such/dataset")


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
