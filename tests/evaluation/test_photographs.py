"""Photographs are scored by the networks that are named, from a folder as people keep one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
)

from dsd.evaluation import scores, validation
from dsd.evaluation.benchmarks import OMNICONTEXT
from dsd.evaluation.critters import CritterScorer
from dsd.evaluation.photographs import PROMPTS, PhotographScorer, layout, read_cases
from dsd.files import jsonl
from dsd.files.hub import LoadError
from tests import tiny
from tests.chat.server import Chat, serving
from tests.evaluation.stand_ins import make_dreambench, make_omnicontext, said
from tests.judging import FakeJudge
from train import comparison, evaluate

SIDE = 16
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, str]:
    torch.manual_seed(0)
    dino, clip = tmp_path_factory.mktemp("dino"), tmp_path_factory.mktemp("clip")
    Dinov2Model(Dinov2Config(**SIZES, image_size=SIDE, patch_size=8)).save_pretrained(dino)
    BitImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(dino)
    words = tiny.tokenizers()[0]
    parts = {**SIZES, "intermediate_size": 24}
    config = CLIPConfig(
        text_config={
            **parts,
            "vocab_size": len(words),
            "max_position_embeddings": 77,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
        },
        vision_config={**parts, "image_size": SIDE, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(clip)
    words.save_pretrained(clip)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(clip)
    return {"identity": str(dino), "clip": str(clip)}


@pytest.fixture(scope="module")
def scorer(networks) -> PhotographScorer:
    return PhotographScorer(**networks, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Two subjects with one photograph each, one with three, and things that are none."""
    for number, name in enumerate(("01-red_fox.png", "teapot.jpg")):
        tiny.image(number, (80, 48)).save(tmp_path / name)
    (tmp_path / "corgi dog").mkdir()
    for number in range(3):
        tiny.image(10 + number, (48, 64)).save(tmp_path / "corgi dog" / f"{number}.png")
    (tmp_path / "notes.md").write_text("not a photograph")
    (tmp_path / "corgi dog" / "._0.png").write_bytes(b"")  # beside each file that a Mac copied
    return tmp_path


def test_a_folder_is_read_as_people_keep_one(folder):
    cases = read_cases(folder, 2, size=32)
    assert [case.subject for case in cases] == ["01-red_fox"] * 2 + ["corgi dog"] * 2 + ["teapot"] * 2
    assert cases[0].prompt == PROMPTS[0] and cases[0].caption == f"a red fox {PROMPTS[0]}"
    assert all(case.reference.size == (32, 32) for case in cases)
    assert [case.truth is not None for case in cases] == [False, False, True, True, False, False]
    assert cases[2].truth.tobytes() != cases[3].truth.tobytes()
    assert len({case.seed for case in cases}) == 6


def test_a_folder_may_bring_its_prompts(folder):
    (folder / "prompts.txt").write_text("on the moon\n\nat home\n")
    assert [case.prompt for case in read_cases(folder, 2)[:2]] == ["on the moon", "at home"]
    with pytest.raises(ValueError, match="prompts must be from 1 to 2, .* got 3"):
        read_cases(folder, 3)
    assert len(read_cases(folder)) == 6  # both prompts of three subjects


def test_two_subjects_of_one_name_are_refused(folder):
    tiny.image().save(folder / "corgi dog.jpg")  # beside the subfolder
    with pytest.raises(ValueError, match="has two subjects called 'corgi dog': rename one"):
        read_cases(folder)


