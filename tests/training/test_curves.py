"""Curves show what the rows say: every number in its place, the reference fainter, nothing made up."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from dsd.evaluation import scores
from dsd.model.presets import ASSETS, POCKET
from dsd.training import curves

STEPS = range(10, 410, 10)


def lines(offset: float = 0.0, steps=STEPS, scored: bool = True) -> list[dict]:
    rows = [{"step": step, "loss": 1 / step + 0.3 + offset, "rate": 1e-4} for step in steps]
    if scored:
        for row in rows[9::10]:
            value = row["step"] / 500 + offset
            row |= {"identity": value, "identity_low": value - 0.05, "identity_high": value + 0.05}
            row |= {"identity_chance": 0.25, "identity_ceiling": 0.98, "copy": -0.1}
    return rows


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def color_of(name: str) -> tuple[int, int, int]:
    names = next(names for names in curves.PANELS.values() if name in names)
    code = curves.COLORS[names.index(name)]
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


def painted(page: Image.Image, color: tuple[int, int, int], slack: int = 12) -> np.ndarray:
    """Where the plots (not their keys) have about this color: [n, (row, column)]."""
    pixels = np.asarray(page)[:, : curves.LEFT + curves.WIDTH].astype(int)
    return np.argwhere(np.abs(pixels - color).max(axis=2) <= slack)


def test_rows_become_series_and_the_last_of_one_step_counts():
    rows = [{"step": 2, "loss": 5.0}, {"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.0, "copy": 1}]
    found = curves.series(rows)
    assert found["loss"][0].tolist() == [1, 2] and found["loss"][1].tolist() == [4.0, 3.0]
    assert found["copy"][0].tolist() == [2] and "step" not in found


def test_what_is_no_number_is_left_out():
    rows = [
        {"step": 1, "loss": math.nan, "alarm": "copying", "copy": None},
        {"step": 2, "loss": 1.0},
        {"loss": 9.0},
    ]
    found = curves.series(rows)
    assert list(found) == ["loss"] and found["loss"][1].tolist() == [1.0]


def test_a_rising_score_rises_to_the_right_and_ends_at_the_last_step():
    page = curves.draw(curves.series(lines()))
    dots = painted(page, color_of("identity"))
    dots = dots[dots[:, 0] > curves.HEAD + curves.TOP + curves.HEIGHT + curves.BOTTOM]  # the lower panel
    assert dots[dots[:, 1].argmin(), 0] > dots[dots[:, 1].argmax(), 0]  # rows count downwards
    assert abs(dots[:, 1].max() - (curves.LEFT + curves.WIDTH)) <= 3


def test_a_value_stands_at_its_height():
    page = curves.draw(curves.series([{"step": s, "following": 0.5, "copy": 0.0} for s in (1, 2, 3)]))
    top = curves.HEAD + curves.TOP
    low = -0.03  # the panel reaches a little below the lowest value
    expected = top + curves.HEIGHT * (1 - 0.5) / (1 - low)
    found = painted(page, color_of("following"))[:, 0]
    assert abs((found.min() + found.max()) / 2 - expected) <= 1.5


def test_without_scores_there_is_only_the_loss():
    both, loss = curves.draw(curves.series(lines())), curves.draw(curves.series(lines(scored=False)))
    assert both.height - loss.height == curves.HEIGHT + curves.TOP + curves.BOTTOM


def test_the_reference_is_fainter_and_never_wider_than_twice_our_run():
    own, other = (
        curves.series(lines(scored=False)),
        curves.series(lines(0.1, range(10, 4000, 10), scored=False)),
    )
    alone, both = curves.draw(own), curves.draw(own, reference=other)
    added = (np.asarray(both) != np.asarray(alone)).any(axis=2)[:, curves.LEFT : curves.LEFT + curves.WIDTH]
    assert added[:, curves.WIDTH * 3 // 4 :].any()  # it goes on where ours has ended
    top, left = curves.HEAD + curves.TOP + 4, curves.LEFT + curves.WIDTH * 3 // 4
    beyond = np.asarray(both)[top : top + curves.HEIGHT - 8, left : left + 100]
    assert beyond.min() > min(color_of("loss")) + 40
    right = painted(both, color_of("loss"))[:, 1].max()
    assert abs(right - (curves.LEFT + curves.WIDTH / 2)) <= 3


def test_a_short_run_is_compared_with_the_same_steps_of_the_reference():
    """A mean over the whole reference would put its first steps far below ours."""
    own = curves.series(lines(steps=range(1, 30), scored=False))
    long = curves.series(lines(steps=range(1, 9000), scored=False))
    page = curves.draw(own, reference=long)
    same = curves.draw(own, reference=curves.series(lines(steps=range(1, 59), scored=False)))
    assert np.abs(np.asarray(page).astype(int) - np.asarray(same)).max() == 0


def test_an_alarm_is_written_below_in_red():
    own = curves.series(lines())
    plain, alarmed = curves.draw(own), curves.draw(own, note="alarm: copying rose " * 12)
    assert alarmed.height > plain.height
    red = np.asarray(alarmed)[plain.height - 8 :].astype(int)
    assert ((red[..., 0] - red[..., 2]) > 100).sum() > 200


def test_one_row_is_enough():
    assert curves.draw(curves.series([{"step": 1, "loss": 0.5}])).size[0] > 0
    assert curves.draw(curves.series([{"step": 0, "copy": 0.0}])).size[0] > 0


def test_the_file_is_written_whole_and_the_same_each_time(tmp_path):
    write(tmp_path / "curves.jsonl", lines())
    for name in ("a.png", "b.png"):
        curves.write(
            tmp_path / "curves.jsonl", tmp_path / name, reference=tmp_path / "none.jsonl", title="run"
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_nothing_to_draw_is_said(tmp_path):
    write(tmp_path / "curves.jsonl", [{"step": 1, "rate": 0.1}])
    with pytest.raises(ValueError, match="curves.jsonl has no row with a step and a loss or a score yet"):
        curves.write(tmp_path / "curves.jsonl", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


@pytest.mark.parametrize(
    "ends, expected",
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ((0, 6000), [0, 2000, 4000, 6000]),
        ((0.31, 0.49), [0.35, 0.4, 0.45]),
        ((-0.14, 1), [0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_ticks_are_round_numbers(ends, expected):
    assert curves.ticks(*ends, 5) == pytest.approx(expected)


def test_a_long_line_keeps_its_shape():
    steps, values = curves._binned(np.arange(60_000), np.linspace(0, 1, 60_000))
    assert len(steps) == curves.POINTS and values[0] < 0.01 and values[-1] > 0.99
    assert np.allclose(np.diff(steps), 100)


def test_the_reference_that_ships_is_of_the_default_training_and_its_scores_are_a_line():
    rows = [json.loads(line) for line in (ASSETS / "curves.jsonl").read_text().splitlines()]
    scored = [row["step"] for row in rows if "identity" in row]
    assert len(set(scored)) >= scores.FEWEST  # as many as the alarm looks at
    assert max(row["step"] for row in rows) == max(scored) == POCKET.training["steps"]
    assert len({(row["step"], "loss" in row) for row in rows}) == len(rows)
