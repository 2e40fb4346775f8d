"""A person's labels are compared with scores without a threshold, and with an interval."""

import json

import numpy as np
import pytest

from dsd.evaluation import labels


def rows(values, way: str = "ours") -> list[dict]:
    return [
        {"id": f"i{i}", "way": way, "subject": f"s{i // 2}", "cp": value} for i, value in enumerate(values)
    ]


def labeled(count: int, same) -> dict[str, bool]:
    return {f"i{i}": bool(same(i)) for i in range(count)}


def test_perfect_chance_and_reversed_scores():
    same = labeled(60, lambda i: i % 2)
    for values, expected in (
        ([i % 2 for i in range(60)], 1.0),
        ([1] * 60, 0.5),
        ([-(i % 2) for i in range(60)], 0.0),
    ):
        found = labels.agreement(same, rows(values), ["cp"])["agreement"]["cp"]
        assert found == {"mean": expected, "low": expected, "high": expected}


def test_the_interval_holds_the_true_agreement_of_noisy_scores():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(12):
        same = rng.random(80) < 0.5
        values = same + rng.normal(scale=1.0, size=80)  # the true area is Phi(1 / sqrt 2)
        found = labels.agreement(labeled(80, lambda i, same=same: same[i]), rows(values), ["cp"])
        interval = found["agreement"]["cp"]
        assert 0 <= interval["low"] < interval["mean"] < interval["high"] <= 1
        hits += interval["low"] <= 0.7602 <= interval["high"]
    assert hits >= 9


def test_labels_of_other_images_and_ways_are_counted():
    found = labels.agreement(labeled(30, lambda i: i % 2) | {"elsewhere": True}, rows(range(30)), ["cp"])
    assert (found["labels"], found["same"], found["unknown"]) == (30, 15, 1)
    assert found["ways"] == {"ours": [15, 30]}
    page = labels.page(found, [{"name": "cp", "title": "CP"}])
    assert (
        "Labels of images that are not in this report: 1." in page
        and "| ours | 15 | 30 |" in page
        and "| CP | 0.5" in page
    )


def test_few_labels_give_no_agreement():
    found = labels.agreement(labeled(12, lambda i: i), rows(range(12)), ["cp"])
    assert found["agreement"] == {} and "at least 10 images labeled same" in found["note"]
    assert "No agreement: at least 10" in labels.page(found, [{"name": "cp", "title": "CP"}])


def test_an_image_without_a_score_is_left_out():
    values = [None, *(i % 2 for i in range(1, 30))]
    found = labels.agreement(labeled(30, lambda i: i % 2), rows(values), ["cp"])
    assert found["agreement"]["cp"]["mean"] == 1.0 and "note" not in found


def test_too_few_scores_give_no_agreement():
    values = [None] * 12 + [0.5] * 18
    found = labels.agreement(labeled(30, lambda i: i % 2), rows(values), ["cp"])
    assert found["agreement"] == {} and "need a score" in labels.page(found, [])


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"labels": [{"image": "a", "same": "yes"}]}', '{"labels": 3}']
)
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match="labels.json holds .*save it with"):
        labels.read(tmp_path / "labels.json")


def test_the_pages_file_is_read(tmp_path):
    rows = [{"image": "a", "same": True}, {"image": "b", "same": False}]
    (tmp_path / "labels.json").write_text(json.dumps({"report": "x", "labels": rows}))
    assert labels.read(tmp_path / "labels.json") == {"a": True, "b": False}
