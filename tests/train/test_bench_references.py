"""What further references gain, on random weights: the rows, the control, and weights that know only one."""

from dataclasses import replace

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
    assert [(row["first view"], row["way"]) for row in rows] == [
        (view, way) for view in ("whole", "cut") for way in ways
    ]
    assert rows[0]["gain of CP"] == rows[4]["gain of CP"] == 0
    assert all(row["gain of CP"] == pytest.approx(row["CP"] - rows[0]["CP"], abs=2e-4) for row in rows[:4])
    pipe.trained_references = 2
    ways = [row["way"] for row in references.rows(pipe, benchmark, steps=1)]
    assert ways == ["1 reference", "2 references", "the first reference 2 times"] * 2


def test_views_are_of_one_critter_in_other_contexts(benchmark):
    for case in benchmark.cases:
        first, *further = views = references.draw_views(case, 4)
        assert first is case.reference and len({view.tobytes() for view in views}) == 4
        assert [view.tobytes() for view in references.draw_views(case, 2)] == [
            view.tobytes() for view in (first, *further[:1])
        ]


def test_a_cut_view_hides_the_ears_and_changes_nothing_else(benchmark):
    case = benchmark.cases[0]
    with_ears = [
        references.cut_reference(replace(case, facts=replace(case.facts, critter=critter))).reference
        for critter in (replace(case.facts.critter, ears=ears) for ears in ("no", "pointy"))
    ]
    assert with_ears[0].tobytes() == with_ears[1].tobytes()
    cut = references.cut_reference(case)
    assert cut.reference.tobytes() != case.reference.tobytes()
    assert replace(cut, reference=case.reference) == case


def test_weights_of_one_reference_are_refused():
    with pytest.raises(ValueError, match="pocket was trained with one reference: .*--references 2 or more"):
        command.main(["references"])
