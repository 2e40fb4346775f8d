"""What further references gain, on random weights: the rows, the control, and weights that know only one."""

import pytest

from dsd.evaluation.critters import CritterScorer, validation_set
from dsd.evaluation.validation import Benchmark
from tests import tiny
from train.bench import __main__ as command
from train.bench import references


@pytest.fixture(scope="module")
def benchmark():
    return Benchmark(validation_set(0, 3, 1), CritterScorer())


def test_one_two_and_four_references_are_compared_with_the_first_one_repeated(benchmark):
    pipe = tiny.pipeline()
    pipe.trained_references = 4
    rows = list(references.rows(pipe, benchmark, steps=1))
    ways = ["1 reference", "2 references", "4 references", "the first reference 4 times"]
    assert [row["way"] for row in rows] == ways
    assert rows[0]["gain of CP"] == [0, 0, 0] and all(0 <= row["CP"] <= 1 for row in rows)
    pipe.trained_references = 3
    assert [row["way"] for row in references.rows(pipe, benchmark, steps=1)][1:3] == [
        "2 references", "3 references",
    ]  # fmt: skip


def test_views_are_of_one_critter_in_other_contexts(benchmark):
    for case in benchmark.cases:
        first, *further = views = references.draw_views(case, 4)
        assert first is case.reference and len({view.tobytes() for view in views}) == 4
        assert [view.tobytes() for view in references.draw_views(case, 2)] == [
            view.tobytes() for view in (first, *further[:1])
        ]


def test_a_trait_is_hidden_where_the_scorer_misreads_the_reference(benchmark, monkeypatch):
    readings = benchmark.scorer.network.read([case.reference for case in benchmark.cases])
    before = references.find_hidden(benchmark)
    wrong = [*readings[1:], readings[0]]  # of other critters
    monkeypatch.setattr(benchmark.scorer.network, "read", lambda images: wrong)
    assert references.find_hidden(benchmark).all() and len(before) == 3


def test_weights_of_one_reference_are_refused():
    with pytest.raises(ValueError, match="pocket was trained with one reference: .*--references 2 or more"):
        command.main(["references"])
