"""A person's labels of images, same subject or different, and how well scores agree with them.

The report's labeling page writes a JSON file: the report's id, and for each labeled image its id and whether
it shows the subject of its reference. Agreement is the chance that a score is higher for an image labeled
"same" than for one labeled "different" (the area under the ROC curve): 0.5 is chance, 1 is perfect. No
threshold has to be chosen for it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dsd.evaluation.intervals import around, resample
from dsd.files import markdown

FEWEST = 10  # scored images of each label below which an interval says nothing


def read(file: Path) -> dict[str, bool]:
    """Return the labels by image id; raise ValueError for a file that is not the labeling page's."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["labels"]
        labels = {row["image"]: row["same"] for row in rows}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{file} holds no labels ({error}): save it with the button of the report's labeling page"
        ) from error
    if not all(isinstance(value, bool) for value in labels.values()):
        raise ValueError(f"{file} holds labels other than true and false: save it with the report's page")
    return labels


def agreement(
    labels: Mapping[str, bool], rows: Sequence[Mapping[str, Any]], measures: Sequence[str]
) -> dict[str, Any]:
    """Return how well each measure of the images (rows with `id`, `way`, `subject`) agrees with the labels.

    Every number has a 95 % bootstrap interval over subjects. Images without a score (None) are left out, and
    so is a measure that has too few others; a `note` says so if no measure is left. Labels of images that are
    not in the rows are counted as unknown.
    """
    known = [row for row in rows if row["id"] in labels]
    same = np.array([labels[row["id"]] for row in known], dtype=bool)
    about = {"labels": len(known), "same": int(same.sum()), "unknown": len(labels) - len(known)}
    about["ways"] = _count_by_way(known, labels)
    subjects = [row["subject"] for row in known]
    areas = {name: _auc_interval(_column(known, name), same, subjects) for name in measures}
    about["agreement"] = {name: area for name, area in areas.items() if area}
    if not about["agreement"]:
        about["note"] = f"at least {FEWEST} images labeled same and {FEWEST} labeled different need a score"
    return about


def _count_by_way(rows: Sequence[Mapping[str, Any]], labels: Mapping[str, bool]) -> dict[str, list[int]]:
    """Return for each way the number of its images labeled same, and of all that are labeled."""
    counts: dict[str, list[int]] = {}
    for row in rows:
        kept, every = counts.get(row["way"], (0, 0))
        counts[row["way"]] = [kept + labels[row["id"]], every + 1]
    return counts


def page(found: Mapping[str, Any], measures: Sequence[Mapping[str, Any]]) -> str:
    """Return the agreement as a Markdown page; `measures` are those of `results.json`."""
    titles = {measure["name"]: measure["title"] for measure in measures}
    heads = ["", "chance that an image labeled same scores higher"]
    rows = [
        [titles[name], "{mean:.3f} ({low:.3f} to {high:.3f})".format(**value)]
        for name, value in found["agreement"].items()
    ]
    parts = [f"{found['labels']} images labeled, {found['same']} of them same; 0.500 is chance"]
    if found["unknown"]:
        parts.append(f"Labels of images that are not in this report: {found['unknown']}.")
    counts = [[way, kept, every] for way, (kept, every) in found["ways"].items()]
    parts.append(markdown.table(["", "same", "labeled"], counts))
    parts.append(markdown.table(heads, rows) if rows else f"No agreement: {found['note']}.")
    return "\n\n".join(parts)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([row.get(name) for row in rows], dtype=float)  # None becomes NaN


def _auc_interval(values: np.ndarray, same: np.ndarray, subjects: Sequence[str]) -> dict[str, float] | None:
    """Return the area under the ROC curve and its interval, or None if too few values are known."""
    known = ~np.isnan(values)
    if min(np.count_nonzero(known & same), np.count_nonzero(known & ~same)) < FEWEST:
        return None
    index, resamples = resample(subjects)
    rows_of = [np.flatnonzero(index == place) for place in range(resamples.shape[1])]
    draws = (np.concatenate([rows_of[place] for place in places]) for places in resamples)
    areas = [area for draw in draws if (area := _auc(values[draw], same[draw])) is not None]
    return around(_auc(values, same), areas)._asdict()


def _auc(values: np.ndarray, same: np.ndarray) -> float | None:
    """Return how often a value labeled same exceeds one labeled different, ties half; None without both.

    Unknown values (NaN) are left out.
    """
    known = ~np.isnan(values)
    higher, lower = values[known & same], np.sort(values[known & ~same])
    if not len(higher) or not len(lower):
        return None
    below, upto = (np.searchsorted(lower, higher, side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(lower))
