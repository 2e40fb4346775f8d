"""The page holds everything and loads nothing, whatever its texts hold."""

import re

import pytest

from dsd.evaluation import report
from tests import tiny

NASTY = "</script><script>alert(1)</script> <!-- {data} $& \\ “x”"


def test_what_is_written_is_read_again(tmp_path):
    data = {"about": {"id": NASTY}, "rows": [{"reason": NASTY, "cp": None}], "images": {}}
    report.write(tmp_path, data)
    assert report.read(tmp_path) == data
    page = (tmp_path / report.NAME).read_text(encoding="utf-8")
    assert page.count("</script>") == 2 and "alert(1)</script>" not in page


def test_the_page_loads_nothing_from_elsewhere():
    page = report.TEMPLATE.read_text(encoding="utf-8")
    assert page.count("{data}") == 1 and report.BEGIN in page
    assert re.findall(r"https?://|<link|@import|url\(|\bfetch\b|src=\"", page) == []
    assert "default-src 'none'" in page


def test_images_in_the_page_are_small():
    address = report.data_url(tiny.image(0, (1000, 500)))
    assert address.startswith("data:image/webp;base64,") and len(address) < 60_000


def test_a_folder_without_a_page_is_told_what_makes_one(tmp_path):
    with pytest.raises(ValueError, match="there is no .*report.html: run train.evaluate CHECKPOINT"):
        report.read(tmp_path)
    (tmp_path / report.NAME).write_text("<html>")
    with pytest.raises(ValueError, match="is damaged"):
        report.read(tmp_path)
