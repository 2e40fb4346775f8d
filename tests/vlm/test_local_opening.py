"""A judge on this machine is opened, or refused with the reason."""

import copy
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import torch
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from dsd.model import presets
from dsd.vlm import local as vlm_local
from dsd.vlm.open import LoadError, VLMError, open_vlm
from tests import tiny


def test_a_model_goes_by_the_name_of_its_folder(folders):
    assert open_vlm(str(folders["llava"])).name == "llava"


def test_pocket_is_opened_in_full_precision(folders, tmp_path, monkeypatch):
    half = tmp_path / "judge"
    LlavaForConditionalGeneration.from_pretrained(folders["llava"]).half().save_pretrained(half)
    AutoProcessor.from_pretrained(folders["llava"]).save_pretrained(half)
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(half)))
    vlm = open_vlm("pocket", device="cpu", max_tokens=4)
    assert (vlm.name, vlm.batch, vlm.model.dtype) == ("pocket", 32, torch.float32)
    assert vlm.ask("describe", [tiny.image()])


def test_pocket_says_when_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "pocket", replace(presets.POCKET, judge=str(tmp_path / "judge")))
    with pytest.raises(LoadError, match="has no judge in .*judge: run python -m train.pocket.judge"):
        open_vlm("pocket")


def test_a_model_that_is_nowhere_is_named():
    with pytest.raises(LoadError, match="not found: no/such/folder"):
        open_vlm("no/such/folder")


def test_a_model_that_does_not_see_is_refused(tmp_path):
    tiny.text_encoders(*tiny.tokenizers())[1].save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="is a t5, not a vision-language model"):
        open_vlm(str(tmp_path))


def test_a_gated_model_says_which_license_to_accept(monkeypatch):
    def gated(*_, **__):
        raise GatedRepoError(
            "gated", response=httpx2.Response(403, request=httpx2.Request("GET", "https://x"))
        )

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    with pytest.raises(LoadError, match="accept the license at https://huggingface.co/owner/model"):
        open_vlm("owner/model")


def copied(source: Path, target: Path, *, without: str = "") -> Path:
    target.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (target / file.name).write_bytes(file.read_bytes())
    return target


def test_a_model_that_lacks_weights_is_refused(folders, tmp_path):
    folder = copied(folders["llava"], tmp_path / "m")
    weights = load_file(folder / "model.safetensors")
    dropped = next(name for name in weights if "projector" in name)
    del weights[dropped]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadError, match="lacks 1 of its weights, .*projector"):
        open_vlm(str(folder))


def test_broken_weights_are_refused(folders, tmp_path):
    folder = copied(folders["llava"], tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(LoadError, match=r"model.safetensors is damaged.*save it again"):
        open_vlm(str(folder))


@pytest.mark.parametrize(
    ("without", "says"),
    [("config.json", "cannot open"), ("model.safetensors", "cannot open"), ("tokenizer.json", "cannot open"),
     ("chat_template.jinja", "has no chat template")],
)  # fmt: skip
def test_an_incomplete_folder_is_refused(without, says, folders, tmp_path):
    with pytest.raises(LoadError, match=says):
        open_vlm(str(copied(folders["llava"], tmp_path / "m", without=without)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(folders):
    with pytest.raises(LoadError, match="device 'cuda' cannot be used"):
        open_vlm(str(folders["llava"]), device="cuda")


@pytest.mark.parametrize(("option", "value"), [("batch", 0), ("max_tokens", 0), ("temperature", 0.0)])
def test_options_that_cannot_be_followed_are_refused(option, value, folders):
    with pytest.raises(VLMError, match=f"{option} must .*, got {value}"):
        open_vlm(str(folders["llava"]), **{option: value})


def test_an_option_of_a_server_is_refused():
    with pytest.raises(LoadError, match="'pocket' has no option budget, in_flight; it has .*batch"):
        open_vlm("pocket", in_flight=3, budget=9, batch=None)


def test_the_models_own_settings_are_kept_but_for_sampling(llava):
    model = copy.copy(llava.model)
    model.generation_config = copy.deepcopy(llava.model.generation_config)
    model.generation_config.update(do_sample=True, temperature=0.3, top_k=5, repetition_penalty=1.3)
    options = vlm_local.LocalOptions(max_tokens=7)
    vlm = vlm_local.LocalVLM("x", model, llava.processor, options)
    plan = vlm._generation
    assert vlm.options == options
    assert (plan.do_sample, plan.temperature, plan.top_k) == (False, None, None)
    assert (plan.repetition_penalty, plan.max_new_tokens) == (1.3, 7)
