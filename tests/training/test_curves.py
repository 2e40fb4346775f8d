"""Curves show what the rows say: every number in its place, the reference fainter, nothing made up."""

import json
import math
import sys

import numpy as np
import pytest
from PIL import Image

from dsd.evaluation import scores
from dsd.model.presets import ASSETS, POCKET
from dsd.training import curves
from dsd.training.curves import Curves, Series, plot, read_series


def lines(offset: float = 0.0, steps=range(10, 410, 10), scored: bool = True) -> Series:
    rows = [{"step": step, "loss": 1 / step + 0.3 + offset, "rate": 1e-4} for step in steps]
    for row in rows[9::10] if scored else []:
        value = row["step"] / 500 + offset
        row |= {"identity": value, "identity_low": value - 0.05, "identity_high": value + 0.05}
        row |= {"identity_chance": 0.25, "identity_ceiling": 0.98, "copy": -0.1}
    return read_series(rows)


def labelled(panel) -> dict[str, object]:
    """The panel's lines by the first word of their labels."""
    return {line.get_label().split()[0]: line for line in panel.get_lines() if line.get_label()[0] != "_"}


def test_rows_become_series_and_the_last_of_one_step_counts():
    rows = [{"step": 2, "loss": 5.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0, "copy": 1}]
    series = read_series(rows)
    assert series["loss"][0].tolist() == [1, 2] and series["loss"][1].tolist() == [4.0, 3.0]
    assert series["copy"][0].tolist() == [2] and "step" not in series


def test_what_is_no_number_is_left_out():
    rows = [
        {"step": 1, "loss": math.nan, "alarm": "copying", "copy": None},
        {"step": 2, "loss": 1.0},
        {"loss": 9.0},
    ]
    series = read_series(rows)
    assert list(series) == ["loss"] and series["loss"][1].tolist() == [1.0]


def test_a_panel_has_a_line_for_each_score_with_its_band_last_value_and_levels():
    _, panel = plot(lines()).axes
    line = labelled(panel)["identity"]
    assert line.get_xdata().tolist() == [100, 200, 300, 400]
    assert line.get_ydata().tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert line.get_label().split() == ["identity", "0.800", "chance", "0.25", "truth", "0.98"]
    (band,) = panel.collections
    assert band.get_paths()[0].get_extents().extents == pytest.approx([100, 0.15, 400, 0.85])
    assert labelled(panel)["copy"].get_label() == "copy -0.100" and panel.get_ylim()[1] == 1.0
    colors = [labelled(panel)[name].get_color() for name in ("identity", "copy")]
    assert colors == [curves.COLORS[0], curves.COLORS[3]]


def test_without_scores_there_is_only_the_loss():
    assert [panel.get_title(loc="left") for panel in plot(lines()).axes] == ["loss", "scores"]
    assert [panel.get_title(loc="left") for panel in plot(lines(scored=False)).axes] == ["loss"]


def test_the_high_loss_of_the_first_steps_does_not_flatten_the_rest():
    (panel,) = plot(lines(steps=range(1, 400), scored=False)).axes
    assert panel.get_ylim()[1] < 0.5  # the first is 1.3


def test_the_reference_is_fainter_and_never_wider_than_twice_our_run():
    other = lines(0.1, range(10, 4000, 10), scored=False)
    (panel,) = plot(lines(scored=False), reference=other).axes
    reference = panel.get_lines()[0]
    assert reference.get_alpha() < 1 and reference.get_linestyle() == "--"
    assert reference.get_xdata().max() == 800 and "reference run" in panel.get_xlabel()


def test_a_short_run_is_compared_with_the_same_steps_of_the_reference():
    """A mean over the whole reference would put its first steps far below ours."""
    own, (long, short) = (
        lines(steps=range(1, 30), scored=False),
        (lines(steps=range(1, last), scored=False) for last in (9000, 59)),
    )
    one, other = (plot(own, reference=series).axes[0].get_lines()[0].get_ydata() for series in (long, short))
    assert np.array_equal(one, other)


def test_an_alarm_is_written_below_in_red():
    plain, alarmed = plot(lines()), plot(lines(), note="alarm: copying rose " * 12)
    assert alarmed.get_figheight() > plain.get_figheight()
    assert "copying rose" in alarmed.get_supxlabel() and not plain.get_supxlabel()


def test_one_row_is_enough():
    for row in ({"step": 1, "loss": 0.5}, {"step": 0, "copy": 0.0}):
        assert len(plot(read_series([row])).axes) == 1


def test_the_file_is_written_whole_and_the_same_each_time(tmp_path):
    log = Curves(tmp_path / "curves.jsonl")
    for step in range(10):
        log.add(step, {"loss": 1 / (1 + step)})
    for name in ("a.png", "b.png"):
        curves.write(log.file, tmp_path / name, reference=tmp_path / "none.jsonl")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_nothing_to_plot_is_said(tmp_path):
    log = Curves(tmp_path / "curves.jsonl")
    log.add(1, {"rate": 0.1})
    with pytest.raises(ValueError, match="curves.jsonl has no row with a step and a loss or a score yet"):
        curves.write(log.file, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ValueError, match="missing: pip install -r train/requirements.txt"):
        plot(lines())


def test_the_last_of_repeated_scores_counts(tmp_path):
    log = Curves(tmp_path / "curves.jsonl")
    reports = [(5, {"loss": 1.0}), (5, {"identity": 0.1}), (10, {"identity": 0.2}), (5, {"identity": 0.3})]
    for step, values in reports:
        log.add(step, values)
    assert log.scores() == [{"step": 5, "identity": 0.3}, {"step": 10, "identity": 0.2}]


def test_without_tensorboard_curves_are_written_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    log = Curves(tmp_path / "curves.jsonl", tmp_path / "board")
    log.add(1, {"loss": 0.5})
    assert (tmp_path / "curves.jsonl").exists() and not (tmp_path / "board").exists()


def test_the_reference_that_ships_is_of_the_default_training_and_its_scores_are_a_line():
    rows = [json.loads(line) for line in (ASSETS / "curves.jsonl").read_text().splitlines()]
    scored = [row["step"] for row in rows if "identity" in row]
    assert len(set(scored)) >= scores.FEWEST  # as many as the alarm looks at
    assert max(row["step"] for row in rows) == max(scored) == POCKET.training["steps"]
    assert len({(row["step"], "loss" in row) for row in rows}) == len(rows)
