"""The command, end to end on toys: what is missing is made, what is there is not, and the scores are told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from dsd.files import jsonl
from dsd.grids.teacher import panel_side
from dsd.model import canvas, latents
from dsd.pocket import scorer
from dsd.training.student import find_base
from tests import student, tiny, wheel
from train import dataset
from train.baselines import __main__ as command
from train.baselines import (
    comparing,
    entries,
    image_prompt,
    per_subject,
    picture,
    scoring,
    single_frame,
    workshop,
)
from train.baselines.ablations import ABLATIONS
from train.baselines.per_subject import Tuning

QUICK = (
    "--steps 1 --batch 2 --accumulate 1 --warmup 0 --ema 0 --full --precision fp32 --search-steps 1"
    " --critters 2 --prompts 1 --seeds 2 --search-critters 2 --tuning-steps 1 --draw-steps 1"
    " --draw-batch 4 --image-guidance 1"
).split()  # fmt: skip
SEARCHED = ["ours", "reference tokens", "textual inversion"]
ROWS = [*SEARCHED, "ours with full caption", "prompted teacher", "VAE of the reference"]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory) -> Path:
    """A scorer of other weights than the one that measures."""
    folder = tmp_path_factory.mktemp("ranker")
    torch.manual_seed(0)
    other = scorer.Scorer(width=4, features=8, size=64)
    other.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def flags(tmp_path_factory, ranker) -> list[str]:
    folder = tmp_path_factory.mktemp("run")
    run = wheel.make_run(folder / "run")
    dataset.main([str(run)])
    teacher = student.teacher(folder / "teacher")
    return [str(run), "--model", str(teacher), "--ranker", str(ranker), *QUICK]


@pytest.fixture(scope="module")
def compared(flags, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert command.main([*flags, "--out", str(out), "--only", *ROWS]) == 0
    return out


def test_every_row_has_scores_traits_and_costs(compared):
    page = (compared / "scores.md").read_text()
    for name in ROWS:
        assert page.count(f"\n| {name} | ") >= 3
    for name in ("chance", "truth (ceiling)"):
        assert f"\n| {name} | " in page
    kept = json.loads((compared / "scores.json").read_text())
    assert {"identity", "following", "product", "debiased", "copy"} <= kept["scores"]["ours"].keys()
    costs = kept["settings"]["costs"]
    assert costs["ours"]["chosen"] in (pytest.approx(1e-4 / 3), 1e-4, pytest.approx(3e-4))
    new_columns = 16 * 32
    assert costs["ours"]["parameters"] == costs["reference tokens"]["parameters"] + new_columns
    assert costs["textual inversion"]["parameters"] == 64
    assert costs["textual inversion"]["seconds_per_subject"] > 0
    assert costs["ours with full caption"] == costs["ours"] | {"tried": []}


def test_each_choice_is_the_one_that_the_ranker_liked_best(compared):
    choices = json.loads((compared / "choices.json").read_text())
    assert {*choices} == {*SEARCHED}
    for kept in choices.values():
        assert len(kept["products"]) == 3
        assert kept["products"][f"{kept['chosen']:g}"] == max(kept["products"].values())


def test_a_second_run_makes_nothing_and_says_the_same(compared, flags, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("it is made already")

    out, names = tmp_path / "copy", ["reference tokens", "textual inversion"]
    shutil.copytree(compared, out)
    monkeypatch.setattr(workshop, "train", fail)
    monkeypatch.setattr(entries.textual_inversion, "tuned", fail)
    command.main([*flags, "--out", str(out), "--only", *names])
    before, after = (json.loads((folder / "scores.json").read_text()) for folder in (compared, out))
    assert [*after["scores"]][:2] == names
    for name in names:
        assert after["scores"][name] == before["scores"][name]
        assert after["settings"]["costs"][name] == before["settings"]["costs"][name]


@pytest.mark.parametrize("part", ["vae", "text_encoder_2"])
def test_what_another_teacher_made_is_made_again(flags, tmp_path, part):
    def made() -> list[str]:
        args = command._parser().parse_args([*flags, "--out", str(tmp_path)])
        options = command.options_of(args)
        shop = command._workshop(args, options, scoring.measured_cases(2, 1, 1))
        tuned = entries.make_tuned(shop, entries.INVERSION, 1e-3, True)
        keys = [make(shop, 0.5, True).key for make in (entries.make_teacher, entries.make_sdedit)]
        return [*keys, tuned.key, workshop._digest(shop, "ours", options, shop.pairs)]

    flags = [*flags, "--model", str(tmp_path / "teacher")]
    pipe = FluxPipeline.from_pretrained(student.teacher(tmp_path / "teacher"))
    before = made()
    assert made() == before
    next(getattr(pipe, part).parameters()).data.add_(1)
    pipe.save_pretrained(tmp_path / "teacher")
    assert all(old != new for old, new in zip(before, made(), strict=True))


def test_the_image_encoder_is_the_judges_unless_named(flags, tmp_path):
    with pytest.raises(ValueError, match="comes with no judge whose eyes.*--image-encoder"):
        command.main([*flags, "--out", str(tmp_path / "out"), "--only", "ours", "image-encoder tokens"])
    assert not (tmp_path / "out").exists()  # it is said before ours is trained


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--only", "magic"], "--only 'magic' is no row: choose among ours, ours with full"),
        (["--critters", "1"], "--critters must be at least 2, got 1"),
        (["--references", "2", "--sizes", "32x48"], "--references and --sizes cannot be compared"),
        (["--start-from", "a-student"], "--start-from cannot be compared: every row"),
        (["--validate-every", "5"], "--validate-every has no effect.*drop it"),
        (["--ranker", "nowhere"], "there is no ranker in nowhere"),
        (["--ranker", str(scoring.SCORER)], "is the scorer that measures"),
    ],
)
def test_a_mistake_is_a_sentence_before_anything_is_made(flags, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        command.main([*flags, "--out", str(tmp_path / "out"), *wrong])
    assert not (tmp_path / "out").exists()


def test_no_two_images_share_their_noise():
    cases = scoring.measured_cases(3, 4, 5)
    assert len(cases) == 60 and len({case.seed for case in cases}) == 60


def test_the_picture_shows_ours_beside_the_best_rival(compared, tmp_path, capsys):
    with pytest.raises(ValueError, match="lacks the rows DreamBooth-LoRA: run python -m train.baselines"):
        picture.main([str(compared), "--picture", str(tmp_path / "a.png")])
    results = json.loads((compared / "results.json").read_bytes())["scores"]
    named = {"product": {"mean": 0.4}}
    better = {"SDEdit": named, "DreamBooth-LoRA": named, "reference tokens": {"product": {"mean": 0.2}}}
    assert picture.choose_ways(results | better)[2] == "SDEdit"
    ways = ["ours", "prompted teacher", "reference tokens", "textual inversion"]
    rows = picture.choose_rows(jsonl.read(compared / "images.jsonl"), ways, 2)
    page = picture.compose(compared, results, ways, rows)
    assert page.size == (8 + 5 * 168, 56 + 2 * 190)
    assert [row["ours"]["subject"] for row in rows] == ["0000", "0001"]
    assert [row["ours"]["seed"] for row in rows] == [0, 1000]
    first = Image.open(compared / "images" / rows[0]["ours"]["file"]).resize(
        (160, 160), Image.Resampling.BICUBIC
    )
    assert page.crop((176, 78, 336, 238)).tobytes() == first.convert("RGB").tobytes()


def test_the_rows_that_are_told_the_subject_are_marked():
    options = command.options_of(command._parser().parse_args(["run", "--out", "out"]))
    given = {"run": Path("run"), "out": Path("out"), "options": options, "cases": [], "search_steps": 1}
    some = entries.baselines(workshop.Workshop(**given, tuning=Tuning()))
    assert {one.name for one in some if one.described or one.names_subject} == {
        "ours with full caption", "prompted teacher", "SDEdit", "DreamBooth-LoRA"
    }  # fmt: skip
    case = scoring.measured_cases(2, 1, 1)[0]
    (subject,) = per_subject.find_subjects([case]).values()
    assert f"a {subject.words} {case.prompt}" == case.caption  # what DreamBooth draws from


def test_what_only_tunes_opens_the_teacher_once(monkeypatch):
    opened = []
    monkeypatch.setattr(workshop.Workshop, "_open_teacher", lambda shop: opened.append(shop) or shop)
    monkeypatch.setattr(workshop.Workshop, "pipe", tiny.pipeline(), raising=False)
    given = {"run": Path("run"), "out": Path("out"), "options": None, "cases": [], "search_steps": 1}
    shops = [workshop.Workshop(**given, tuning=Tuning()) for _ in range(2)]
    assert shops[0].tuned_teacher and shops[0].teacher_hashes == shops[1].teacher_hashes
    assert opened == shops


def test_an_ablation_brings_our_row_along():
    entry = [
        entries.Entry(name, None, like=like) for name, like in (("ours", None), ("b", "ours"), ("c", None))
    ]
    assert [one.name for one in comparing.select(entry, ["b"])] == ["ours", "b"]
    assert [one.name for one in comparing.select(entry, ["c"])] == ["c"]


def test_an_ablation_gets_its_rows_and_as_many_as_it_should(flags, tmp_path):
    given = {"run": Path(flags[0]), "out": tmp_path, "options": None, "cases": [], "search_steps": 1}
    shop = workshop.Workshop(**given, tuning=Tuning())
    named = {one.name: entries.ablated_pairs(shop, one) for one in ABLATIONS}
    assert len(shop.pairs) == len(named["columns from 1"]) == len(named["no curation"]) == 12
    assert [len(named[f"{name} of the pairs"]) for name in ("half", "a quarter", "an eighth")] == [6, 3, 2]
    kept, every, floor = (
        {row["reason"] for row in named[name]}
        for name in ("columns from 1", "no curation", "similarity alone")
    )
    assert kept == {"same subject"} < every and floor < every | {"unreadable"}


@pytest.mark.parametrize("one", ABLATIONS, ids=lambda one: one.name)
def test_every_ablation_changes_something(one):
    options = command.options_of(command._parser().parse_args(["run", "--out", "out"]))
    known = vars(options)
    assert one.changes.keys() <= known.keys()
    assert one.changes or one.share < 1 or one.which != "judge"


@torch.no_grad()
def test_pockets_judge_lends_its_eyes():
    options = command.options_of(command._parser().parse_args(["run", "--out", "out"]))
    given = {"run": Path("run"), "out": Path("out"), "options": options, "cases": [], "search_steps": 1}
    shop = workshop.Workshop(**given, tuning=Tuning())
    model = single_frame.open_trainable(
        image_prompt.wrapper(shop.encoder()), find_base(options), options, torch.float32
    )
    pipe, cases = shop.teacher.pipe, scoring.measured_cases(2, 1, 1)
    side = panel_side(pipe)
    pixels = canvas.to_tensor([canvas.fit(case.reference, side, side) for case in cases])
    tokens = model.see(latents.pack(latents.encode(pipe.vae, pixels)), (side, side))
    assert tokens.shape[0] == 2 and tokens.shape[2] == model.project[0].in_features
    assert (tokens[0] - tokens[1]).std() > 0.1 * tokens.std()


def test_what_is_measured_takes_no_part_in_the_choice(ranker):
    trial, measured = scoring.trial_benchmark(4, ranker), scoring.measured_cases(4, 1, 1)
    assert trial.scorer.network is not scorer.load()
    critters = [{case.facts.critter for case in cases} for cases in (trial.cases, measured)]
    assert len(critters[0]) == len(critters[1]) == 4 and critters[0].isdisjoint(critters[1])
