"""Rows become typed records; a row that does not fit is named with its line and field."""

from dataclasses import dataclass

import pytest

from dsd.files import jsonl
from tests.files.rows import append, filled


@dataclass(frozen=True, kw_only=True)
class Inner:
    low: float = 0.0

    def __post_init__(self):
        if self.low > 1:
            raise ValueError("low is too high")


@dataclass(frozen=True, kw_only=True)
class Example(jsonl.Record):
    text: str
    count: int
    share: float | None
    flag: bool
    names: list[str]
    scores: dict[str, int] | None
    inner: Inner
    note: str = ""

    OPTIONAL = frozenset({"note"})


GOOD = {"id": "a", "text": "b", "count": 1, "share": 1, "flag": True, "names": ["x"], "scores": {"y": 2},
        "inner": {"low": 0.5}}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 3}, {"id": None}, {"id": ["a"]}, {"text": None}, {"count": True}, {"count": 1.0},
        {"share": "x"}, {"share": float("nan")}, {"flag": 1}, {"names": "x"}, {"names": [1]},
        {"scores": {"y": "2"}}, {"scores": []}, {"inner": None}, {"inner": {"high": 1}},
        {"inner": {"low": 2}}, {"inner": {"low": "x"}}, {"note": 3},
    ],
)  # fmt: skip
def test_a_row_of_the_wrong_type_is_named_with_line_and_field(tmp_path, wrong):
    path = filled(tmp_path / "rows.jsonl", [GOOD])
    assert jsonl.read_records(path, Example)[0].inner == Inner(low=0.5)
    append(path, GOOD | wrong)
    with pytest.raises(jsonl.RunError, match=rf"rows.jsonl line 2 cannot be used.*{next(iter(wrong))}"):
        jsonl.read_records(path, Example)


@pytest.mark.parametrize("line", ["[]", "3", "null", '"text"', "{}", '{"id": 3}', '{"id": {}}', "[" * 9999])
def test_valid_json_that_is_not_a_row_is_an_error_in_one_sentence(tmp_path, line):
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    for read in (jsonl.read_all, lambda path: jsonl.read_records(path, Example)):
        with pytest.raises(jsonl.RunError, match="rows.jsonl line 1"):
            read(tmp_path / "rows.jsonl")
