"""Uploads to the hub: what is sent, and what is said if it cannot be."""

from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from dsd.files.errors import LoadError
from dsd.files.upload import upload


def test_a_folder_is_uploaded_privately_as_what_it_is(tmp_path):
    calls = []
    api = SimpleNamespace(
        create_repo=lambda *a, **k: calls.append((a, k)), upload_folder=lambda **k: calls.append(k)
    )
    address = upload(tmp_path, "me/model", kind="model", api=api, ignore_patterns=["run/*"])
    assert address == "https://huggingface.co/me/model"
    assert calls[0] == (("me/model",), {"repo_type": "model", "private": True, "exist_ok": True})
    assert calls[1]["ignore_patterns"] == ["run/*"] and calls[1]["folder_path"] == tmp_path
    assert upload(tmp_path, "me/pairs", kind="dataset", api=api).endswith(".co/datasets/me/pairs")
    with pytest.raises(LoadError, match="called owner/name, got 'model'"):
        upload(tmp_path, "model", kind="model", api=api)


def test_without_a_network_the_upload_says_that_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match="me/model was not uploaded.* is complete: run the same"):
        upload(tmp_path, "me/model", kind="model", api=HfApi(token="hf_none"))
