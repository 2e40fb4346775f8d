"""Damaged rows and files of a dataset are named, and nothing of them is dropped in silence."""

from collections.abc import Iterator

import pyarrow
import pyarrow.parquet
import pytest

from dsd.curation.dataset import write_dataset
from dsd.files.pairs import BadRow, Pairs, read_pairs
from dsd.files.parquet import PairsError
from tests import wheel
from tests.parquet_files import image, published, write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = wheel.make_run(tmp_path_factory.mktemp("run"))
    write_dataset(folder, folder / "dataset", shard_rows=5)  # 12 rows in files of 5, 5 and 2
    return folder


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
