"""Preferences: panels of one prompt that were kept with one seed and rejected with another."""

import io
import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from dsd.curation.preferences import select_preferences
from dsd.curation.selection import Choice, read_run
from dsd.files.jsonl import RunError
from dsd.files.rgb import to_rgb
from tests import wheel
from train import dataset as command

PROMPT = "4 images of the same red critter"
FIRST, SECOND = "000000", "000000_1"


def make_run(folder: Path, **reasons: str) -> Path:
    """A run of one prompt with two seeds; `reasons` replace those of pairs of the second seed, by `p01`."""
    wheel.make_run(folder, grids=2, prompt=PROMPT, subject="red critter")
    for path in (folder / "grids" / "grids.jsonl", folder / "pairs.jsonl"):
        rows = [json.loads(line.replace("000001", SECOND)) for line in path.read_text().splitlines()]
        path.unlink()
        wheel.append(path, [rejected(row, reasons) for row in rows])
    (folder / "grids" / "000001.png").rename(folder / "grids" / f"{SECOND}.png")
    writers = {"id": FIRST, "writer": "somebody/unheard-of"}
    wheel.append(folder / "prompts.jsonl", [writers])
    return folder


def rejected(row: dict, reasons: dict[str, str]) -> dict:
    reason = row["id"].startswith(SECOND) and reasons.get(f"p{row.get('first')}{row.get('second')}")
    return row | {"verdict": "drop", "reason": reason} if reason else row


def found(run: Path, **choice: object) -> list[str]:
    return [cut.row["id"] for cut in select_preferences(read_run(run), Choice(**choice))]


def test_a_panel_kept_with_one_seed_and_rejected_with_another_is_a_preference(tmp_path):
    run = make_run(tmp_path, p01="judged different")
    assert found(run) == [f"{FIRST}-0-1-{SECOND}", f"{FIRST}-1-0-{SECOND}"]


def test_either_seed_can_be_the_chosen_one(tmp_path):
    run = make_run(tmp_path, p02="same subject")
    pairs = [json.loads(line) for line in (run / "pairs.jsonl").read_text().splitlines()]
    second = next(row for row in pairs if row["id"] == f"{SECOND}-0-2")
    (run / "pairs.jsonl").unlink()
    kept = second | {"verdict": "keep"}
    first = next(row for row in pairs if row["id"] == f"{FIRST}-0-2") | {"reason": "a part scores low"}
    wheel.append(run / "pairs.jsonl", [kept, first])
    assert found(run) == [f"{SECOND}-0-2-{FIRST}", f"{SECOND}-2-0-{FIRST}"]


@pytest.mark.parametrize("reason", ["too alike", "unreadable", "refused", "not judged"])
def test_a_reason_that_says_nothing_of_the_subject_makes_no_preference(tmp_path, reason):
    with pytest.raises(RunError, match="no preferences: 1 prompts were drawn with several seeds"):
        found(make_run(tmp_path, p01=reason))


def test_a_persons_verdict_counts_if_asked_for(tmp_path):
    run = make_run(tmp_path, p01="judged different")
    wheel.append(run / "labels.jsonl", [{"id": f"{SECOND}-0-1", "label": "keep"}])
    assert len(found(run)) == 2
    with pytest.raises(RunError, match="no preferences"):
        found(run, labels=True)
    wheel.append(run / "labels.jsonl", [{"id": f"{SECOND}-1-3", "label": "drop"}])  # the judge kept it
    cuts = select_preferences(read_run(run), Choice(labels=True))
    assert {(cut.row["id"], cut.row["reason"]) for cut in cuts} == {
        (f"{FIRST}-1-3-{SECOND}", "labeled different"), (f"{FIRST}-3-1-{SECOND}", "labeled different"),
    }  # fmt: skip


def test_a_pair_of_panels_that_its_grid_lacks_is_named(tmp_path):
    run = make_run(tmp_path, p01="judged different")
    grid = json.loads((run / "grids" / "grids.jsonl").read_text().splitlines()[0])
    wheel.append(run / "pairs.jsonl", [wheel.judged(grid, (0, 9), "same subject")])
    with pytest.raises(RunError, match=f"pair {FIRST}-0-9 is of panels that its grid does not have"):
        found(run)


def test_the_files_are_read_as_pick_a_pic_is(tmp_path):
    run, out = make_run(tmp_path / "run", p01="judged different"), tmp_path / "out"
    flags = [str(run), "--preferences", str(out), "--trigger", "critter"]
    assert command.main(flags) == 0
    rows = datasets.load_dataset("parquet", data_files=str(out / "*.parquet"), cache_dir=str(tmp_path / "c"))
    row = rows["train"][0]
    chosen, other = (to_rgb(Image.open(io.BytesIO(row[name]))) for name in ("jpg_0", "jpg_1"))
    assert chosen == wheel.panel(run, FIRST, 1) and other == wheel.panel(run, SECOND, 1)
    assert to_rgb(row["reference"]) == wheel.panel(run, FIRST, 0)
    assert (row["label_0"], row["label_1"]) == (1, 0) and row["caption"].startswith("a red critter ")
    assert (row["grid_0"], row["grid_1"], row["reason"]) == (FIRST, SECOND, "judged different")
    assert row["license"] == "unknown", "the writer's license is that of the prompt, also with another seed"
    card = (out / "README.md").read_text()
    assert "2 rows for Diffusion-DPO" in card and "| judged different | 2 |" in card
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert command.main(flags) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_flags_without_an_effect_are_refused(tmp_path, capsys):
    run = make_run(tmp_path, p01="judged different")
    with pytest.raises(SystemExit):
        command.main([str(run), "--preferences", str(tmp_path / "o"), "--only", "all", "--words", "grid"])
    told = "--only and --words would have no effect beside --preferences: drop them"
    assert told in capsys.readouterr().err and not (tmp_path / "o").exists()
