"""Two turns compared: keep rates, true pairs, and diversity that falls where a teacher repeats itself."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsd.curation.judge import new_pair
from dsd.evaluation import turns
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.pocket import scorer
from dsd.pocket.scorer import Reading
from tests.judging import grid
from train import curate

COUNT = 12
LORA = {"file": "lora.safetensors", "hash": "0123456789ab", "scale": 1.0, "license": "Apache-2.0"}


def make_run(folder: Path, subjects: int, *, kept: int = COUNT, **changed: object) -> Path:
    """Grids of two red panels, with so many subjects in turn; the pairs of the first `kept` are kept."""
    (folder / "grids").mkdir(parents=True)
    rows, pairs = [], []
    for index in range(COUNT):
        shade = 100 + 10 * (index % subjects)
        image, row = grid(index, f"#{shade:02x}0000", f"#{shade:02x}0000", **changed)
        image.save(folder / "grids" / row.file)
        rows.append(replace(row, subject=f"fox number {index % subjects}"))
        verdict = ("keep", "same subject") if index < kept else ("drop", "judged different")
        pairs.append(replace(new_pair(row, 0, 1, 0.5), verdict=verdict[0], reason=verdict[1]))
    for path, records in ((folder / "grids" / "grids.jsonl", rows), (folder / "pairs.jsonl", pairs)):
        jsonl.write_rows(path, [record.to_json() for record in records])
    return folder


def test_the_page_names_the_noise_that_panels_of_a_turn_share(tmp_path):
    first = make_run(tmp_path / "one", 2, shared_noise=0.25)
    second = make_run(tmp_path / "two", 2, shared_noise=0.5, teacher_lora=LORA)
    page = turns.page(turns.compare(first, second, FakeReader()))
    assert (
        f"Turn one is {first}, drawn with shared noise 0.25, turn two is {second}, drawn with the LoRA"
        in page
    )
    assert "scale 1) and shared noise 0.5. Intervals" in page


class FakeReader:
    """Reads a shade of red as the hue."""

    def read(self, images: list[Image.Image]) -> list[Reading]:
        named = {"color": "red", "shape": "round", "pattern": "plain", "ears": "no", "eyes": 2}
        named |= {"scene": "beach", "accessory": "none", "place": "left", "light": "daylight"}
        return [
            Reading(named, {"hue": float(image.getpixel((8, 8))[0]), "eye_size": 1.0, "aspect": 1.0}, 0)
            for image in images
        ]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("turns")
    first = make_run(folder / "one", COUNT, kept=6)
    second = make_run(folder / "two", 2, teacher_lora=LORA)
    return turns.compare(first, second, FakeReader())


def means(found: dict, name: str) -> list[float]:
    return [turn["mean"] for turn in found["measures"][name].values()]


def test_keep_rates_have_intervals(found):
    assert means(found, "pairs kept") == [0.5, 1.0] == means(found, "grids with every pair kept")
    one = found["measures"]["pairs kept"]["one"]
    assert one["low"] < 0.5 < one["high"] and means(found, "grids with panels") == [1, 1]


def test_diversity_is_that_of_equally_many_kept_grids(found):
    assert found["grids"] == 3  # half of the six that turn one kept
    one, two = means(found, "distinct subjects")
    assert one == 3 and 1 < two <= 2
    assert all(one > two for one, two in (means(found, f"distinct {n}-grams") for n in (1, 2, 3)))


def test_a_prompt_that_was_drawn_with_two_seeds_counts_once(tmp_path):
    one, many = make_run(tmp_path / "one", 4, prompt="one prompt"), make_run(tmp_path / "many", 4)
    assert [len(turns.read_turn(run).kept_grids) for run in (one, many)] == [1, COUNT]


def test_traits_that_no_prompt_names_spread_less_where_subjects_repeat(found):
    one, two = means(found, "spread of hue")
    assert one > two > 0 and means(found, "spread of eye size") == [0, 0]


def test_true_pairs_are_those_of_worth(found):
    assert means(found, "true pairs, of all pairs") == [1, 1]


def test_true_pairs_of_a_task_show_its_change(tmp_path):
    runs = [make_run(tmp_path / name, 4, recipe="critters-relight") for name in ("one", "two")]
    assert means(turns.compare(*runs, FakeReader()), "true pairs, of all pairs") == [0, 0]


def test_runs_of_different_tasks_are_not_compared(tmp_path):
    one = make_run(tmp_path / "one", 4)
    two = make_run(tmp_path / "two", 4, recipe="critters-relight")
    with pytest.raises(RunError, match="one is of the task identity and .*two of relight: compare two runs"):
        turns.compare(one, two, FakeReader())


def test_the_page_says_what_drew_the_second_turn_and_what_is_not_known(found, tmp_path):
    page = turns.page(found)
    assert "drawn with the LoRA lora.safetensors (SHA-256 0123456789ab, scale 1)" in page
    assert "shared noise" not in page and "| pairs kept | 0.5 (" in page
    first = make_run(tmp_path / "one", 2, kept=0, recipe="identity")
    plain = turns.compare(first, make_run(tmp_path / "two", 2, recipe="identity"), FakeReader())
    assert not any(name.startswith(("true", "spread", "distinct")) for name in plain["measures"])
    assert "| pairs kept | 0 (0 to 0) | 1 (1 to 1) |" in turns.page(plain)


def test_the_spread_of_an_angle_has_no_seam():
    def read(*hues: float) -> list[Reading]:
        named = {"pattern": "plain", "ears": "no"}
        return [Reading(named, {"hue": hue}, 0) for hue in hues]

    colors = np.zeros(2, int)
    assert turns.spread("hue", read(179, -179), colors) == pytest.approx(
        turns.spread("hue", read(0, 2), colors)
    )
    assert turns.spread("hue", read(0, 180), colors) == pytest.approx(1)
    assert turns.spread("hue", read(0, 180), np.arange(2)) == pytest.approx(0)  # of two colors
    assert turns.spread("stripe_angle", read(0, 180), colors) == 0  # plain subjects show none


def test_the_command_compares_a_run_with_that_of_the_turn_before(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scorer, "load", FakeReader)
    first, second = make_run(tmp_path / "one", 4), make_run(tmp_path / "two", 4)
    assert curate.main([str(second), "--against", str(first)]) == 0
    assert "| distinct subjects |" in capsys.readouterr().out
    assert json.loads((second / "turns.json").read_text())["runs"] == [str(first), str(second)]
    (first / "pairs.jsonl").unlink()
    with pytest.raises(RunError, match="no judged pairs yet"):
        curate.main([str(second), "--against", str(first)])
