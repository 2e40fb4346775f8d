"""The published benchmarks are recognized by the layout of their folders, as their authors publish them."""

import math

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from dsd.evaluation import benchmarks
from dsd.evaluation.benchmarks import DREAMBENCH, KINDS, OMNICONTEXT, PHOTOGRAPHS
from dsd.evaluation.scores import Case
from tests import tiny
from tests.evaluation.stand_ins import make_dreambench, make_omnicontext


def test_dreambench_has_nine_prompts_of_three_kinds(tmp_path):
    found = benchmarks.read(make_dreambench(tmp_path, "live_subject/animal/00", "style/03"), size=32)
    assert found.name == DREAMBENCH and len(found.cases) == 18
    first, last = found.cases[0], found.cases[-1]
    assert first.subject == "live_subject/animal/00" and first.reference.size == (32, 32)
    assert first.groups == ("animal", "all but style", "photorealistic")
    assert last.groups == ("style", "imaginative")
    assert first.prompt == first.caption == "a corgi dog, prompt 0"
    assert len({case.seed for case in found.cases}) == 18
    assert KINDS.count("style transfer") == 3
    (tmp_path / "images" / "style" / "._03.jpg").write_bytes(b"")  # beside each file that a Mac copied
    assert len(benchmarks.read(tmp_path, 2, size=32).cases) == 4


def test_what_dreambench_lacks_is_said(tmp_path):
    make_dreambench(tmp_path, "object/00")
    with pytest.raises(ValueError, match="at least 2 images are needed in .*images, got 1"):
        benchmarks.read(tmp_path)
    make_dreambench(tmp_path, "object/00", "object/01")
    with pytest.raises(ValueError, match="prompts must be from 1 to 9 for DreamBench.., got 10"):
        benchmarks.read(tmp_path, 10)
    (tmp_path / "captions" / "object" / "01.txt").write_text("dog\na dog\n")
    with pytest.raises(ValueError, match="01.txt must hold a subject and 9 prompts.*got 1 prompts"):
        benchmarks.read(tmp_path)


def test_omnicontext_gives_its_rows_of_one_subject(tmp_path):
    kinds = ("single_character", "multi_object", "single_object")
    found = benchmarks.read(make_omnicontext(tmp_path, *kinds), size=32)
    assert found.name == OMNICONTEXT
    assert [case.subject for case in found.cases] == ["k0", "k2"]
    assert [case.groups for case in found.cases] == [("single_character",), ("single_object",)]
    assert found.cases[1].prompt == "Let the person in image 1 read, 2."
    with pytest.raises(ValueError, match="prompts must be 1 for OmniContext.*got 3"):
        benchmarks.read(tmp_path, 3)


def test_other_parquet_files_and_too_few_rows_are_refused(tmp_path):
    make_omnicontext(tmp_path, "single_object", "multi_object")
    with pytest.raises(ValueError, match="has 1 rows of a single subject, and at least 2"):
        benchmarks.read(tmp_path)
    parquet.write_table(arrow.table({"key": ["a"]}), tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="lacks the columns task_type, instruction, input_images"):
        benchmarks.read(tmp_path)


def test_any_other_folder_is_one_of_photographs(tmp_path):
    for number in range(2):
        tiny.image(number).save(tmp_path / f"cat {number}.png")
    found = benchmarks.read(tmp_path, size=32)
    assert found.name == PHOTOGRAPHS and len(found.cases) == 6
    assert all(case.groups == () for case in found.cases)


def test_a_group_is_measured_on_its_images_that_have_a_score():
    cases = [
        Case(subject=f"s{i}", reference=tiny.image(), prompt="p", caption="c", seed=i, groups=groups)
        for i, groups in enumerate([("animal", "all"), ("animal", "all"), ("style",), ("style", "all")])
    ]
    rows = [{"cp": value} for value in (1.0, 0.5, 0.25, math.nan)]
    means = benchmarks.by_group(cases, rows, "cp")
    assert set(means) == {"animal", "all"}  # of the styles, only one subject has a score
    assert means["animal"].mean == means["all"].mean == 0.75


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    make_dreambench(tmp_path, "object/00", "object/01")
    (tmp_path / "images" / "object" / "01.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match='"01.jpg" is not an image'):
        benchmarks.read(tmp_path)
