"""A dataset's card tells what happened, the hub gets all of it, and one command does everything."""

import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image, ImageChops

from dsd.curation.dataset import push, write_dataset
from dsd.curation.dataset_card import MEANINGS, sample_sheet, write_card
from dsd.curation.selection import FLUX_DEV, Choice, read_run
from dsd.files.hub import LoadError
from dsd.files.jsonl import RunError
from dsd.files.pairs import COLUMNS, read_pairs
from dsd.model.presets import PRESETS
from tests import wheel
from train import dataset as command


@pytest.fixture
def run(tmp_path):
    return wheel.make_run(tmp_path / "run")


# ---------------------------------------------------------------- the card


def make_card(run: Path, choice: Choice | None = None, **options: object) -> DatasetCard:
    found, choice = read_run(run), choice or Choice()
    written = write_dataset(found, run / "dataset", choice)
    write_card(found, written, choice, **options)
    return DatasetCard.load(run / "dataset" / "README.md")


def test_the_card_counts_what_was_kept_and_why_not(run):
    wheel.append(run / "grids" / "grids.jsonl", [wheel.make_grid(run, 3) | {"rejected": "no gutter"}])
    text = make_card(run).text
    assert "4 grids were drawn, which gave 18 pairs of panels; the judge kept 6 of them, 33.3%" in text
    for line in ("rejected: no gutter | 1 (25.0%)", "too alike | 3 (16.7%)", "a tiny judge | 12 (100.0%)"):
        assert f"| {line} |" in text
    assert (
        "pocket (weights 0123456789ab, Apache-2.0), 2x2 panels, 28 steps, guidance 3.5 | 3 (100.0%) |" in text
    )


def test_the_card_names_the_task_and_the_lora_of_the_teacher(tmp_path):
    lora = {"file": "turn-one.safetensors", "hash": "0123456789ab", "scale": 0.5, "license": "Apache-2.0"}
    run = wheel.make_run(tmp_path, grids=1, recipe="relight", teacher_lora=lora)
    card = make_card(run)
    assert card.data.pretty_name == "Pairs of one scene in two lights" in card.text
    assert "kept those that show one scene in two lights." in card.text and "same subject." not in card.text
    assert "to train a model that draws an image in another light." in card.text
    (line,) = [line for line in card.text.splitlines() if "2x2 panels" in line]
    assert "with LoRA turn-one.safetensors (SHA-256 0123456789ab, scale 0.5)" in line


def judged_by(run: Path, name: str) -> Path:
    for path in (run / "pairs.jsonl", run / "captions.jsonl"):
        path.write_text(path.read_text().replace("a tiny judge", name))
    return run


def test_the_head_of_the_card_is_what_the_hub_shows(run):
    head = make_card(judged_by(run, "pocket")).data
    assert head.license == "apache-2.0" and "image-to-image" in head.task_categories
    assert head.configs[0]["data_files"][0]["path"] == "train-*.parquet"
    assert list(MEANINGS) == list(COLUMNS)


def test_the_card_of_an_uncurated_dataset_says_so(run):
    text = make_card(run, Choice(which="all", max_rows=10)).text
    assert "**uncurated**" in text and "python -m train.dataset RUN --only all --max-rows 10\n" in text
    assert "**uncurated**" not in make_card(run).text


@pytest.mark.parametrize("generator", ["flux-dev", "black-forest-labs/FLUX.1-dev"])
def test_what_flux_dev_drew_is_marked_non_commercial(tmp_path, generator):
    run = wheel.make_run(tmp_path, grids=1, generator=generator, license="unknown: see the model's card")
    card = make_card(run)
    assert card.data.license == "other" and card.data.license_name.endswith("non-commercial-license")
    assert "**Non-commercial.**" in card.text and f"| {FLUX_DEV} | 4 (100.0%) |" in card.text
    assert (
        {row["generator_license"] for row in read_pairs(run)} == {FLUX_DEV} == {PRESETS["flux-dev"].license}
    )


@pytest.mark.parametrize(
    ("judge", "recipe", "strict", "unknown"),
    [
        ("pocket", "critters", "Apache-2.0", None),
        ("a tiny judge", "critters", "unknown", "captions by a tiny judge, judge a tiny judge"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "critters", "Qwen Research License (Non-Commercial)", None),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "critters", "Apache-2.0", None),
        ("google/gemma-3-4b-it", "critters", "Gemma Terms of Use", None),
        ("pocket", "identity", "unknown", "reference captions"),
    ],
)
def test_a_row_has_the_strictest_license_of_all_that_made_it(tmp_path, judge, recipe, strict, unknown):
    run = judged_by(wheel.make_run(tmp_path, grids=1, recipe=recipe), judge)
    card = make_card(run)
    assert {row["license"] for row in read_pairs(run)} == {strict}
    assert (card.data.license == "apache-2.0") == (strict == "Apache-2.0")
    warning = f"The license of these parts is not known: {unknown}."
    assert (warning in card.text) if unknown else ("**Unknown licenses.**" not in card.text)


