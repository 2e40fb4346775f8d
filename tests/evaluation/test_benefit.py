"""What a curation is worth: the share of true pairs before and after it."""

from dataclasses import replace

import pytest
from PIL import Image

from dsd.curation.judge import new_pair
from dsd.curation.report import worth_page
from dsd.evaluation.benefit import compare_traits, measure_benefit
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.pocket.scorer import Reading
from tests.judging import grid


class FakeReader:
    """Reads the color of a plain panel as the critter's, and its hue."""

    def read(self, images: list[Image.Image]) -> list[Reading]:
        return [self._read(image.getpixel((8, 8))) for image in images]

    def _read(self, color: tuple[int, int, int]) -> Reading:
        name, hue = {(255, 0, 0): ("red", 2.0), (240, 0, 0): ("red", -4.0), (0, 0, 255): ("blue", 220.0)}[
            color
        ]
        return Reading(
            {"color": name, "shape": "round", "pattern": "plain", "ears": "no", "eyes": 2}, {"hue": hue}, 0
        )


def make_judged_run(folder, verdicts: dict[str, str], **changed: object):
    (folder / "grids").mkdir()
    images, content = zip(
        *[grid(i, "#ff0000", "#f00000", "#0000ff", "#0000ff", **changed) for i in (0, 1)], strict=True
    )
    for image, row in zip(images, content, strict=True):
        image.save(folder / "grids" / row.file)
    with jsonl.writing(folder / "grids" / "grids.jsonl") as append:
        append([row.to_json() for row in content])
    found = [
        replace(new_pair(row, int(name[0]), int(name[2]), 0.5), verdict=verdict, reason=WHY[verdict])
        for row in content
        for name, verdict in verdicts.items()
    ]
    with jsonl.writing(folder / "pairs.jsonl") as append:
        append([pair.to_json() for pair in found])
    return folder


WHY = {"keep": "same subject", "drop": "judged different"}
VERDICTS = {"0-1": "keep", "0-2": "keep", "0-3": "drop", "1-2": "drop", "1-3": "drop", "2-3": "drop"}


def test_worth_compares_the_share_of_true_pairs_before_and_after(tmp_path):
    seen = []
    found = measure_benefit(make_judged_run(tmp_path, VERDICTS), FakeReader(), on_grids=seen.append)
    assert found["true_pairs"]["of all pairs"]["share"] == pytest.approx(1 / 3)
    assert found["true_pairs"]["of the kept"]["share"] == pytest.approx(1 / 2)
    assert found["true_pairs"]["of the kept"]["pairs"] == 4 and seen == [2]
    assert found["recall"]["kept, of the true pairs"]["share"] == pytest.approx(1 / 2)
    assert found["by_reason"]["judged different"]["share"] == pytest.approx(1 / 4)
    assert found["traits"]["color"] == {"of all pairs": pytest.approx(1 / 3), "of the kept": 0.5}
    assert found["traits"]["shape"] == {"of all pairs": 1, "of the kept": 1}
    page = worth_page(found)
    assert "| of all pairs | 12 | 33.3% | 33.3% to 33.3% |" in page and "| color | 33.3% | 50.0% |" in page


def test_worth_of_a_run_that_kept_nothing_is_told_as_such(tmp_path):
    found = measure_benefit(make_judged_run(tmp_path, dict.fromkeys(VERDICTS, "drop")), FakeReader())
    assert found["true_pairs"]["of the kept"] == {"pairs": 0, "share": None, "low": None, "high": None}
    assert "| of the kept | 0 | none | none |" in worth_page(found)


def test_worth_is_only_known_in_the_drawn_world(tmp_path):
    with pytest.raises(RunError, match="not of the drawn world"):
        measure_benefit(make_judged_run(tmp_path, VERDICTS, recipe="identity"), FakeReader())


def test_images_agree_trait_by_trait():
    red, dark, blue = (FakeReader()._read(color) for color in ((255, 0, 0), (240, 0, 0), (0, 0, 255)))
    assert all(compare_traits(red, dark).values())
    assert [trait for trait, same in compare_traits(red, blue).items() if not same] == ["color", "hue"]
