"""What a comparison leaves in its folder agrees with itself."""

import json

import pytest

from dsd.evaluation import report, results, validation
from dsd.evaluation.judged import JudgedScorer
from dsd.evaluation.results import COPY, LABELS, Comparison
from tests.evaluation.stand_ins import CASES, NETWORKS, said
from tests.judging import FakeJudge

LABELED = json.dumps({"report": "x", "labels": []})


@pytest.fixture
def found() -> Comparison:
    """A comparison without any method: only a copy of each reference."""
    scorer = JudgedScorer(NETWORKS, lambda: FakeJudge(said))
    benchmark = validation.Benchmark(CASES, scorer, rotations=1)
    copies = benchmark.evaluate(validation.by_copying)
    return Comparison(benchmark=benchmark, settings={}, results={COPY: copies}, models={COPY: "none"})


def test_a_comparison_without_a_method_has_a_table(found):
    page = results.tables(found)
    assert f"| {COPY} | " in page and "Difference from" not in page


def test_labels_do_not_bring_back_the_results_of_an_earlier_page(found, tmp_path):
    (tmp_path / "mine.json").write_text(LABELED)
    results.write(tmp_path, found, "page")
    results.add_labels(tmp_path, tmp_path / "mine.json")
    assert (tmp_path / LABELS).read_text() == LABELED
    found.settings["steps"] = 2
    results.write(tmp_path, found, "page", with_report=False)  # as a comparison in the making does
    written = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match="report.html is older than results.json"):
        results.add_labels(tmp_path, tmp_path / "mine.json")
    assert (tmp_path / "results.json").read_bytes() == written
    results.write(tmp_path, found, "page")
    assert report.read(tmp_path)["about"] == json.loads((tmp_path / "results.json").read_bytes())


@pytest.mark.parametrize(
    ("name", "old", "new", "named"),
    [
        ("images.jsonl", b'"identity": 0.5', b'"identity": 0.7', "line 1 does not match its checksum"),
        ("results.json", b'"is_identity": true', b'"is_identity": 1', "measures, .*, is_identity is 1, not"),
        ("report.html", b'"id":"', b'"no":"', "about lacks id"),
    ],
)
def test_a_report_that_was_damaged_or_edited_is_named_with_its_field(found, tmp_path, name, old, new, named):
    (tmp_path / "mine.json").write_text(LABELED)
    results.write(tmp_path, found, "page")
    content = (tmp_path / name).read_bytes()
    assert old in content
    (tmp_path / name).write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=f"{name}.* {named}"):
        results.add_labels(tmp_path, tmp_path / "mine.json")


@pytest.mark.parametrize("damage", [lambda content: content[:-30] + bytes(30), lambda content: b""])
def test_a_damaged_image_of_a_report_is_written_again(found, tmp_path, damage):
    results.write(tmp_path, found, "page")
    files = {file: file.read_bytes() for file in (tmp_path / "images").iterdir()}
    broken = min(files)
    broken.write_bytes(damage(files[broken]))
    results.write(tmp_path, found, "page")
    assert {file: file.read_bytes() for file in (tmp_path / "images").iterdir()} == files
