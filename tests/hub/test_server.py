"""The fake hub itself, asked by the libraries that ask the real one."""

import datasets
import httpx
import httpx2
import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, model_info, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub import shelf
from tests.hub.connect import connected
from tests.servers import free_port

INDEX = "model_index.json"
SHARD = "data/train-00000-of-00002.parquet"


def test_a_file_is_downloaded_once_and_kept(hub):
    content = hub[shelf.SCHNELL].files[INDEX]
    for _ in range(2):
        with open(hf_hub_download(shelf.SCHNELL, INDEX), "rb") as file:
            assert file.read() == content
    gets = [path for method, path in hub.seen if method == "GET" and path.endswith(INDEX)]
    assert gets == [f"/{shelf.SCHNELL}/resolve/main/{INDEX}"]


def test_large_files_come_from_another_host_without_the_token(hub):
    address = f"{hub.address}/{shelf.STYLE}/resolve/main/style_kohya.safetensors"
    answer = httpx.head(address)
    assert answer.status_code == 302 and answer.headers["Location"].startswith(hub.storage)
    assert int(answer.headers["X-Linked-Size"]) == len(hub[shelf.STYLE].files["style_kohya.safetensors"])


def test_parts_of_a_file(hub):
    address = f"{hub.address}/datasets/{shelf.DATA}/resolve/main/{SHARD}"
    whole = hub[shelf.DATA].files[SHARD]
    for wanted, part in (("bytes=0-3", whole[:4]), ("bytes=-4", whole[-4:]), ("bytes=10-", whole[10:])):
        answer = httpx.get(address, headers={"Range": wanted}, follow_redirects=True)
        assert answer.status_code == 206 and answer.content == part
        assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")


def test_a_dataset_is_read_by_datasets_streamed_and_whole(hub, tmp_path):
    datasets.disable_progress_bars()
    filesystem = HfFileSystem()
    files = filesystem.glob(f"datasets/{shelf.DATA}/**/*.parquet")
    assert [file.split("/")[-1] for file in files] == [f"train-0000{i}-of-00002.parquet" for i in range(2)]
    with filesystem.open(files[0]) as file:
        assert file.read() == hub[shelf.DATA].files[SHARD]
    folder = snapshot_download(shelf.DATA, repo_type="dataset")
    table = datasets.load_dataset("parquet", data_dir=f"{folder}/data", cache_dir=str(tmp_path))["train"]
    assert table.column_names == ["conditioning", "image", "caption"] and len(table) == 12


# ---------------------------------------------------------------- refusals


def test_a_gated_model_shows_its_card_but_not_its_files(elsewhere, monkeypatch):
    assert model_info(shelf.DEV).gated == "auto"
    for token, status in (("", 401), ("hf_writer", 403)):
        elsewhere[shelf.DEV].granted = set()
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(GatedRepoError) as refused:
            hf_hub_download(shelf.DEV, INDEX)
        assert refused.value.response.status_code == status


def test_repositories_revisions_and_files_that_are_not_there(elsewhere):
    with pytest.raises(RepositoryNotFoundError):
        model_info("nobody/nothing")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(shelf.SCHNELL, INDEX, revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(shelf.SCHNELL, "nothing.json")
    elsewhere[shelf.SCHNELL].missing = True
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download(shelf.SCHNELL, INDEX)


def test_a_wrong_token_is_no_visitor(elsewhere, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HfHubHTTPError) as refused:
        model_info(shelf.SCHNELL)
    assert refused.value.response.status_code == 401


def test_a_hub_that_is_down_hangs_up_or_away(elsewhere, slept, tmp_path):
    elsewhere[shelf.SCHNELL].down = 503
    with pytest.raises(HfHubHTTPError):
        model_info(shelf.SCHNELL)
    elsewhere[shelf.STYLE].hangs_up = True
    with pytest.raises(httpx2.RemoteProtocolError):
        hf_hub_download(shelf.STYLE, "README.md")
    with connected(f"http://127.0.0.1:{free_port()}", tmp_path), pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(shelf.STUDENT, "README.md")


def test_a_body_that_ends_early_is_continued(elsewhere, slept):
    style = elsewhere[shelf.STYLE]
    style.cut, style.cuts = 1000, 2
    with open(hf_hub_download(shelf.STYLE, "style_kohya.safetensors"), "rb") as file:
        assert file.read() == style.files["style_kohya.safetensors"]
    assert style.cuts == 0


# ---------------------------------------------------------------- uploads


def test_a_folder_is_uploaded_changed_and_downloaded(elsewhere, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    here = tmp_path / "here"
    here.mkdir()
    for name, words in (("README.md", b"hello"), ("a.safetensors", b"weights"), ("b.safetensors", b"old")):
        (here / name).write_bytes(words)
    api = HfApi()
    api.create_repo("me/new", private=True)
    api.create_repo("me/new", private=True, exist_ok=True)
    api.upload_folder(repo_id="me/new", folder_path=here)
    (here / "b.safetensors").unlink()
    api.upload_folder(repo_id="me/new", folder_path=here, delete_patterns="b.*")
    assert elsewhere["me/new"].files == {"README.md": b"hello", "a.safetensors": b"weights"}
    assert model_info("me/new").private and api.whoami()["name"] == "me"
    with open(hf_hub_download("me/new", "a.safetensors"), "rb") as file:
        assert file.read() == b"weights"


@pytest.mark.parametrize(("token", "status"), [("", 401), ("hf_reader", 403)])
def test_only_a_writer_may_write(elsewhere, monkeypatch, token, status):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HfHubHTTPError) as refused:
        HfApi().create_repo("me/new")
    assert refused.value.response.status_code == status
