"""Damaged and forged files: an error in a sentence or the same result, and never a traceback."""

import random
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from dsd.curation import judge, review, selection  # noqa: E402
from dsd.curation.captions import Caption  # noqa: E402
from dsd.curation.dataset import write_dataset  # noqa: E402
from dsd.curation.judge import Pair  # noqa: E402
from dsd.files import contact_sheet, jsonl  # noqa: E402
from dsd.files.pairs import read_pairs  # noqa: E402
from dsd.generate import drawing, provenance  # noqa: E402
from dsd.grids import grids  # noqa: E402
from dsd.grids.grids import Grid  # noqa: E402
from dsd.grids.prompts import Prompt, PromptOptions, write_prompts  # noqa: E402
from tests import tiny, wheel  # noqa: E402
from tests.faults.forging import TIMES, VALUES, damage, forge, outcome  # noqa: E402


def read_run(run: Path) -> list[object]:
    """Read all rows as the commands after them do."""
    read = selection.read_run(run)
    review.open_review(run)
    judge.check_settings(run / "pairs.jsonl", thresholds=read.pairs[0].thresholds)
    items = selection.select(read, selection.Choice(which="all"))
    images = [image.tobytes() for item in items for image in grids.open_panels(run, item.grid)]
    return [grids.read_prompts(run), *vars(read).values(), items, images]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = wheel.make_run(tmp_path_factory.mktemp("fuzz") / "run", grids=2)
    for name in ("grids/grids.jsonl", "pairs.jsonl", "captions.jsonl"):  # with checksums, and all fields
        jsonl.write_rows(folder / name, jsonl.read(folder / name))
    pairs = [pair.to_json() for pair in judge.read_pairs(folder)]
    jsonl.write_rows(folder / "pairs.jsonl", pairs)
    write_prompts(folder, PromptOptions(count=2))
    judge.label(folder, pairs[0]["id"], "keep")
    return folder


ROWS = {
    "prompts.jsonl": Prompt,
    "grids/grids.jsonl": Grid,
    "pairs.jsonl": Pair,
    "captions.jsonl": Caption,
    "labels.jsonl": judge.Label,
}


@pytest.mark.seeds(1, 40)
@pytest.mark.parametrize("name", ROWS)
def test_damaged_rows_give_no_other_result(run, name, seed):
    """A row is as it was, or missing as after a kill, so that it is made again."""
    file, dice = run / name, random.Random(f"{name} {seed}")
    whole, rows = file.read_bytes(), jsonl.read_records(file, ROWS[name])
    try:
        for _ in range(TIMES):
            file.write_bytes(damage(whole, dice))
            read = outcome(lambda: jsonl.read_records(file, ROWS[name])) or []
            assert all(row in rows for row in read)
            outcome(lambda: read_run(run))
    finally:
        file.write_bytes(whole)


@pytest.mark.seeds(1, 40)
@pytest.mark.parametrize("name", ROWS)
def test_forged_rows_are_used_or_refused_in_a_sentence(run, name, seed):
    file, dice = run / name, random.Random(f"forged {name} {seed}")
    whole = file.read_bytes()
    try:
        for _ in range(TIMES):
            file.write_bytes(forge(whole, dice))
            outcome(lambda: read_run(run))
    finally:
        file.write_bytes(whole)


@pytest.mark.seeds(1, 40)
def test_damaged_grids_have_the_same_pixels_or_none(run, tmp_path, seed):
    dice, path = random.Random(f"png {seed}"), tmp_path / "grid.png"
    whole = contact_sheet.png(tiny.image(seed, (64, 64)))
    pixels = tiny.image(seed, (64, 64)).tobytes()
    for _ in range(4 * TIMES):
        path.write_bytes(damage(whole, dice))
        image = outcome(lambda: contact_sheet.read_png(path))
        assert image is None or image.tobytes() == pixels


@pytest.mark.seeds(1, 40)
def test_damaged_parquet_files_give_the_same_rows_or_none(run, tmp_path, seed):
    folder = write_dataset(run, tmp_path / "dataset", selection.Choice(which="all")).folder
    (file,) = folder.glob("*.parquet")
    whole, dice = file.read_bytes(), random.Random(f"parquet {seed}")
    rows = list(read_pairs(folder))
    for _ in range(TIMES):
        file.write_bytes(damage(whole, dice))
        read = outcome(lambda: list(read_pairs(folder)))
        assert read is None or read == rows


@pytest.mark.seeds(1, 40)
def test_forged_settings_of_an_image_are_used_or_refused_in_a_sentence(tmp_path, seed):
    dice, path, frame = random.Random(f"settings {seed}"), tmp_path / "image.png", tiny.image()
    settings = {name: 1 for name in drawing.SETTINGS} | {"prompt": "a hat", "fit": "crop", "steps": 1}
    settings |= {"width": 32, "height": 32, "quality": {"steps": 2}, "image_guidance": 1.0}
    for _ in range(TIMES):
        name, value = dice.choice([*settings]), dice.choice(VALUES)
        provenance.save(path, frame, settings | {name: value, "prompt": "a hat"}, frame)
        outcome(lambda: drawing.options_from(provenance.read_settings(path)))
        path.write_bytes(damage(path.read_bytes(), dice))
        outcome(lambda: provenance.read_reference(path))


def test_a_run_is_read_before_it_is_damaged(run):
    assert len(read_run(run)[-1]) == 96
