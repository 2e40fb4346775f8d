"""The Results view of the Curate tab: figures of a run as they are on disk, and what is missing by name."""

import json
from pathlib import Path

import pytest

from dsd.curation.judge import read_pairs
from dsd.files import jsonl
from dsd.model.presets import ASSETS, DEFAULT
from dsd.ui.curate import figures, results
from dsd.ui.curate.results import show_results
from tests import tiny, wheel_page

TEXTS = ("worth", "scores", "loss_about", "lines_about", "samples_about")


@pytest.fixture
def run(tmp_path) -> Path:
    return wheel_page.judged_run(tmp_path / "runs" / "wheel", grids=1)


def show(run: Path | None, *, own: bool = True) -> dict:
    return show_results(wheel_page.wheel(run=run, own=own))


def write_worth(run: Path, before: int, after: int) -> None:
    groups = {"of all pairs": (before, 0.25), "of the kept": (after, 0.5)}
    shares = {
        name: {"pairs": n, "share": share, "low": 0.1, "high": 0.7} for name, (n, share) in groups.items()
    }
    (run / "worth.json").write_text(json.dumps({"true_pairs": shares}))


def test_of_the_shipped_run_everything_is_shown_as_it_was_measured():
    seen = show(Path(DEFAULT.run), own=False)
    last = [row for row in jsonl.read(ASSETS / "curves.jsonl") if "identity" in row][-1]
    assert f"after {last['step']:,} steps" in seen["scores"]
    for name in ("identity", "following"):
        interval = f"{last[f'{name}_low']:.2f} to {last[f'{name}_high']:.2f}"
        assert f"<td>{last[name]:.2f}</td><td>{interval}</td>" in seen["scores"]
    assert seen["loss"].visible and seen["lines"].visible and seen["samples"].visible
    assert not any(missing in seen[name] for name in TEXTS for missing in results.MISSING.values())


def test_the_shipped_benefit_of_curation_belongs_to_the_shipped_run():
    run = Path(DEFAULT.run)
    worth, pairs = json.loads((run / "worth.json").read_text()), read_pairs(run)
    assert figures.is_current(worth, pairs)
    shares = worth["true_pairs"]
    shown = show(run, own=False)["worth"]
    assert all(f"<b>{one['share']:.1%}</b>" in shown for one in shares.values())
    assert results.OUTDATED not in shown


def test_what_a_run_lacks_is_said_for_each_figure_and_how_to_get_it(run):
    seen = show(run)
    for name, text in zip(
        TEXTS, ("--worth", "train.train", "curves.jsonl", "curves.jsonl", "sheets"), strict=True
    ):
        assert text in seen[name] and seen[name].count("dsd-quiet") == 1
    assert not any(seen[name].visible for name in ("loss", "lines", "samples", "tables"))


def test_without_a_run_the_view_says_what_is_missing():
    assert "--worth" in show(None)["worth"]


def test_figures_come_from_the_run_its_subfolders_and_the_folders_beside_it(run):
    student, scores = run / "student", run.parent / "scores"
    for folder in (student, scores):
        folder.mkdir()
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}, {"step": 2, "identity": 0.75}]
    jsonl.write_rows(student / "curves.jsonl", rows)
    tiny.image().save(student / "samples.png")
    (scores / "scores.md").write_text("| way | identity |\n| --- | --- |\n| mine | 0.7 |\n")
    seen = show(run)
    assert [point[:3] for point in seen["loss"].value["data"]] == [[1, "loss", 0.5], [2, "loss", 0.25]]
    assert "<td>0.75</td><td>none</td>" in seen["scores"] and "after 2 steps" in seen["scores"]
    assert "mine" in seen["tables"].value and len(seen["samples"].value) == 1


def test_the_benefit_is_called_outdated_once_the_run_has_changed(run):
    pairs = read_pairs(run)
    kept = sum(pair.is_kept for pair in pairs)
    write_worth(run, len(pairs), kept)
    assert "25.0%" in show(run)["worth"] and results.OUTDATED not in show(run)["worth"]
    write_worth(run, len(pairs) + 1, kept)
    assert results.OUTDATED in show(run)["worth"]


def test_a_damaged_file_is_named(run):
    (run / "worth.json").write_text("{")
    assert "Worth.json is not JSON" in show(run)["worth"] and 'role="alert"' in show(run)["worth"]