def test_the_writer_of_the_prompts_counts_as_well(tmp_path):
    run = judged_by(wheel.make_run(tmp_path, grids=1), "pocket")
    wheel.append(run / "prompts.jsonl", [{"id": "000000", "writer": "gpt-9"}])
    assert "not known: writer gpt-9." in make_card(run).text


def test_a_license_that_is_not_known_is_not_made_up(tmp_path):
    run = wheel.make_run(tmp_path, grids=1, generator="a/b", license="unknown: see the model's card")
    assert make_card(run).data.license == "unknown"


def test_the_judges_grades_are_on_the_card(run, tmp_path):
    grades = tmp_path / "grades.json"
    share = {"pairs": 400, "share": 0.0625, "low": 0.04, "high": 0.09}
    judged = {
        **dict(
            judge="a tiny judge",
            pairs=800,
            seed=1,
            size=64,
            thresholds={"needed": 1, "votes": 1, "minimum_score": 3},
        ),
        **dict(
            in_all={"false keeps": share}, false_keeps={"hue": share}, false_drops={"striped critter": share}
        ),
        "verdicts": {"one critter": {"same subject": 7}},
    }
    grades.write_text(json.dumps(judged))
    text = make_card(run, grades=grades).text
    assert "## How good the judge is: a tiny judge" in text and "| hue | 400 | 6.2% | 4.0% to 9.0% |" in text
    for content, words in (("{}", "holds no grades"), ("[", "holds no grades"), (None, "No such file")):
        grades.unlink() if content is None else grades.write_text(content)
        with pytest.raises(RunError, match=words):
            make_card(run, grades=grades)


def test_the_image_shows_pairs_of_different_grids(run):
    written = write_dataset(run, run / "dataset")
    page = sample_sheet(read_run(run), written)
    first = read_pairs(run)[0]["conditioning"].resize((128, 128), Image.Resampling.BICUBIC)
    shown = page.crop((12, 12 + 24, 12 + 128, 12 + 24 + 128))
    assert max(high for _, high in ImageChops.difference(first, shown).getextrema()) <= 40
    assert page.width > page.height > 2 * 128  # three grids: two on the left, one on the right


# ---------------------------------------------------------------- the hub


class FakeHub:
    """Keeps what it is told; refuses with `status` if given."""

    def __init__(self, status: int | None = None):
        self.status, self.calls = status, []

    def create_repo(self, name, **options):
        self.calls.append(("create", name, options))
        if self.status:
            url = f"https://huggingface.co/api/datasets/{name}"
            raise HfHubHTTPError(
                "no", response=httpx2.Response(self.status, request=httpx2.Request("POST", url))
            )

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], options))


def test_a_dataset_is_uploaded_as_a_private_one(run):
    make_card(run)
    hub = FakeHub()
    assert push(run / "dataset", "me/pairs", api=hub) == "https://huggingface.co/datasets/me/pairs"
    (_, name, created), (_, uploaded, options) = hub.calls
    assert name == uploaded == "me/pairs" and created["private"] and created["repo_type"] == "dataset"
    kept = {
        path.name
        for path in (run / "dataset").iterdir()
        if any(path.match(p) for p in options["allow_patterns"])
    }
    assert kept == {"README.md", "samples.png", "train-00000-of-00001.parquet"}
    push(run / "dataset", "me/pairs", private=False, api=hub)
    assert hub.calls[2][2]["private"] is False


@pytest.mark.parametrize("status", [401, 403])
def test_an_upload_that_is_refused_asks_for_a_token(run, status):
    with pytest.raises(LoadError, match="does not let you write me/pairs: set the variable HF_TOKEN"):
        push(run, "me/pairs", api=FakeHub(status))


def test_a_name_that_is_none_is_refused_before_anything_is_sent(run):
    hub = FakeHub()
    with pytest.raises(LoadError, match="owner/name, got 'pairs'"):
        push(run, "pairs", api=hub)
    assert hub.calls == []


# ---------------------------------------------------------------- the command


def test_the_command_writes_each_kind_into_its_own_folder(run, capsys):
    assert command.main([str(run), "--only", "floor", "--max-rows", "12", "--words", "grid"]) == 0
    assert command.main([str(run)]) == 0
    assert len(read_pairs(run / "dataset-floor")) == len(read_pairs(run / "dataset")) == 12
    said = capsys.readouterr().out
    assert "12 rows in 1 file (1 new)" in said and "6 same subject" in said


def test_the_command_checks_before_it_writes(run, capsys):
    with pytest.raises(SystemExit):
        command.main([str(run), "--public"])
    assert "--public would have no effect without --push-to-hub" in capsys.readouterr().err
    assert not (run / "dataset").exists()
