"""`python -m dsd.generate` on FLUX, from the download to the image."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from PIL import Image

from dsd.model.checkpoint import load_pipeline
from dsd.model.latents import timesteps
from tests.hub import loras, published, shelf
from tests.hub.connect import connected
from tests.hub.repository import Repository
from tests.hub.running import SMALL, draw, run, succeed
from tests.servers import free_port

FLUX = ("--model", "flux-dev")
STUDENT_FILES = {
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
    "pytorch_lora_weights.safetensors",
}  # fmt: skip


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two images in levels of 255."""
    first, second = (np.asarray(image, dtype=float) for image in (one, other))
    return float(np.abs(first - second).mean())


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("subject") / "subject.png"
    published.picture(np.random.default_rng(0)).save(path)
    return path


@pytest.fixture(scope="module")
def plain(hub, subject, tmp_path_factory) -> Path:
    """An image by FLUX.1-dev with the published student."""
    path = tmp_path_factory.mktemp("plain") / "plain.png"
    draw(path, subject, *FLUX)
    return path


@pytest.fixture(scope="module")
def style(tmp_path_factory) -> Path:
    """The style LoRA's files, downloaded by hand."""
    return loras.build(tmp_path_factory.mktemp("style"))


def test_flux_dev_draws_with_the_published_student(hub, plain):
    assert Image.open(plain).size == (128, 128)
    fetched = hub.fetched(shelf.DEV)
    assert "text_encoder_2/model-00002-of-00002.safetensors" in fetched
    assert not [path for path in fetched if path.startswith("transformer/diffusion")]  # the student's is used
    assert not fetched & {"flux1-dev.safetensors", "ae.safetensors"}
    assert hub.fetched(shelf.STUDENT) == STUDENT_FILES


def test_the_usual_size_is_512_pixels(hub, subject, tmp_path):
    assert draw(tmp_path / "out.png", subject, *FLUX, size=("--steps", "1")).size == (512, 512)


def test_reference_and_prompt_move_the_image(hub, plain, subject, tmp_path):
    other = tmp_path / "other.png"
    published.picture(np.random.default_rng(9)).save(other)
    moved = draw(tmp_path / "moved.png", other, *FLUX)
    succeed("dsd.generate", subject, "in a dark cave", "-o", tmp_path / "cave.png", *SMALL, *FLUX)
    for image in (moved, Image.open(tmp_path / "cave.png").convert("RGB")):
        assert difference(image, Image.open(plain).convert("RGB")) > 0.5


def test_an_image_is_made_again_from_its_file(hub, plain, tmp_path):
    again = ("dsd.generate", "--from", plain, "-o", tmp_path / "again.png")
    assert "--model flux-dev" in run(*again).message  # a file does not choose what is opened
    assert "identical to the original" in succeed(*again, *FLUX).out


def test_what_was_downloaded_needs_no_network(hub, plain, subject, tmp_path, slept):
    with connected(f"http://127.0.0.1:{free_port()}", Path(constants.HF_HUB_CACHE)):
        image = draw(tmp_path / "out.png", subject, *FLUX)
    assert difference(image, Image.open(plain).convert("RGB")) == 0


def test_schnell_draws_with_weights_that_are_named(hub, subject, tmp_path):
    image = draw(tmp_path / "out.png", subject, "--model", "flux-schnell", "--weights", shelf.STUDENT)
    assert image.size == (128, 128)


def test_weights_made_for_dev_are_called_non_commercial_on_schnell(hub, subject, tmp_path):
    model = ("--model", "flux-schnell", "--weights", shelf.STUDENT)
    ended = succeed("dsd.generate", subject, "a hat", "-o", tmp_path / "out.png", *SMALL, *model)
    assert "Non-Commercial" in ended.err


def test_weights_made_for_dev_follow_its_times_on_schnell(hub):
    file = hf_hub_download(shelf.SCHNELL, "scheduler/scheduler_config.json")
    assert not json.loads(Path(file).read_text())["use_dynamic_shifting"]
    schnell = load_pipeline("flux-schnell", weights=shelf.STUDENT, device="cpu")
    dev = load_pipeline("flux-dev", device="cpu")
    assert schnell.scheduler.config.use_dynamic_shifting
    for tokens in (128, 2048, 8192):
        ours, theirs = (timesteps(pipe.scheduler, 28, tokens) for pipe in (schnell, dev))
        assert torch.equal(ours, theirs)


# ---------------------------------------------------------------- style LoRAs


@pytest.mark.parametrize("kind", loras.FILES)
def test_a_style_in_every_key_style_gives_the_same_image(hub, plain, subject, style, tmp_path, kind):
    first = draw(tmp_path / "first.png", subject, *FLUX, "--lora", style / loras.FILES["diffusers"])
    image = draw(tmp_path / "other.png", subject, *FLUX, "--lora", style / loras.FILES[kind])
    assert difference(first, Image.open(plain).convert("RGB")) > 1 and difference(image, first) < 0.1


def test_a_style_has_a_scale_and_may_be_a_hub_id(hub, plain, subject, style, tmp_path):
    none = draw(tmp_path / "none.png", subject, *FLUX, "--lora", f"{shelf.STYLE}:0")
    some = draw(tmp_path / "some.png", subject, *FLUX, "--lora", f"{shelf.STYLE}:0.5")
    original = Image.open(plain).convert("RGB")
    assert difference(none, original) < 0.1 < difference(some, original)


