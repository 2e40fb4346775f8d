"""Loss and scores over the steps of a training: rows in `curves.jsonl`, TensorBoard, and a plot.

A row has a `step` and any of the numbers named in `PANELS`; `identity_low` and `identity_high` become a band.
A reference run is drawn fainter, to show whether a run is on track.
"""

import io
import math
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dsd.files import jsonl

PANELS = {"loss": ("loss",), "scores": ("identity", "following", "product", "copy", "clip_i")}
COLORS = ("#3465a4", "#c4561a", "#3f8f3f", "#8a4fa3", "#777777")  # by position within a panel
WIDTH, HEIGHT, LINE = 9.5, 3.4, 0.25  # inches: of a panel, and of a line of the note

Series = dict[str, tuple[np.ndarray, np.ndarray]]  # name -> steps [n], values [n]


class Curves:
    """The loop's reports, appended to a JSONL file, and to TensorBoard where it is installed."""

    def __init__(self, file: Path, board: Path | None = None) -> None:
        self.file, self._board = file, None
        if board:
            with suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(board))

    def add(self, step: int, values: dict[str, float]) -> None:
        with jsonl.writing(self.file) as append:
            append([{"step": step, **{name: round(value, 6) for name, value in values.items()}}])
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)

    def scores(self) -> list[dict[str, float]]:
        """Return the reports that hold scores, one per step, ordered by step."""
        rows = {row["step"]: row for row in _read(self.file) if "loss" not in row}
        return [rows[step] for step in sorted(rows)]


def _read(file: Path) -> list[jsonl.Row]:
    """Return the reports; raise RunError for one without a step, or with other values than numbers."""
    rows = jsonl.read(file)
    for row in rows:
        if type(row.get("step")) is not int or not all(isinstance(one, int | float) for one in row.values()):
            wrong = f"a row without a step or with other values than numbers, {str(row)[:60]}"
            raise jsonl.RunError(f"{file} has {wrong}: delete that line")
    return rows


def import_figure() -> Any:
    """Return matplotlib's Figure; raise ValueError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "the curves need the package matplotlib, which is missing: pip install -r train/requirements.txt"
        ) from error
    return Figure


def write(file: Path, out: Path, *, reference: Path | None = None, note: str | None = None) -> None:
    """Plot the rows of `file` into the PNG `out`; raise ValueError if there is nothing to plot yet."""
    own = read_series(_read(file))
    if not any(name in own for names in PANELS.values() for name in names):
        raise ValueError(
            f"{file} has no row with a step and a loss or a score yet, so there is nothing to plot"
        )
    stream, rows = io.BytesIO(), jsonl.read(reference) if reference else []
    plot(own, reference=read_series(rows), note=note).savefig(stream, format="png")
    jsonl.write_atomic(out, stream.getvalue())


def read_series(rows: Iterable[dict[str, Any]]) -> Series:
    """Return steps and values by name; the last row of a step counts, as a resumed run repeats some."""
    numbers: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value) and "step" in row:
                numbers.setdefault(name, {})[row["step"]] = float(value)
    columns = {name: zip(*sorted(values.items()), strict=True) for name, values in numbers.items()}
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def plot(own: Series, *, reference: Series | None = None, note: str | None = None) -> Any:
    """Return a figure with a panel for each entry of `PANELS` that has numbers, and `note` below in red."""
    panels = {title: names for title, names in PANELS.items() if any(name in own for name in names)}
    last = 2 * max(int(steps[-1]) for steps, _ in own.values())
    # Cut before it is smoothed, so that a mean does not include much later steps.
    reference = {name: (x[x <= last], y[x <= last]) for name, (x, y) in (reference or {}).items()}
    lines = textwrap.wrap(note or "", 110)
    figure = import_figure()(figsize=(WIDTH, HEIGHT * len(panels) + LINE * len(lines)), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, (title, names) in zip(axes, panels.items(), strict=True):
        for name, color in zip(names, COLORS, strict=False):
            if name not in own:
                continue
            if name in reference:
                steps, values = reference[name]
                panel.plot(steps, _smooth(values), color=color, linestyle="--", alpha=0.45)
            _plot_line(panel, name, color, own)
        _finish_panel(panel, title, own)
    if reference:
        axes[-1].set_xlabel("step; a dashed line is the reference run")
    figure.supxlabel("\n".join(lines), color="#b00020", fontsize="small")
    return figure


def _plot_line(panel: Any, name: str, color: str, own: Series) -> None:
    """Plot a line with its band; label it with its last value, its chance level and its ceiling."""
    steps, values = own[name]
    smooth = _smooth(values)
    if f"{name}_low" in own and f"{name}_high" in own:
        panel.fill_between(steps, own[f"{name}_low"][1], own[f"{name}_high"][1], color=color, alpha=0.15)
    elif len(values) > 20:  # the noisy values, faint behind their mean
        panel.plot(steps, values, color=color, alpha=0.3)
    label = f"{name} {smooth[-1]:.3f}"
    for suffix, word in (("chance", "chance"), ("ceiling", "truth")):
        if f"{name}_{suffix}" in own:
            label += f"\n  {word} {own[f'{name}_{suffix}'][1][-1]:.2f}"
    panel.plot(steps, smooth, color=color, label=label, marker="o" if len(steps) <= 40 else None)


def _finish_panel(panel: Any, title: str, own: Series) -> None:
    if title == "scores":
        panel.set_ylim(top=1.0)
    elif len(own["loss"][1]) >= 40:  # the high loss of the first steps would flatten the rest
        panel.set_ylim(top=1.1 * np.quantile(own["loss"][1], 0.97))
    panel.set_title(title, loc="left")
    panel.set_xlabel("step")
    panel.grid(color="#e4e4e4")
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of 1/40 of the line, [n] -> [n]; leave short lines unchanged."""
    if len(values) < 40:
        return values
    window = np.ones(max(1, len(values) // 40) | 1)  # odd, so that the window is centered
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")
