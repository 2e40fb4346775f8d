"""`python -m train.teacher`: kept grids in, one LoRA file out, and `train.grids` draws with it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from diffusers import FluxPipeline
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from dsd.curation.dataset_card import _drawing
from dsd.curation.kept_grids import open_kept
from dsd.files import jsonl
from dsd.files.hub import LoadError
from dsd.files.jsonl import RunError
from dsd.grids.grids import describe_lora, read_grids
from dsd.grids.teacher import load_teacher
from dsd.model import latents, origin
from dsd.model.canvas import to_tensor
from dsd.model.presets import LORA
from dsd.training import estimate, teacher_lora
from dsd.training.options import TrainingError
from tests import student, wheel
from train import grids
from train import teacher as command

SHARE = "0.3"  # two of the six pairs of every grid are kept
FLAGS = (
    "--steps 4 --batch 2 --accumulate 1 --rank 2 --log-every 1 --save-every 2 --warmup 1 --lr 0.05 "
    "--text-tokens 16"
).split()


@pytest.fixture(autouse=True)
def alone():
    torch.set_num_threads(1)
    yield
    PartialState._reset_state()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return student.teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return wheel.make_run(tmp_path_factory.mktemp("run") / "first")


def tune(run: Path, out: Path, model: Path, *flags: str) -> Path:
    assert (
        command.main([str(run), "--out", str(out), "--model", str(model), "--share", SHARE, *FLAGS, *flags])
        == 0
    )
    return out / LORA


@pytest.fixture(scope="module")
def tuned(run, model, tmp_path_factory) -> Path:
    return tune(run, tmp_path_factory.mktemp("tuned"), model)


def test_the_two_frames_of_a_row_are_the_whole_grid(run):
    rows = open_kept(run, 0.3)
    assert len(rows) == 3 and rows.size == (64, 64)
    for row, grid in zip(rows, read_grids(run), strict=True):
        both = Image.new("RGB", (64, 64))
        both.paste(row["conditioning"], (0, 0))
        both.paste(row["target"], (32, 0))
        with Image.open(run / "grids" / grid.file) as image:
            assert both == image.convert("RGB") and row["caption"] == grid.prompt


def test_only_grids_with_enough_kept_pairs_are_taken(run, tmp_path):
    with pytest.raises(RunError, match="no grid of .* has 100% of its pairs kept, and the best has 33%"):
        open_kept(run)
    with pytest.raises(ValueError, match="--share must be above 0 and at most 1, got 0"):
        open_kept(run, 0)
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    pairs = [
        row | {"verdict": "keep"} if row["grid"] == "000001" else row
        for row in jsonl.read(copy / "pairs.jsonl")
    ]
    jsonl.write_rows(copy / "pairs.jsonl", pairs)
    assert [grid.id for grid in open_kept(copy).grids] == ["000001"]
    jsonl.write_rows(copy / "pairs.jsonl", [row for row in pairs if row["id"] != "000001-0-1"])
    with pytest.raises(RunError, match="best has 33%"):  # one pair of that grid is not judged
        open_kept(copy)


def test_the_batch_is_the_grid_and_the_loss_is_over_all_of_it(run, model, tmp_path, monkeypatch):
    seen = []

    def watch(transformer, batch, options, pipe):
        seen.append((batch, options, pipe))
        return loss(transformer, batch, options, pipe)

    loss = teacher_lora.loss
    monkeypatch.setattr(teacher_lora, "loss", watch)
    tune(run, tmp_path / "out", model, "--steps", "1")
    (batch, options, pipe), grid = seen[0], open_kept(run, 0.3)
    whole = [Image.open(run / "grids" / one.file).convert("RGB") for one in grid.grids]
    encoded = latents.pack(latents.encode(pipe.vae.cpu(), to_tensor(whole)))
    for data in batch.data:  # stored as float16
        assert min((data - one).abs().max() for one in encoded) < 2e-3 * encoded.std()
    assert batch.frame == (32, 64) and not batch.condition.any() and batch.embeds.shape[1] == 16
    assert options.guidance == grid.grids[0].guidance and options.text_dropout == 0


def test_the_plan_counts_grids_and_the_lora_alone(run, model, tuned, tmp_path, monkeypatch, capsys):
    make, plans = estimate.make, []
    monkeypatch.setattr(
        estimate, "make", lambda *args, **given: plans.append(make(*args, **given)) or plans[0]
    )
    tune(run, tmp_path / "out", model, "--steps", "1")
    said = capsys.readouterr().out
    assert "2 grids, " in said and "pairs, " not in said
    assert plans[0].trained == sum(value.numel() for value in load_file(tuned).values())


def test_stock_diffusers_opens_the_lora(tuned, model):
    pipe = FluxPipeline.from_pretrained(model)
    before = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    pipe.load_lora_weights(tuned.parent, weight_name=tuned.name)
    layers = load_file(tuned)
    moved = [name for name, value in layers.items() if "lora_B" in name and value.any()]
    assert moved and len(before) + len(layers) == len(pipe.transformer.state_dict())
    assert not any(
        module.training for module in pipe.transformer.modules() if "Dropout" in type(module).__name__
    )


def test_the_file_and_the_card_say_what_it_was_made_from(tuned, run):
    facts = origin.lora_facts(tuned)
    assert (facts["run"], facts["generator"], facts["grids"], facts["steps"]) == ("first", "pocket", 3, 4)
    assert facts["license"] == "unknown: see the model's card", "the teacher's own is not known"
    card = (tuned.parent / "README.md").read_text()
    assert (
        "3 grids of the run `first`" in card
        and "at least 30% of the pairs" in card
        and "| rank | 2 |" in card
    )
    losses = [row["loss"] for row in jsonl.read(tuned.parent / "curves.jsonl")]
    assert len(losses) == 4 and (tuned.parent / "curves.png").exists()


def test_a_killed_training_goes_on_to_the_same_bytes(tuned, run, model, tmp_path, monkeypatch):
    def killed(self, done, values):
        if done == 3:
            raise KeyboardInterrupt
        step(self, done, values)

    step = command.TeacherReport.step
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(command.TeacherReport, "step", killed)
        tune(run, tmp_path / "out", model)
    assert not (tmp_path / "out" / LORA).exists()
    steps = []
    monkeypatch.setattr(command.TeacherReport, "step", lambda self, done, values: steps.append(done))
    assert tune(run, tmp_path / "out", model).read_bytes() == tuned.read_bytes() and steps == [3, 4]


def draw(folder: Path, model: Path, *flags: str) -> dict:
    """Draw one grid of 64 pixels and return its row."""
    prompt = {
        "id": "000000", "prompt": "four foxes", "subject": "fox", "places": list("abcd"), "rows": 2,
        "columns": 2, "recipe": "critters", "seed": 7,
    }  # fmt: skip
    jsonl.write_rows(folder / "prompts.jsonl", [prompt])
    usual = ("--model", str(model), "--like", "pocket", "--panel", "32", "--steps", "2", "--device", "cpu")
    assert grids.main([str(folder), *usual, *flags]) == 0
    return jsonl.read(folder / "grids" / "grids.jsonl")[0]


def test_grids_are_drawn_with_the_lora_and_record_it(tuned, model, tmp_path):
    plain = draw(tmp_path / "plain", model)
    none = draw(tmp_path / "none", model, "--teacher-lora", f"{tuned}:0")
    drawn = draw(tmp_path / "drawn", model, "--teacher-lora", str(tuned))
    images = [Image.open(tmp_path / name / "grids" / "000000.png") for name in ("plain", "none", "drawn")]
    assert images[0] == images[1] and ImageChops.difference(images[0], images[2]).getbbox()
    assert plain["teacher_lora"] is None and len({row["generator_hash"] for row in (plain, none, drawn)}) == 3
    lora = drawn["teacher_lora"]
    assert (lora["file"], lora["scale"], lora["grids"], lora["run"]) == (LORA, 1.0, 3, "first")
    assert len(lora["hash"]) == 12 and none["teacher_lora"]["hash"] == lora["hash"]
    (grid,) = read_grids(tmp_path / "drawn")
    assert (
        f"with LoRA {LORA} (SHA-256 {lora['hash']}, scale 1; 4 steps on 3 kept grids of first)"
        in _drawing(grid)
    )
    with pytest.raises(RunError, match="generator_hash was"):
        draw(tmp_path / "drawn", model)


def test_a_file_cannot_say_that_it_is_another(tuned, model, tmp_path):
    forged = {"file": "other.safetensors", "hash": "0" * 12, "scale": 9.0, "run": "famous"}
    save_file(load_file(tuned), tmp_path / LORA, {origin.METADATA: json.dumps(forged)})
    lora = load_teacher(str(model), like="pocket", lora=str(tmp_path / LORA), device="cpu").lora
    assert lora["file"] == LORA and lora["scale"] == 1.0 and lora["hash"] != forged["hash"]
    assert "famous" not in describe_lora(lora), "it does not say how many grids and steps"


def test_a_lora_for_another_model_is_refused(tuned, model, tmp_path):
    with pytest.raises(LoadError, match="is for another model|changes no layer of this model"):
        load_teacher("pocket", lora=str(tuned), device="cpu")


def test_a_model_that_sees_a_reference_cannot_be_tuned(run, tmp_path):
    pipe = student.tiny.pipeline()
    pipe.save_pretrained(tmp_path / "widened")
    with pytest.raises(TrainingError, match="only a FluxPipeline .* can be tuned"):
        tune(run, tmp_path / "out", tmp_path / "widened")