def test_the_command_counts_the_layers_and_an_image_with_styles_is_made_again(hub, subject, style, tmp_path):
    out, again = tmp_path / "out.png", tmp_path / "again.png"
    files = [style / loras.FILES[kind] for kind in ("comfyui", "kohya")]
    for file in files:
        shutil.copy(file, tmp_path)
    flags = ("--lora", f"{tmp_path / files[0].name}:0.5", "--lora", f"{tmp_path / files[1].name}:-0.25")
    ended = succeed("dsd.generate", subject, "a hat", "-o", out, *SMALL, *FLUX, *flags)
    assert "style_comfyui.safetensors: 4 of 4 layers, scale 0.5" in ended.out
    missing = run("dsd.generate", "--from", out, "-o", again)  # images name files without their folders
    assert missing.code == 2 and "--lora style_comfyui.safetensors:0.5" in missing.message
    assert "identical" in succeed("dsd.generate", "--from", out, "-o", again, *FLUX, *flags).out


def test_an_image_with_a_style_of_the_hub_is_made_again(hub, subject, tmp_path):
    out = tmp_path / "out.png"
    flags = ("--lora", f"{shelf.STYLE}/{loras.FILES['kohya']}:0.5")
    draw(out, subject, *FLUX, *flags)
    again = ("dsd.generate", "--from", out, "-o", tmp_path / "again.png")
    assert " ".join(flags) in run(*again).message  # a file does not choose what is fetched
    assert "identical" in succeed(*again, *FLUX, *flags).out


def test_a_style_of_another_width_is_refused_in_a_sentence(hub, subject, style, tmp_path):
    wide = style / "style_of_another_width.safetensors"
    message = refused(subject, tmp_path, *FLUX, "--lora", wide)
    assert wide.name in message and "unrecognized" not in message


@pytest.mark.parametrize("kind", ["diffusers", "ai-toolkit"])
def test_a_style_is_no_student(hub, subject, style, tmp_path, kind):
    message = refused(subject, tmp_path, *FLUX, "--weights", style / loras.FILES[kind])
    assert "--lora" in message


# ---------------------------------------------------------------- refusals


def refused(subject: Path, out: Path, *flags: object) -> str:
    ended = run("dsd.generate", subject, "a hat", "-o", out / "out.png", *SMALL, *flags)
    assert ended.code == 2 and "Traceback" not in ended.err
    return ended.message


def test_a_license_that_was_not_accepted_is_named(elsewhere, subject, tmp_path, monkeypatch):
    for token in ("", "hf_reader"):
        elsewhere[shelf.DEV].granted = set()
        monkeypatch.setenv("HF_TOKEN", token)
        message = refused(subject, tmp_path, *FLUX)
        assert "accept the license at https://huggingface.co/black-forest-labs/FLUX.1-dev" in message
    assert not elsewhere.fetched(shelf.STUDENT)


def test_a_model_that_is_not_there_is_named(elsewhere, subject, tmp_path):
    message = refused(subject, tmp_path, "--model", "nobody/nothing")
    assert "no such model on the hub: nobody/nothing" in message


def test_without_a_network_the_message_names_what_must_be_downloaded(subject, tmp_path, slept):
    with connected(f"http://127.0.0.1:{free_port()}", tmp_path / "cache"):
        message = refused(subject, tmp_path, *FLUX)
    assert "must be downloaded once" in message and "cannot be reached" in message


def test_without_a_network_the_message_comes_soon(subject, tmp_path, slept):
    with connected(f"http://127.0.0.1:{free_port()}", tmp_path / "cache"):
        refused(subject, tmp_path, *FLUX)
    assert sum(slept) < 10


def test_a_download_that_is_broken_off_goes_on_where_it_ended(elsewhere, subject, plain, tmp_path, slept):
    for repository in elsewhere.repositories.values():
        repository.gated, repository.cut, repository.cuts = False, 20_000, 3
    assert difference(draw(tmp_path / "out.png", subject, *FLUX), Image.open(plain).convert("RGB")) == 0
    assert elsewhere[shelf.DEV].cuts == elsewhere[shelf.STUDENT].cuts == 0


def test_a_download_that_always_breaks_off_ends_in_a_sentence(elsewhere, subject, tmp_path, slept):
    elsewhere[shelf.DEV].gated, elsewhere[shelf.STUDENT].cut = False, 0
    assert shelf.STUDENT in refused(subject, tmp_path, *FLUX)


@pytest.mark.parametrize("status", [500, 503])
def test_a_hub_that_is_down_ends_in_a_sentence(elsewhere, subject, tmp_path, slept, status):
    elsewhere[shelf.DEV].down = status
    assert shelf.DEV in refused(subject, tmp_path, *FLUX)


def test_the_published_weights_alone_say_which_model_to_use(hub, subject, tmp_path):
    assert "flux-dev" in refused(subject, tmp_path, "--model", shelf.STUDENT)


def test_weights_may_be_a_lora_on_the_hub(hub, subject, tmp_path):
    file = "pytorch_lora_weights.safetensors"
    lora = Repository(name="me/student-lora", files={file: hub[shelf.STUDENT].files[file]})
    hub.repositories["models", lora.name] = lora
    drawn = draw(tmp_path / "out.png", subject, *FLUX, "--weights", lora.name)
    (local := tmp_path / file).write_bytes(lora.files[file])
    assert difference(drawn, draw(tmp_path / "local.png", subject, *FLUX, "--weights", local)) == 0
    assert np.asarray(drawn).std() > 0
