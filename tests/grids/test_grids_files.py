"""Grids on disk: a damaged image is found and drawn again, and panels are cut where the gutters are."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.gutters import equal_boxes
from tests.grids.drawn_run import STAMP, Fake, files, make_run, paint, work


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
