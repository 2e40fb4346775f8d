"""The commands of the wheel on FLUX, from the download to the file."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers import FluxControlPipeline
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file

import app
import dsd
from dsd.files import jsonl, pairs
from tests.hub import flux, shelf, wheel
from tests.hub.connect import connected, environment
from tests.hub.running import run, succeed
from tests.hub.wheel import FLUX, PANEL, QUICK
from tests.servers import free_port
from train import train

ROOT = Path(__file__).parents[2]
DATA = ("--instruction-share", 0)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flux")


@pytest.fixture(scope="module")
def made(hub, folder):
    """What the commands of the wheel said; their run is `folder / "run"`."""
    return wheel.make(folder / "run")


@pytest.fixture(scope="module")
def dataset(made, folder) -> Path:
    succeed("train.dataset", folder / "run")
    return folder / "run" / "dataset"


@pytest.fixture(scope="module")
def student(dataset, folder) -> Path:
    succeed("train.train", folder / "run", "--out", folder / "student", *FLUX, *QUICK)
    return folder / "student"


@pytest.fixture(scope="module")
def local(folder) -> Path:
    """FLUX.1-dev in a folder whose name does not say so."""
    return flux.build(folder / "base")


@pytest.fixture(scope="module")
def photos(folder) -> Path:
    return wheel.photographs(folder / "photos")


@pytest.fixture(scope="module")
def watched(hub, dataset, photos, folder) -> Path:
    """A student of a FLUX of small images, validated on photographs."""
    watch = ("--validate", photos, "--validate-prompts", 1, "--validate-every", 2)
    succeed("train.train", dataset, "--out", folder / "watched", "--model", shelf.SMALL, *QUICK, *watch)
    return folder / "watched"


# ---------------------------------------------------------------- the wheel


def test_grids_are_drawn_as_large_as_flux_likes_them(hub, made, folder):
    (row,) = jsonl.read(folder / "run" / "grids" / "grids.jsonl")
    assert "1 grids" in made["grids"].out and row["generator"] == "flux-dev" and row["margin"] == 8
    assert Image.open(folder / "run" / "grids" / row["file"]).size == (2 * PANEL, 2 * PANEL)
    assert not hub.fetched(shelf.DEV) & {"flux1-dev.safetensors", "ae.safetensors"}


def test_the_judge_keeps_the_pairs_of_one_color(made, folder):
    pairs = jsonl.read(folder / "run" / "pairs.jsonl")
    kept = [(pair["first"], pair["second"]) for pair in pairs if pair["verdict"] == "keep"]
    assert kept == [(0, 1), (0, 2), (1, 2)] and {pair["embedder"] for pair in pairs} == {shelf.DINO}
    captions = jsonl.read(folder / "run" / "captions.jsonl")
    assert len(captions) == 6 and all(row["caption"].startswith("a red robot") for row in captions)


def test_captions_are_counted_with_the_tokenizer_of_flux(made):
    assert "(counted)" in made["curate"].out


def test_a_dataset_of_flux_has_the_license_of_flux(dataset):
    card = (dataset / "README.md").read_text()
    assert "Non-Commercial" in card and len(list(dataset.glob("*.parquet"))) == 1


def test_a_judge_of_the_hub_looks_and_answers(hub, made, folder):
    shutil.copytree(folder / "run" / "grids", folder / "qwen" / "grids")
    flags = ("--judge", shelf.QWEN, "--embedder", "none", "--no-captions")
    ended = run("train.curate", folder / "qwen", *flags)
    assert "unreadable" in ended.out + ended.err and "model.safetensors" in hub.fetched(shelf.QWEN)


# ---------------------------------------------------------------- training


def test_a_student_opens_here_and_in_plain_diffusers(student):
    ours, stock = dsd.load_pipeline(student, device="cpu"), FluxControlPipeline.from_pretrained(student)
    for pipe in (ours, stock):
        assert pipe.transformer.config.in_channels == 128
    assert torch.equal(ours.transformer.x_embedder.weight, stock.transformer.x_embedder.weight.to(ours.dtype))


def test_the_size_of_a_dataset_is_said_before_it_is_downloaded(hub, tmp_path):
    said = []

    def on_size(name: str, size: int) -> None:
        said.append((name, size, [*tmp_path.rglob("*.parquet")]))

    with connected(hub.address, tmp_path, shelf.TOKEN):
        files = pairs.read_pairs(shelf.DATA, on_size=on_size).files
        pairs.read_pairs(shelf.DATA, on_size=on_size)  # it is in the cache
    ((name, size, downloaded),) = said
    card = len(hub[shelf.DATA].files["README.md"])
    assert (name, size, downloaded) == (shelf.DATA, sum(Path(it).stat().st_size for it in files) + card, [])


def test_the_published_pairs_train_the_same_student_from_disk_and_streamed(hub, folder):
    said = []
    for name, flags in (("local", ("--cache-gb", 1)), ("streamed", ("--streaming",))):
        ended = succeed("train.train", shelf.DATA, *flags, "--out", folder / name, *FLUX, *QUICK, *DATA)
        said.append(ended.out)
    assert said[0].index(f"downloading {shelf.DATA}: ") < said[0].index("steps, about")
    assert "downloading" not in said[1]
    one, other = (load_file(folder / name / WEIGHTS) for name in ("local", "streamed"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert len(hub.fetched(shelf.DATA)) == 3  # both files and the card, by the command without --streaming


def test_a_streamed_training_may_use_fewer_rows(hub, folder):
    flags = ("--streaming", "--max-rows", 4, "--out", folder / "few")
    ended = succeed("train.train", shelf.DATA, *flags, *FLUX, *QUICK, *DATA)
    assert "4 rows" in (folder / "few" / "README.md").read_text()
    assert "4 rows while training" in ended.out and "for the encoded dataset" in ended.out
    assert "steps, about" in ended.out  # disk and time come first


def test_the_published_student_is_continued_and_opens_everywhere(dataset, folder):
    out = folder / "continued"
    succeed("train.train", dataset, "--start-from", shelf.STUDENT, "--out", out, *FLUX, *QUICK)
    card = (out / "README.md").read_text()
    assert f"continuing the student `{shelf.STUDENT}`" in card and "Non-Commercial" in card
    assert f"- {shelf.STUDENT}" in card  # for the hub: one of two base models
    ours, stock = dsd.load_pipeline(out, device="cpu"), FluxControlPipeline.from_pretrained(out)
    assert torch.equal(ours.transformer.x_embedder.weight, stock.transformer.x_embedder.weight.to(ours.dtype))
    start = dsd.load_pipeline("flux-dev", device="cpu").transformer.x_embedder.weight
    far = (ours.transformer.x_embedder.weight.float() - start.float()).norm() / start.float().norm()
    assert 0 < far < 0.2


def test_flux_has_the_same_settings_by_any_name(dataset, folder, local):
    names = ["flux-dev", shelf.DEV, str(local)]
    rows = ["x", "--out", "y", "--model"]
    named, *others = (asdict(train.options_of(train.parse([*rows, name]))) for name in names)
    assert all({**other, "model": "flux-dev"} == named for other in others)
    plans = [
        succeed("train.train", dataset, "--out", folder / "plan", "--model", model, *QUICK, "--plan").out
        for model in names
    ]
    first, *more = ([line for line in plan.splitlines() if line.startswith("memory")] for plan in plans)
    assert first and more == [first, first]


def test_validation_on_photographs_is_drawn_and_scored(hub, watched):
    assert "## Scores" in (watched / "README.md").read_text()
    assert (watched / "samples.png").exists() and "model.safetensors" in hub.fetched(shelf.CLIP)


def test_the_card_names_the_license_of_flux(student):
    card = (student / "README.md").read_text()
    assert f"base_model: {shelf.DEV}" in card and "Non-Commercial" in card


@pytest.mark.parametrize("place", ["hub", "disk"])
def test_the_card_names_the_license_of_flux_by_its_hub_id_and_its_folder(dataset, folder, local, place):
    out, model = folder / f"by-{place}", shelf.DEV if place == "hub" else local
    succeed("train.train", dataset, "--out", out, "--model", model, *QUICK, "--steps", 1)
    card = (out / "README.md").read_text()
    assert "unknown" not in card and "Non-Commercial" in card


def test_the_teacher_and_what_is_evaluated_can_be_quantized(made, folder):
    job = ("flux-dev", "--out", folder / "small", "--subjects", 2)
    for command in (("train.grids", folder / "run", *FLUX), ("train.evaluate", *job)):
        ended = run(*command, "--quantize", "4bit")
        assert "unrecognized" not in ended.message and "GPU" in ended.message


# ---------------------------------------------------------------- the LoRA as a file


def drawn(out: Path, subject: Path, *flags: object) -> Image.Image:
    words = (subject, "a red hat on the beach", "-o", out, "--steps", 3, "--seed", 1)
    succeed("dsd.generate", *words, "--width", 64, "--height", 64, *flags)
    return Image.open(out).convert("RGB")


def test_a_trained_lora_draws_the_same_image_twice(student, photos, tmp_path):
    lora = ("--weights", student / "lora" / "pytorch_lora_weights.safetensors")
    one, other = (drawn(tmp_path / f"{i}.png", photos / "toy robot.png", *FLUX, *lora) for i in range(2))
    assert one.tobytes() == other.tobytes()


# ---------------------------------------------------------------- evaluation and the app


def test_students_are_compared_on_photographs(watched, photos, folder):
    flags = ("--images", photos, "--out", folder / "scores", "--steps", 1, "--prompts", 1, "--size", 64)
    ended = succeed("train.evaluate", f"ours={watched}", *flags, "--image-guidance", 1)
    scores = json.loads((folder / "scores" / "scores.json").read_text())["scores"]
    assert "identity (DINOv2)" in ended.out and {"ours"} <= scores.keys()


def test_the_app_opens_flux_and_a_student_of_it(hub, student):
    for model in ("flux-dev", str(student)):
        args = app.parse(["--model", model, "--device", "cpu"])
        app.check(args)
        loaded, _ = app.load(args)
        assert loaded.pipe.transformer.config.in_channels == 128


def test_the_app_names_the_license_of_a_student_of_flux(hub, student):
    args = app.parse(["--model", str(student), "--device", "cpu"])
    assert "Non-Commercial" in app.load(args)[0].license


# ---------------------------------------------------------------- uploads


@pytest.fixture
def writer(hub, monkeypatch):
    """The token of an account that may write."""
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub


def test_a_dataset_is_pushed_and_trained_on_from_the_hub(writer, dataset, folder):
    ended = succeed("train.dataset", folder / "run", "--push-to-hub", "me/pairs")
    pushed = writer["me/pairs"]
    assert "datasets/me/pairs" in ended.out and pushed.private and "README.md" in pushed.files
    assert pushed.files["train-00000-of-00001.parquet"] == next(dataset.glob("*.parquet")).read_bytes()
    succeed("train.train", "me/pairs", "--out", folder / "from-hub", *FLUX, *QUICK, "--steps", 1)


def test_a_student_is_pushed_and_drawn_with_from_the_hub(writer, student, photos, dataset, tmp_path):
    flags = ("--out", student, *FLUX, *QUICK, "--push-to-hub", "me/student", "--public")
    ended = succeed("train.train", dataset.parent, *flags)
    pushed = writer["me/student"]
    assert "me/student" in ended.out and not pushed.private and WEIGHTS in pushed.files
    assert not [path for path in pushed.files if path.startswith("run/")]
    one = drawn(tmp_path / "one.png", photos / "toy robot.png", "--model", "me/student")
    other = drawn(tmp_path / "other.png", photos / "toy robot.png", "--model", student)
    assert one.tobytes() == other.tobytes()


def test_a_token_that_may_only_read_is_named(hub, dataset, folder):
    ended = run("train.dataset", folder / "run", "--push-to-hub", "me/refused")
    assert ended.code == 2 and "HF_TOKEN" in ended.message and "may write" in ended.message


@pytest.fixture
def away(writer, slept):
    """The hub cannot be reached any more when a command wants to upload."""
    address, start = f"http://127.0.0.1:{free_port()}", HfApi.__init__

    def without_network(self, *given, **named):
        start(self, *given, **named | {"endpoint": address})

    with mock.patch.object(HfApi, "__init__", without_network):
        yield


def test_a_dataset_is_kept_when_the_network_is_lost(away, dataset, folder):
    ended = run("train.dataset", folder / "run", "--push-to-hub", "me/away")
    assert ended.code == 2 and "me/away" in ended.message and "cannot be reached" in ended.message


def test_a_student_is_kept_when_the_network_is_lost(away, student, dataset):
    ended = run("train.train", dataset.parent, "--out", student, *FLUX, *QUICK, "--push-to-hub", "me/away")
    assert ended.code == 2 and "me/away" in ended.message and "cannot be reached" in ended.message


# ---------------------------------------------------------------- the doctor


def test_the_doctor_says_that_the_license_was_not_accepted(hub, tmp_path):
    """The command runs in a process of its own, which reaches the hub through HF_ENDPOINT."""
    hub.readers.add("hf_other")
    command = [sys.executable, "-m", "dsd.doctor", "--json"]
    here = environment(hub.address, tmp_path, "hf_other")
    ended = subprocess.run(command, env=here, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    facts = json.loads(ended.stdout)["facts"]
    assert facts["token"] and facts["access"] == "refused"
    assert ("GET", f"/api/models/{shelf.DEV}/auth-check") in hub.seen
