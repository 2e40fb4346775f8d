"""Pairs of a dataset on the hub: downloaded, or streamed without a download."""

import huggingface_hub
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from dsd.files.hub import LoadError
from dsd.files.pairs import read_pairs
from dsd.files.parquet import PairsError
from tests.parquet_files import published


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
    pairs = read_pairs("a/b", streaming=True)
    rows = iter(pairs)
    assert next(rows)

    def refuse(*args, **options):
        raise ConnectionError("gone")

    monkeypatch.setattr(pairs._file(0), "read_row_group", refuse, raising=False)
    with pytest.raises(LoadError, match="a/b"):
        list(rows)


def test_what_is_neither_here_nor_a_hub_id_is_named():
    with pytest.raises(LoadError, match="no/such/dataset"):
        read_pairs("no/such/dataset")
