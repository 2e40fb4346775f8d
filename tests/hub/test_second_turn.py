"""The second turn of the wheel on FLUX: a LoRA of the teacher, here and in plain diffusers."""

from pathlib import Path

import pytest
from diffusers import FluxPipeline
from safetensors.torch import load_file

from dsd.files import jsonl
from dsd.model.presets import LORA
from tests import wheel
from tests.hub import shelf
from tests.hub.running import run, succeed
from tests.hub.wheel import FLUX

FEW = "--share 0.3 --steps 1 --batch 1 --accumulate 1 --rank 2 --lr 0.01 --warmup 1 --text-tokens 32".split()
PROMPT = {
    "id": "000000", "prompt": "two foxes", "subject": "fox", "places": ["here", "there"], "rows": 1,
    "columns": 2, "recipe": "identity", "seed": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def tuned(hub, tmp_path_factory) -> Path:
    """A LoRA of FLUX.1-dev, trained on a grid of its own."""
    first = wheel.make_run(tmp_path_factory.mktemp("turns") / "one", grids=1, generator="flux-dev")
    assert "on 1 grids that" in succeed("train.teacher", first, *FLUX, *FEW).out
    return first / "teacher" / LORA


def draw(folder: Path, *flags: object) -> jsonl.Row:
    jsonl.write_rows(folder / "prompts.jsonl", [PROMPT])
    succeed("train.grids", folder, *FLUX, "--steps", 1, "--panel", 64, *flags)
    return jsonl.read(folder / "grids" / "grids.jsonl")[0]


def test_a_lora_of_flux_draws_and_has_its_license(tuned, tmp_path):
    plain, drawn = draw(tmp_path / "plain"), draw(tmp_path / "drawn", "--teacher-lora", tuned)
    assert plain["generator_hash"] != drawn["generator_hash"] and drawn["generator"] == "flux-dev"
    assert "Non-Commercial" in drawn["license"] and "Non-Commercial" in drawn["teacher_lora"]["license"]
    assert "Non-Commercial" in (tuned.parent / "README.md").read_text()


def test_any_other_lora_for_flux_draws_and_its_license_is_not_known(tuned, tmp_path):
    jsonl.write_rows(tmp_path / "prompts.jsonl", [PROMPT])
    flags = ("--model", "flux-schnell", "--steps", 1, "--panel", 64, "--teacher-lora", f"{shelf.STYLE}:0.5")
    succeed("train.grids", tmp_path, *flags)
    (row,) = jsonl.read(tmp_path / "grids" / "grids.jsonl")
    assert (row["teacher_lora"]["file"], row["teacher_lora"]["scale"]) == (shelf.STYLE, 0.5)
    assert row["license"].startswith("unknown") and "run" not in row["teacher_lora"]


def test_plain_diffusers_opens_it(tuned):
    pipe = FluxPipeline.from_pretrained(shelf.DEV, text_encoder_2=None, tokenizer_2=None)
    before = len(pipe.transformer.state_dict())
    pipe.load_lora_weights(tuned.parent, weight_name=tuned.name)
    assert len(pipe.transformer.state_dict()) == before + len(load_file(tuned))


def test_only_flux_takes_a_lora_of_the_teacher(tuned, tmp_path):
    jsonl.write_rows(tmp_path / "prompts.jsonl", [PROMPT])
    ended = run("train.grids", tmp_path, "--model", "z-image", "--panel", 64, "--teacher-lora", tuned)
    assert ended.code == 2 and "a teacher's LoRA is for FLUX.1" in ended.message
