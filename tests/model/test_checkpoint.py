"""Saving and opening: stock diffusers reads what we save, and every failure says what to do."""

import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DiffusionPipeline, FluxControlPipeline, FluxPipeline
from diffusers.pipelines import pipeline_utils
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

import dsd
from dsd.model import canvas, checkpoint, presets
from dsd.model.checkpoint import LoadError, has_embedded_guidance, load_pipeline, model_hash, save_pipeline
from tests import tiny
from tests.tiny import PROMPTS, draw, image, seeded


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_pipeline(tiny.pipeline(), folder)
    return folder


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


# -- what we save


def test_a_round_trip_draws_the_same_image(saved):
    before, after = tiny.pipeline(), quiet(load_pipeline(saved, device="cpu"))
    options = {"image_guidance_scale": 1.5, "text_guidance_scale": 1.3}
    torch.testing.assert_close(draw(after, **options), draw(before, **options), rtol=1e-4, atol=1e-5)
    assert model_hash(after) == model_hash(before)


@pytest.mark.parametrize("opener", [FluxControlPipeline, DiffusionPipeline])
def test_plain_diffusers_opens_it_and_draws_the_same_image(saved, opener):
    """The stock pipeline takes the canvas ready-made and samples from the VAE; this one has no variance."""
    stock = quiet(opener.from_pretrained(saved, dtype=torch.float32))
    assert type(stock) is FluxControlPipeline
    theirs = stock(
        PROMPTS[0],
        control_image=canvas.compose(canvas.to_tensor([canvas.fit(image(), 32, 32)])),
        height=32,
        width=64,
        num_inference_steps=3,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(0),
        latents=stock.prepare_latents(1, 4, 32, 64, torch.float32, "cpu", seeded(0))[0],
        output_type="latent",
    ).images
    torch.testing.assert_close(draw(quiet(load_pipeline(saved, device="cpu"))), theirs, rtol=1e-4, atol=1e-5)


def test_a_teacher_and_a_student_folder_make_a_pipeline(tmp_path):
    """As `flux-dev` does: a text-to-image pipeline is the base, and a widened transformer comes beside it."""
    parts, student = tiny.components(), tiny.transformer()
    FluxPipeline(**{**parts, "transformer": tiny.plain_transformer()}).save_pretrained(tmp_path / "teacher")
    student.save_pretrained(tmp_path / "student")
    pipe = quiet(load_pipeline(tmp_path / "teacher", weights=tmp_path / "student", device="cpu"))
    assert draw(pipe).isfinite().all() and has_embedded_guidance(pipe)
    assert torch.equal(pipe.transformer.x_embedder.weight, student.x_embedder.weight)


def test_dtype_reaches_every_part(saved):
    pipe = load_pipeline(saved, dtype=torch.bfloat16, device="cpu")
    parts = (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_2)
    assert {part.dtype for part in parts} == {torch.bfloat16}


def test_the_hash_names_the_weights():
    first, second = tiny.pipeline(), tiny.pipeline(seed=1)
    assert model_hash(first) == model_hash(tiny.pipeline()) != model_hash(second)
    assert len(model_hash(first)) == 12


def test_a_large_model_is_hashed_by_samples(monkeypatch):
    pipe = tiny.pipeline()
    whole = model_hash(pipe)
    monkeypatch.setattr(checkpoint, "WHOLE_HASH", 0)
    assert model_hash(pipe) == model_hash(pipe) != whole
    torch.nn.init.ones_(pipe.transformer.proj_out.bias)
    assert model_hash(pipe) != model_hash(tiny.pipeline())


@pytest.mark.parametrize("limit", [0, checkpoint.WHOLE_HASH])
def test_the_hash_stays_where_weights_are_offloaded_layer_by_layer(monkeypatch, limit):
    monkeypatch.setattr(checkpoint, "WHOLE_HASH", limit)
    pipe = tiny.pipeline()
    before = model_hash(pipe)
    cpu_offload(pipe.transformer, torch.device("cpu"))
    assert all(weight.is_meta for weight in pipe.transformer.parameters()) and model_hash(pipe) == before


# -- errors


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        LoadError, match="unknown model 'fluxdev': pass one of pocket, flux-dev, flux-schnell"
    ):
        load_pipeline("fluxdev")


def test_a_base_without_weights_asks_for_them(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint.DSDPipeline, "load_config", lambda base: {})
    with pytest.raises(LoadError, match="flux-schnell is a base without a reference input: pass weights="):
        load_pipeline("flux-schnell", device="cpu")


def test_a_plain_flux_folder_asks_for_weights(tmp_path):
    FluxPipeline(**{**tiny.components(), "transformer": tiny.plain_transformer()}).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="cannot see a reference .16 input channels.: pass weights="):
        load_pipeline(tmp_path, device="cpu")


def test_weights_that_are_nowhere_are_named(saved):
    with pytest.raises(LoadError, match="not found: nowhere.safetensors"):
        load_pipeline(saved, weights="nowhere.safetensors", device="cpu")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(LoadError, match=f"cannot open {tmp_path}"):
        load_pipeline(tmp_path, device="cpu")


