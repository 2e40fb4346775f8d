"""Grids on disk are never lost, mixed or drawn twice, whoever was killed and however many share the work."""

import multiprocessing
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from dsd.files import jsonl, whole
from dsd.files.jsonl import RunError
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.gutters import equal_boxes
from dsd.grids.prompts import Prompt
from dsd.grids.teacher import Settings
from train import grids as command

STAMP = {
    "generator": "fake", "generator_hash": "0" * 12, "license": "Apache-2.0",
    "steps": 4, "guidance": 2.0, "margin": 1,
}  # fmt: skip


class Fake:
    """A teacher whose grids are noise in four colors, each a function of its seed alone."""

    settings, stamp = Settings(batch=3), STAMP

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def refuse(self, prompt: Prompt) -> str | None:
        return "prompt too long: 9 tokens, the model reads 8" if "long" in prompt.prompt else None

    def draw(self, prompts: list[Prompt]) -> list[Image.Image]:
        self.asked.append([prompt.prompt for prompt in prompts])
        time.sleep(0.002)
        return [paint(prompt.seed) for prompt in prompts]


def paint(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    colors = rng.permutation([(200, 30, 30), (30, 160, 30), (30, 30, 200), (230, 230, 60)])
    colors = np.zeros_like(colors) if seed % 5 == 0 else colors  # no panels to be seen
    pixels = np.kron(colors.reshape(2, 2, 3), np.ones((32, 32, 1), int)) + rng.integers(0, 8, (64, 64, 3))
    for x, y in ((8, 12), (40, 12), (8, 44), (40, 44)):  # an object in each panel
        pixels[y : y + 8, x : x + 8] += 50 * colors.any()
    return Image.fromarray(pixels.astype(np.uint8))


def make_run(run: Path, count: int = 20, **other) -> Path:
    prompts = [
        {
            "id": f"{i:06}", "prompt": f"{'long ' * (i % 7 == 3)}prompt {i}", "subject": f"fox {i}",
            "places": ["a", "b", "c", "d"], "rows": 2, "columns": 2, "recipe": "critters", "phrasing": 0,
            "caption": "a fox", "writer": "grammar", "seed": 100 + i, **other,
        }
        for i in range(count)
    ]  # fmt: skip
    with jsonl.writing(run / "prompts.jsonl") as append:
        append(prompts)
    return run


def work(run: Path, fake: Fake | None = None, batch: int | None = None) -> list[dict]:
    """What the command does, with a fake teacher; returns the rows."""
    fake, prompts = fake or Fake(), grids.read_prompts(run)
    grids.check_run(run, prompts, fake.stamp)
    command.draw_run(run, prompts, fake, batch=batch or fake.settings.batch)
    whole.sweep(run)
    return jsonl.read(grids.table(run))


def files(run: Path) -> dict[str, bytes]:
    """All that a run left, but for the locks."""
    return {path.name: path.read_bytes() for path in (run / "grids").iterdir() if path.suffix != ".lock"}


def test_every_prompt_becomes_a_row_with_its_image_or_its_reason(tmp_path):
    found = work(make_run(tmp_path, 8))
    assert [row["id"] for row in found] == [f"{i:06}" for i in range(8)]
    assert found[1] == {
        "id": "000001", "file": "000001.png", "prompt": "prompt 1", "seed": 101, "rows": 2, "columns": 2,
        "recipe": "critters", "subject": "fox 1", "places": ["a", "b", "c", "d"], **STAMP, "rejected": None,
        "panel": None, "boxes": [[0, 0, 32, 32], [32, 0, 64, 32], [0, 32, 32, 64], [32, 32, 64, 64]],
        "teacher_lora": None,
    }  # fmt: skip
    assert grids.open_grid(tmp_path, Grid.from_json(found[1])) == paint(101)
    assert found[3]["rejected"] == "prompt too long: 9 tokens, the model reads 8" and found[3]["file"] is None
    assert found[5]["rejected"].startswith("gutters: ") and grids.open_grid(
        tmp_path, Grid.from_json(found[5])
    ) == paint(105)
    assert sum(row["rejected"] is None for row in found) == 5
    assert sorted(files(tmp_path)) == sorted([row["file"] for row in found if row["file"]] + ["grids.jsonl"])


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


@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_an_image_that_is_gone_or_damaged_is_named_and_mended(tmp_path, damage):
    before = work(make_run(tmp_path)) and files(tmp_path)
    path = tmp_path / "grids" / "000004.png"
    whole = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(b"" if damage == "empty" else whole[:-400])
    if damage == "cut":  # is too dear to look for each time
        with pytest.raises(RunError, match="000004.png cannot be read .*--mend"):
            grids.open_grid(tmp_path, grids.read_grids(tmp_path)[4])
    else:
        with pytest.raises(RunError, match="1 grids are missing or empty, .*such as .*000004.png: .*--mend"):
            work(tmp_path)
    fake = Fake()
    assert grids.mend(tmp_path) == 1
    work(tmp_path, fake)
    assert files(tmp_path) == before and len(fake.asked) == 1
    assert grids.mend(tmp_path) == 0


@pytest.mark.parametrize("tail", [1, 40, 300])
def test_a_tail_of_zeros_as_a_power_failure_leaves_it_is_found(tmp_path, tail):
    rows = work(make_run(tmp_path, 3))
    grids.check_files(tmp_path)
    path = tmp_path / "grids" / "000001.png"
    path.write_bytes(path.read_bytes()[: -12 - tail] + b"\0" * (12 + tail))
    with pytest.raises(RunError, match="1 grids are damaged, such as .*000001.png: .*--mend"):
        grids.check_files(tmp_path)
    with pytest.raises(RunError, match="000001.png cannot be read .*--mend"):
        grids.open_grid(tmp_path, Grid.from_json(rows[1]))
    assert grids.mend(tmp_path) == 1
    assert work(tmp_path) == rows and grids.check_files(tmp_path) is None


@pytest.mark.parametrize("file", ["../../secret.png", "/etc/hostname", "link.png"])
def test_a_strangers_run_reads_no_file_outside_itself(tmp_path, file):
    run = make_run(tmp_path / "run", 1)
    (row,) = work(run)
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    (run / "grids" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(RunError, match="names the file .*, which is not in"):
        grids.open_grid(run, Grid.from_json(row | {"file": file}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 28}, "other settings .steps was 4, now 28.: use those again, or another folder"),
        ({"guidance": 1.0, "margin": 0}, "guidance was 2.0, now 1.0; margin was 1, now 0"),
        ({"generator_hash": "f" * 12}, "made with other settings .generator_hash was '0000"),
    ],
)
def test_grids_of_other_settings_are_not_mixed(tmp_path, change, message):
    work(make_run(tmp_path))
    fake = Fake()
    fake.stamp = {**STAMP, **change}
    with pytest.raises(RunError, match=message):
        work(tmp_path, fake)


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


