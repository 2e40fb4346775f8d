"""The audit of packages tells a clean answer from one that it did not get."""

import json

import pytest

from tests.audit import report

CLEAN = {"name": "pillow", "version": "12.3.0", "vulns": []}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-2020-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "dsd", "skip_reason": "Dependency not found on PyPI and could not be audited: dsd (0)"}


@pytest.mark.parametrize(
    ("packages", "words", "code"),
    [
        ([CLEAN, SKIPPED], "1 of 2 packages were looked up, 0 vulnerabilities are known", 0),
        (
            [CLEAN, BAD],
            "2 of 2 packages were looked up, 1 vulnerabilities are known\nold 1.0: PYSEC-2020-1",
            1,
        ),
        ([SKIPPED], "nothing was checked: the database is not reachable, it knows none of 1 packages", 0),
    ],
)
def test_an_answer_is_counted(packages, words, code):
    assert report(json.dumps({"dependencies": packages, "fixes": []})) == (words, code)


def test_no_answer_is_no_clean_answer():
    words, code = report("", "a warning\nERROR: Could not connect to the vulnerability feed\n")
    assert (
        words.startswith("nothing was checked: the database is not reachable (ERROR: Could not") and code == 0
    )
