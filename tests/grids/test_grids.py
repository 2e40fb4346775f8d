"""Grids are never lost, mixed or drawn twice, whoever was killed and however many share the work."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from tqdm import tqdm

from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.generate import provenance
from dsd.grids import grids
from dsd.grids.grids import Grid
from tests.grids.drawn_run import STAMP, Fake, files, make_run, paint, work


def test_every_prompt_becomes_a_row_with_its_image_or_its_reason(tmp_path):
    found = work(make_run(tmp_path, 8))
    assert [row["id"] for row in found] == [f"{i:06}" for i in range(8)]
    assert found[1] == {
        "id": "000001", "file": "000001.png", "prompt": "prompt 1", "seed": 101, "rows": 2, "columns": 2,
        "recipe": "critters", "subject": "fox 1", "places": ["a", "b", "c", "d"], **STAMP, "rejected": None,
        "panel": None, "boxes": [[0, 0, 32, 32], [32, 0, 64, 32], [0, 32, 32, 64], [32, 32, 64, 64]],
        "teacher_lora": None, "shared_noise": None, "refine": None,
    }  # fmt: skip
    assert grids.open_grid(tmp_path, Grid.from_json(found[1])) == paint(101)
    assert Image.open(tmp_path / "grids" / "000001.png").info["Source"] == provenance.MARK
    assert found[3]["rejected"] == "prompt too long: 9 tokens, the model reads 8" and found[3]["file"] is None
    assert found[5]["rejected"].startswith("gutters: ") and grids.open_grid(
        tmp_path, Grid.from_json(found[5])
    ) == paint(105)
    assert sum(row["rejected"] is None for row in found) == 5
    assert sorted(files(tmp_path)) == sorted([row["file"] for row in found if row["file"]] + ["grids.jsonl"])


def test_the_shipped_images_say_that_they_are_generated():
    assets = Path(__file__).parents[2] / "assets"
    run = list((assets / "pocket" / "run" / "grids").glob("*.png"))
    assert len(run) == 12
    assert {Image.open(file).info.get("Source") for file in [assets / "teaser.png", *run]} == {
        provenance.MARK
    }
    sheets = map(Image.open, (assets / "pocket" / "samples").iterdir())
    assert [sheet.getexif()[ExifTags.Base.ImageDescription] for sheet in sheets] == 3 * [provenance.MARK]


def test_what_is_done_is_not_drawn_again_and_more_prompts_are_added(tmp_path):
    fake = Fake()
    first = work(make_run(tmp_path, 8), fake, batch=3)
    assert fake.asked == [
        ["prompt 0", "prompt 1", "prompt 2"],
        ["prompt 4", "prompt 5"],
        ["prompt 6", "prompt 7"],
    ]
    work(tmp_path, fake, batch=3)
    assert len(fake.asked) == 3
    (tmp_path / "prompts.jsonl").unlink()
    assert work(make_run(tmp_path, 11), fake, batch=3)[:8] == first
    assert fake.asked[3:] == [["prompt 6", "prompt 7", "prompt 8"], ["prompt 9"]]  # whole blocks, as ever


def test_processes_share_the_blocks_and_leave_what_one_would(tmp_path, monkeypatch):
    work(make_run(tmp_path / "one"))
    two, fakes = make_run(tmp_path / "two"), [Fake(), Fake()]
    for process, fake in enumerate(fakes):
        prompts = {prompt.id: prompt for prompt in grids.read_prompts(two)}
        blocks = jsonl.split_blocks(list(prompts), batch=3, process=process, processes=2)
        with jsonl.resuming(grids.table(two), blocks, process=process) as (todo, append):
            for block in todo:
                drawn = grids.draw_grids(two / "grids", [prompts[name] for name in block], fake)
                append([grid.to_json() for grid in drawn])
    assert len(jsonl.shards(grids.table(two))) == 2 and len(fakes[0].asked) == 4 and len(fakes[1].asked) == 3
    jsonl.merge(grids.table(two))
    assert files(two) == files(tmp_path / "one")


@pytest.mark.all_faults
@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_killed_twenty_times_it_leaves_what_it_would_have_left_alone(tmp_path):
    whole, killed = make_run(tmp_path / "whole", 90), make_run(tmp_path / "killed", 90)
    work(whole)
    fork, rng, seen = multiprocessing.get_context("fork"), np.random.default_rng(5), []
    for _ in range(20):
        child = fork.Process(target=work_alone, args=(killed,))
        child.start()
        wait_for(child, lambda: len(list(killed.glob("grids/*.png"))) > 3 * len(seen), rng.uniform(0, 0.02))
        child.kill()
        child.join()
        seen.append(len(jsonl.read_all(grids.table(killed))))
    assert seen == sorted(seen) and len(set(seen)) > 5 and seen[0] < 90  # it was killed while at work
    work(killed)
    assert files(killed) == files(whole)


def work_alone(run: Path) -> None:
    """Forked processes share the bar's lock, which one that is killed never gives back; commands do not."""
    tqdm.set_lock(threading.RLock())
    work(run)


def wait_for(child, ready, seconds: float) -> None:
    """Until it has got somewhere, and a random moment more."""
    for _ in range(60_000):
        if ready() or not child.is_alive():
            break
        time.sleep(0.001)
    time.sleep(seconds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 28}, "other settings .steps was 4, now 28.: use those again, or another folder"),
        ({"guidance": 1.0, "margin": 0}, "guidance was 2.0, now 1.0; margin was 1, now 0"),
        ({"generator_hash": "f" * 12}, "made with other settings .generator_hash was '0000"),
        ({"shared_noise": 0.5}, "made with other settings .shared_noise was None, now 0.5"),
    ],
)
def test_grids_of_other_settings_are_not_mixed(tmp_path, change, message):
    work(make_run(tmp_path))
    fake = Fake()
    fake.stamp = {**STAMP, **change}
    with pytest.raises(RunError, match=message):
        work(tmp_path, fake)


def test_noise_that_was_shared_is_not_left_out_of_the_rest(tmp_path):
    fake = Fake()
    fake.stamp = {**STAMP, "shared_noise": 0.5}
    work(make_run(tmp_path), fake)
    with pytest.raises(RunError, match="shared_noise was 0.5, now None"):
        work(tmp_path)


def test_the_same_model_under_another_name_goes_on(tmp_path):
    first = work(make_run(tmp_path))
    fake = Fake()
    fake.stamp = {**STAMP, "generator": "assets/fake"}
    assert work(tmp_path, fake) == first


def test_grids_of_other_prompts_are_not_mixed(tmp_path):
    work(make_run(tmp_path))
    (tmp_path / "prompts.jsonl").unlink()
    with pytest.raises(RunError, match="row 000000 was made with other settings .seed was 100, now 5"):
        work(make_run(tmp_path, seed=5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no prompts: python -m train.prompts .* --count 1000 writes them"),
        (b"", "has no prompts"),
        (b'{"id": "1", "prompt": "x", "seed": 1}\n', "row '1' lacks columns, places, recipe, rows, subject"),
    ],
)
def test_prompts_that_are_missing_or_not_ours_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "prompts.jsonl").write_bytes(content)
    with pytest.raises(RunError, match=message):
        grids.read_prompts(tmp_path)


def test_an_id_cannot_lead_out_of_the_folder(tmp_path):
    with pytest.raises(RunError, match="an id may contain only letters, digits and _, got '../away'"):
        grids.read_prompts(make_run(tmp_path, 1, id="../away"))
    with pytest.raises(RunError, match="has two rows with the same id"):
        grids.read_prompts(make_run(tmp_path / "twice", 2, id="000001"))