# -- the command


@pytest.fixture
def fake(monkeypatch) -> Fake:
    fake = Fake()
    monkeypatch.setattr("dsd.grids.teacher.load_teacher", lambda name, **options: fake)
    yield fake
    PartialState._reset_state()


def test_the_command_draws_reports_and_goes_on(tmp_path, fake, capsys):
    run = make_run(tmp_path / "run")
    assert command.main([str(run), "--batch", "4"]) == 0
    told = capsys.readouterr()
    assert "20 grids in " in told.out and "14 kept, 3 gutters, 3 prompt too long; " in told.out
    assert "20/20" in told.err and "14 kept" in told.err and "grid/s" in told.err
    drawn = len(fake.asked)
    (run / "grids" / "000001.png").write_bytes(b"")
    with pytest.raises(RunError, match="--mend"):
        command.main([str(run), "--batch", "4"])
    assert command.main([str(run), "--batch", "4", "--mend"]) == 0 and len(fake.asked) == drawn + 1
    assert "1 grids will be drawn again" in capsys.readouterr().out
    shutil.rmtree(run / "grids")
    with pytest.raises(ValueError, match="--batch must be at least 1, got 0"):
        command.main([str(run), "--batch", "0"])


def test_each_prompt_is_drawn_with_several_seeds(tmp_path, fake):
    run = make_run(tmp_path / "run", 3)
    assert command.main([str(run)]) == 0
    before = jsonl.read(grids.table(run))
    assert command.main([str(run), "--seeds", "2"]) == 0
    rows = {row["id"]: row for row in jsonl.read(grids.table(run))}
    assert [rows[f"{i:06}"] for i in range(3)] == before and len(rows) == 6
    for i in range(3):
        first, second = rows[f"{i:06}"], rows[f"{i:06}_1"]
        assert first["prompt"] == second["prompt"] and grids.prompt_id(second["id"]) == first["id"]
    assert len({row["seed"] for row in rows.values()}) == 6
    assert (run / "grids" / "000001.png").read_bytes() != (run / "grids" / "000001_1.png").read_bytes()
    assert max(row["seed"] for row in rows.values()) < 2**32


def test_ids_of_further_seeds_take_no_other_prompts_place(tmp_path):
    prompts = grids.read_prompts(make_run(tmp_path, 2))
    prompts = [prompts[0], replace(prompts[1], id="000000_1")]
    assert grids.with_seeds(prompts, 1) == prompts
    with pytest.raises(RunError, match="--seeds 2 needs the id 000000_1, which another prompt has"):
        grids.with_seeds(prompts, 2)
    with pytest.raises(ValueError, match="--seeds must be at least 1, got 0"):
        grids.with_seeds(prompts, 0)


def test_a_grid_is_cut_where_its_gutters_are(tmp_path):
    """Drawn with white gutters 6 pixels wide, 3 pixels off."""
    fake, drawn = Fake(), paint(1)
    drawn.paste("white", (32, 0, 38, 64))
    drawn.paste("white", (0, 32, 64, 38))
    fake.draw = lambda prompts: [drawn] * len(prompts)
    (row,) = work(make_run(tmp_path, 1), fake)
    assert row["rejected"] is None and row["boxes"] != equal_boxes(drawn, 2, 2)
    cut = grids.open_panels(tmp_path, Grid.from_json(row))
    assert len({panel.size for panel in cut}) == 1 and cut[0].size < (30, 30)
    assert max(np.asarray(panel).min(axis=2).max() for panel in cut) < 200
    assert all(
        (2 * STAMP["margin"] + panel.width) == row["boxes"][0][2] - row["boxes"][0][0] for panel in cut
    )


def test_boxes_outside_of_the_grid_are_refused(tmp_path):
    work(make_run(tmp_path, 2))
    row = Grid.from_json(jsonl.read(grids.table(tmp_path))[1])
    with pytest.raises(ValueError, match="64 x 64 pixels has no 2x2 panels at .*96"):
        grids.open_panels(tmp_path, replace(row, boxes=[[0, 0, 32, 32]] * 3 + [[64, 64, 96, 96]]))
