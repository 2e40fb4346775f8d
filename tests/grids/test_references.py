"""Captions from files: every kind is read alike, and what cannot be read is named."""

import json
import sys

import pytest

from dsd.grids import references


def test_captions_are_read_from_text_json_lines_and_parquet(tmp_path):
    expected = ["a red fox", "", "ein Bär \u2028 im Wald".replace(" \u2028 ", " ")]
    text, table, parquet = (tmp_path / f"captions.{kind}" for kind in ("txt", "jsonl", "parquet"))
    text.write_bytes("\ufeffa red  fox\r\n \nein Bär \u2028 im Wald".encode())
    assert list(references.read(text)) == expected
    values = ["a red fox", None, "ein Bär \u2028 im Wald"]
    table.write_text("\n".join(json.dumps({"url": "x", "text": value}) for value in values))
    assert list(references.read(table)) == expected
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"TEXT": values})
    pytest.importorskip("pyarrow.parquet").write_table(table, parquet, row_group_size=2)
    assert list(references.read(parquet, "TEXT")) == expected
    with pytest.raises(
        references.CaptionError, match="no column caption or text, only TEXT: choose one with --col"
    ):
        list(references.read(parquet))
    parquet.write_bytes(parquet.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"captions.parquet is damaged"):
        list(references.read(parquet))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = tmp_path / "captions.parquet"
    path.write_bytes(b"PAR1")
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="pyarrow, which is missing: pip install"):
        list(references.read(path))


@pytest.mark.parametrize(
    ("name", "content", "column", "sentence"),
    [
        ("none.txt", None, None, "there is no caption file .*none.txt"),
        ("a.csv", "a fox", None, r"captions must be a .txt, .jsonl or .parquet file, got .*a.csv"),
        ("a.txt", "", None, "a.txt is empty"),
        ("a.txt", "\n \n", None, "a.txt is empty"),
        ("a.jsonl", "\n", None, "a.jsonl is empty"),
        ("a.txt", "a fox", "text", "a text file has no columns: leave out --column text"),
        ("a.txt", "a fox\nb\udcff\n", None, "a.txt line 2 is not UTF-8"),
        ("a.jsonl", '{"text": "a"}\n{"text": ', None, "a.jsonl line 2 is not JSON"),
        ("a.jsonl", '["a"]', None, 'line 1 must look like {"caption": "..."}'),
        ("a.jsonl", '{"text": "a"}\n\n{"txt": "b", "url": 1}', None, "line 3 has no .*, only txt, url"),
        ("a.jsonl", '{"text": "a"}', "alt", "line 1 has no column alt, only text: choose one with --column"),
        ("a.jsonl", "{}", None, "line 1 has no column caption or text, and no other column: add one"),
        ("a.jsonl", '{"text": 3}', None, "line 1: a caption must be text, got 3"),
    ],
)  # fmt: skip
def test_a_caption_file_that_cannot_be_used_is_refused_with_its_line(
    tmp_path, name, content, column, sentence
):
    if content is not None:
        (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(references.CaptionError, match=sentence):
        list(references.read(tmp_path / name, column))