def test_what_a_folder_lacks_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        read_cases(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least 2 subjects are needed, got 0"):
        read_cases(tmp_path / "empty")
    (folder / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match='"broken.png" is not an image'):
        read_cases(folder)


def test_the_reference_itself_is_the_same_subject_and_a_copy(folder, scorer):
    cases = read_cases(folder, 1, size=32)
    result = scores.evaluate(validation.by_copying, cases, scorer)
    for name in ("identity", "clip_i", "copy"):
        assert result.means[name].mean == pytest.approx(1, abs=1e-5)
    assert result.levels.chance["identity"].mean < 0.999
    assert result.levels.chance["copy"].mean == pytest.approx(0, abs=1e-6)


def test_other_photographs_of_the_subjects_are_the_ceiling_but_not_of_prompts(folder, scorer):
    (folder / "cat").mkdir()
    for number in range(2):
        tiny.image(20 + number).save(folder / "cat" / f"{number}.png")
    levels = scores.measure_levels(read_cases(folder, 1, size=32), scorer)
    assert set(levels.ceiling) == {"identity", "clip_i", "copy"}


def test_the_vectors_are_those_of_the_stock_forward_passes(folder, networks, scorer):
    cases = read_cases(folder, 1, size=32)
    images = [tiny.image(seed) for seed in (30, 31, 32)]
    row = scorer.score(cases, images)[1]
    clip, dino = (
        CLIPModel.from_pretrained(networks["clip"]),
        Dinov2Model.from_pretrained(networks["identity"]),
    )
    pixels = scorer.clip_pixels(images=[images[1], cases[1].reference], return_tensors="pt")
    with torch.no_grad():
        out = clip(**scorer.tokenizer([cases[1].caption], return_tensors="pt"), **pixels)
        seen = scorer.dino_pixels(images=[images[1], cases[1].reference], return_tensors="pt")
        tokens = dino(**seen).pooler_output
    assert row["following"] == pytest.approx(float(out.image_embeds[0] @ out.text_embeds[0]), abs=1e-5)
    assert row["clip_i"] == pytest.approx(float(out.image_embeds[0] @ out.image_embeds[1]), abs=1e-5)
    expected = torch.nn.functional.cosine_similarity(tokens[0], tokens[1], dim=0)
    assert row["identity"] == pytest.approx(float(expected), abs=1e-5)


def test_the_product_is_of_identity_and_following_image_by_image(folder, scorer):
    cases = read_cases(folder, 1, size=32)
    scored = scorer.score(cases, [tiny.image(seed) for seed in (30, 31, 32)])
    assert all(row["product"] == pytest.approx(row["identity"] * row["following"]) for row in scored)
    ours, critters = (
        {measure.name: measure.title for measure in kind.measures}
        for kind in (PhotographScorer, CritterScorer)
    )
    assert list(scored[0]) == list(ours) and ours["product"] == critters["product"]


def test_a_caption_longer_than_clip_reads_is_cut(folder, scorer):
    cases = [scores.Case(subject="s", reference=tiny.image(), prompt="p", caption="very " * 200, seed=0)]
    assert -1 <= scorer.score(cases, [tiny.image(1)])[0]["following"] <= 1


def test_checkpoints_are_compared_on_photographs(folder, networks, tmp_path, capsys):
    student, out = tmp_path / "student", tmp_path / "out"
    tiny.pipeline().save_pretrained(student)
    options = "--prompts 1 --steps 1 --image-guidance 1 --size 32 --device cpu".split()
    options += ["--dino", networks["identity"], "--clip", networks["clip"], "--out", str(out)]
    assert evaluate.main([f"toy={student}", "--images", str(folder), *options]) == 0
    page = capsys.readouterr().out
    assert "| toy | " in page and comparison.TEACHER not in page
    assert "3 subjects, 3 images for each row" in page and "| following (CLIP-T) | CP x PF |" in page
    assert Image.open(out / "samples.png").width == 130 * 2 + 330  # no truth for most of them


def test_dreambench_is_judged_end_to_end(networks, tmp_path, monkeypatch, capsys):
    """A folder as its authors publish it, random weights, and a judge that sees colors."""
    student, out = tmp_path / "student", tmp_path / "out"
    tiny.pipeline().save_pretrained(student)
    make_dreambench(tmp_path / "data", "live_subject/animal/00", "live_subject/animal/01", "style/00")
    judge = FakeJudge(said)
    monkeypatch.setattr(comparison, "open_vlm", lambda name, **options: judge)
    options = "--prompts 1 --steps 1 --image-guidance 1 --size 32 --device cpu --judge a-judge".split()
    options += ["--dino", networks["identity"], "--clip", networks["clip"], "--out", str(out)]
    command = [f"toy={student}", "--images", str(tmp_path / "data"), *options]
    assert evaluate.main(command) == 0
    said_once, about = capsys.readouterr(), json.loads((out / "results.json").read_bytes())
    assert "at most 36 questions about 12 images" in said_once.err
    count = len(judge.requests)  # fewer: equal questions about equal images are asked once
    assert 30 <= count <= 36
    assert about["protocol"]["benchmark"] == "DreamBench++" and about["protocol"]["rotations of chance"] == 1
    assert about["scores"]["copy of the reference"]["cp"]["mean"] == 1
    assert about["scores"]["copy of the reference"]["debiased"]["mean"] == 0
    assert {*about["groups"]["cp"]["toy"]} == {"animal", "all but style", "photorealistic"}
    assert "CP (judge), by group:" in said_once.out and "judge a tiny judge" in about["backbones"]
    (row, *_) = jsonl.read(out / "images.jsonl")
    assert row["reason"].startswith("CP: ") and row["cp"] == 0.5
    assert evaluate.main(command) == 0 and len(judge.requests) == count  # the answers are kept
    assert json.loads((out / "results.json").read_bytes()) == about


def test_omnicontext_is_judged_by_a_server_once_its_cost_is_confirmed(networks, tmp_path):
    student, out = tmp_path / "student", tmp_path / "out"
    tiny.pipeline().save_pretrained(student)
    make_omnicontext(tmp_path, "single_character", "multi_object", "single_object")
    options = "--steps 1 --image-guidance 1 --size 32 --device cpu --key NO_KEY".split()
    options += ["--dino", networks["identity"], "--clip", networks["clip"], "--out", str(out)]
    with serving(chat := Chat(schemas=True)) as address:
        command = [str(student), "--images", str(tmp_path), *options, "--judge", address]
        with pytest.raises(ValueError, match="may cost money: add --yes"):
            evaluate.main(command)
        assert chat.seen == []
        assert evaluate.main([*command, "--yes"]) == 0
    about = json.loads((out / "results.json").read_bytes())
    assert about["protocol"] | {"subjects": 2, "images": 2} == about["protocol"]
    assert about["protocol"]["benchmark"] == OMNICONTEXT and "judge judge-7b" in about["backbones"]
    assert about["scores"]["student"]["cp"]["mean"] == 0  # what the fake model answers
    assert 0 < len(chat.seen) <= 24 and all("response_format" in body for body in chat.seen)
    assert address not in (out / "report.html").read_text(encoding="utf-8")


def test_layout_sees_place_and_background():
    image = Image.fromarray(np.kron(np.eye(4, dtype=np.uint8) * 200, np.ones((16, 16), dtype=np.uint8)))
    assert layout(image, image) == pytest.approx(1)
    assert layout(image, Image.eval(image, lambda value: 255 - value)) == pytest.approx(-1)
    assert layout(image, Image.new("RGB", (9, 9), "red").convert("L")) == 0.0
    assert layout(image, image.rotate(90)) < 0.5


def test_what_must_be_downloaded_is_said(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match="facebook/dinov2-base must be downloaded once"):
        PhotographScorer()
    with pytest.raises(LoadError, match="not found: no/such/folder"):
        PhotographScorer("no/such/folder")