def test_offload_needs_a_gpu(saved):
    with pytest.raises(LoadError, match='use "none"'):
        load_pipeline(saved, device="cpu", offload="model")
    with pytest.raises(LoadError, match="offload must be one of none, model, group, sequential, got 'disk'"):
        load_pipeline(saved, device="cpu", offload="disk")


def chain(pipe) -> dict[str, str | None]:
    """Each part that comes and goes -> the part that it sends away; as if the CPU were a GPU."""
    names = {id(part): name for name, part in pipe.components.items()}
    found = {}
    for moved in pipe._all_hooks:
        before = moved.hook.prev_module_hook
        found[names[id(moved.model)]] = before and names[id(before.model)]
    return found


@pytest.mark.parametrize("kind", ["student", "teacher"])
def test_a_preview_between_two_steps_sends_no_transformer_away(kind):
    parts = tiny.components()
    plain = {**parts, "transformer": tiny.plain_transformer()}
    pipe = quiet(tiny.pipeline() if kind == "student" else FluxPipeline(**plain))
    checkpoint.place(pipe, torch.device("cpu"), "model")
    for _ in range(2):
        assert chain(pipe) == {
            "text_encoder": None,
            "text_encoder_2": "text_encoder",
            "transformer": "text_encoder_2",
        }
        assert not hasattr(pipe.vae, "_hf_hook")
        pipe.maybe_free_model_hooks()  # as at the end of every drawing: it puts all hooks on anew


def test_with_offload_the_vae_alone_stays_on_the_gpu(monkeypatch):
    """The meta device stands for it: nothing can be drawn there, but things can be put there."""
    monkeypatch.setattr(pipeline_utils, "empty_device_cache", lambda kind: None)
    pipe = tiny.pipeline()
    checkpoint.place(pipe, torch.device("meta"), "model")
    assert pipe.vae.device.type == "meta" and pipe.transformer.device.type == "cpu"
    assert pipe._execution_device.type == "meta"


def test_a_drawing_with_offload_is_the_one_without():
    pipe = tiny.pipeline()
    expected = draw(pipe)
    checkpoint.place(pipe, torch.device("cpu"), "model")
    assert torch.equal(draw(pipe), expected)


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (
            GatedRepoError("gated", response=response(401)),
            "accept the license at https://huggingface.co/black-forest-labs/FLUX.1-dev, .*HF_TOKEN",
        ),
        (RepositoryNotFoundError("gone", response=response(401)), "no such model on the hub"),
        (LocalEntryNotFoundError("offline"), "must be downloaded once .*FLUX.1-dev"),
        (OSError("disk full"), "cannot open flux-dev .*disk full"),
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_what_the_hub_refuses_is_explained(monkeypatch, cause, message, wrapped):
    def refuse(base):
        if not wrapped:
            raise cause
        try:
            raise cause
        except OSError as error:  # diffusers wraps the hub's errors
            raise OSError("disk full") from error

    monkeypatch.setattr(checkpoint.DSDPipeline, "load_config", refuse)
    with pytest.raises(LoadError, match=message):
        load_pipeline("flux-dev", device="cpu")


# -- a LoRA beside weights on the hub


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache, with a model's first commit in it and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = tmp_path / "models--me--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    return model


def test_without_a_network_a_lora_that_is_not_in_the_cache_is_not_left_out_in_silence(cache):
    for expected in (None, presets.LORA):
        with pytest.raises(LoadError, match="m must be downloaded once .me/model., but"):
            with checkpoint.hub.explain_errors("m", ["me/model"]):
                checkpoint._find_lora_beside("me/model", expected)


def test_a_lora_that_the_hub_once_said_it_has_not_needs_no_network(cache):
    (cache / ".no_exist" / "abc").mkdir(parents=True)
    (cache / ".no_exist" / "abc" / presets.LORA).touch()
    assert checkpoint._find_lora_beside("me/model", None) is None


def test_a_lora_in_the_cache_is_taken_without_a_network(cache):
    (file := cache / "snapshots" / "abc" / presets.LORA).touch()
    assert checkpoint._find_lora_beside("me/model", None) == file


def test_a_lora_that_is_not_on_the_hub_is_none_or_an_error_where_it_is_expected(monkeypatch):
    def refuse(*_):
        raise EntryNotFoundError("not there")

    monkeypatch.setattr(checkpoint, "hf_hub_download", refuse)
    assert checkpoint._find_lora_beside("me/model", None) is None
    with pytest.raises(EntryNotFoundError):
        checkpoint._find_lora_beside("me/model", presets.LORA)


# -- the public face


def test_importing_dsd_costs_nothing():
    code = "import dsd, sys; assert dsd.__version__ and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert dsd.load_pipeline is load_pipeline and issubclass(dsd.DSDPipeline, FluxControlPipeline)


def test_a_saved_model_names_no_folder_of_this_machine(pipe, tmp_path):
    save_pipeline(pipe, tmp_path / "one")
    save_pipeline(load_pipeline(str(tmp_path / "one")), tmp_path / "two")
    for file in (tmp_path / "two").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
