"""What a comparison leaves in its folder: results, tables, images, and one HTML page of everything.

`results.json` has no time stamps, so a comparison that was stopped and continued has the same bytes.
`scores.json` is the same file under its older name.
"""

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image

import dsd
from dsd.evaluation import benchmarks, labels, report, scores, validation
from dsd.evaluation.intervals import RESAMPLES, Interval
from dsd.evaluation.scores import Case, Scores
from dsd.evaluation.validation import Benchmark
from dsd.files import contact_sheet, jsonl, whole

# The rows that are not checkpoints.
TEACHER, TRUTH, COPY, CHANCE = "teacher, prompted", "truth (ceiling)", "copy of the reference", "chance"
VAE, MULTIPLIED = "VAE of the reference", "the reference, its colors multiplied"
LEVELS = (COPY, VAE)  # rows that show the reference itself
LABELS = "labels.json"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
METHOD = f"means over images; 95 % bootstrap intervals over subjects, {RESAMPLES} resamples of seed 0"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ways of drawing the cases of a benchmark, and their scores."""

    benchmark: Benchmark
    settings: dict[str, Any]
    results: dict[str, Scores] = field(default_factory=dict)  # by the name of the way
    models: dict[str, str] = field(default_factory=dict)  # what identifies its weights and settings
    described: set[str] = field(default_factory=set)  # ways that got the full caption as the prompt

    @property
    def means(self) -> dict[str, dict[str, Interval]]:
        """Return the means of all ways, then of the truth and of chance."""
        levels = self.benchmark.levels
        means = {name: result.means for name, result in self.results.items()}
        return means | ({TRUTH: levels.ceiling} if levels.ceiling else {}) | {CHANCE: levels.chance}

    def groups(self) -> dict[str, dict[str, dict[str, Interval]]]:
        """Return the means of each measure by way and group, for benchmarks that have groups."""
        cases = self.benchmark.cases
        if not any(case.groups for case in cases):
            return {}
        return {
            measure.name: {
                way: benchmarks.by_group(cases, result.rows, measure.name)
                for way, result in self.results.items()
            }
            for measure in self.benchmark.scorer.measures
        }


def tables(found: Comparison) -> str:
    """Return the Markdown page: scores, parts or groups, differences from the first way, and a legend."""
    benchmark, measures = found.benchmark, found.benchmark.scorer.measures
    subjects, count = len({case.subject for case in benchmark.cases}), len(benchmark.cases)
    parts = [
        f"{subjects} subjects, {count} images for each row; means, 95 % intervals over subjects",
        scores.table(found.means, measures),
        *_breakdown(found),
    ]
    ways = [name for name in found.results if name not in LEVELS]
    if len(ways) > 1:
        (first, *others), results = ways, found.results
        differences = {name: scores.difference(results[name], results[first]) for name in others}
        parts += [f"Difference from {first}, case by case:", scores.table(differences, measures)]
    lost = [f"{count} images of {way} have no score" for way, count in unreadable(found).items() if count]
    notes = [f"The judge's answers could not be read: {'; '.join(lost)}."] if lost else []
    return "\n\n".join([*parts, *notes, benchmark.legend])


def unreadable(found: Comparison) -> dict[str, int]:
    """Return for each way the number of images that lack a score, because an answer could not be read."""
    names = [measure.name for measure in found.benchmark.scorer.measures]
    return {
        way: sum(any(math.isnan(row[name]) for name in names) for row in result.rows)
        for way, result in found.results.items()
    }


def _breakdown(found: Comparison) -> list[str]:
    if traits := found.benchmark.scorer.traits:
        names = {name: name.replace("_", " ") for name in traits}
        return ["Kept, part by part:", scores.columns_table(found.means, names)]
    titles = {measure.name: measure.title for measure in found.benchmark.scorer.measures}
    parts = []
    for name, means in found.groups().items():
        columns = {group: group for way in means.values() for group in way}
        parts += [f"{titles[name]}, by group:", scores.columns_table(means, columns)]
    return parts


# ---------------------------------------------------------------- files


def write(out: Path, found: Comparison, page: str, *, with_report: bool = True) -> None:
    """Write results, tables, images and the HTML page into the folder, replacing those of earlier runs."""
    cases = found.benchmark.cases
    rows = _image_rows(out, found)
    about = _describe(found)
    if (out / LABELS).exists():
        about["agreement"] = _agreement(labels.read(out / LABELS), rows, about)
    images = {name: result.images for name, result in found.results.items() if name not in LEVELS}
    _write_results(out, about)
    jsonl.write_atomic(out / "scores.md", page.encode() + b"\n")
    jsonl.write_rows(out / "images.jsonl", rows)
    jsonl.write_atomic(out / "samples.png", contact_sheet.marked_png(validation.sample_sheet(cases, images)))
    if with_report:
        report.write(
            out, {"about": about, "rows": _page_rows(rows, about), "images": _page_images(out, rows)}
        )


def _write_results(out: Path, about: dict[str, Any]) -> None:
    content = json.dumps(about, indent=2, allow_nan=False).encode()
    for name in ("results.json", "scores.json"):
        jsonl.write_atomic(out / name, content)


def _describe(found: Comparison) -> dict[str, Any]:
    """Return the content of `results.json`."""
    benchmark, scorer = found.benchmark, found.benchmark.scorer
    cases = benchmark.cases
    subjects = len({case.subject for case in cases})
    about = {
        "protocol": {
            "benchmark": benchmark.name, "subjects": subjects, "images": len(cases),
            "cases": _hash_cases(cases), "rotations of chance": benchmark.rotations, "numbers": METHOD,
        },
        "settings": found.settings,
        "seeds": f"{len({case.seed for case in cases})} from {min(case.seed for case in cases)} "
        f"to {max(case.seed for case in cases)}",
        "backbones": scorer.backbones,
        "models": found.models,
        "versions": {"dsd": dsd.__version__, "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "torch": torch.__version__,
        "measures": [asdict(measure) for measure in scorer.measures],
        "traits": list(scorer.traits),
        "unlabeled": list(LEVELS),
        "chance": _round(benchmark.levels.chance),
        "ceiling": _round(benchmark.levels.ceiling),
        "scores": {name: _round(result.means) for name, result in found.results.items()},
        "groups": {
            name: {way: _round(means) for way, means in ways.items()}
            for name, ways in found.groups().items()
        },
        "unreadable": unreadable(found),
    }  # fmt: skip
    return {"id": _hash(json.dumps(about))} | about


def _round(means: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {
        name: {end: round(value, 4) for end, value in mean._asdict().items()} for name, mean in means.items()
    }


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def _hash_image(image: Image.Image) -> str:
    return _hash(repr((image.mode, image.size)), image.tobytes())


def _hash_cases(cases: Sequence[Case]) -> str:
    shown = {id(case.reference): case.reference for case in cases}
    known = {key: _hash_image(image) for key, image in shown.items()}
    return _hash(*(repr((case.prompt, case.seed, known[id(case.reference)])) for case in cases))


# ---------------------------------------------------------------- images


def _image_rows(out: Path, found: Comparison) -> list[dict[str, Any]]:
    """Return a row for each image: its case, its files in `images/`, its scores and the reason for them."""
    folder, saved = out / "images", {}
    cases, rows = found.benchmark.cases, []
    for way, result in found.results.items():
        reasons = found.benchmark.scorer.explain(cases, result)
        for case, image, row, reason in zip(cases, result.images, result.rows, reasons, strict=True):
            about = {"way": way, "subject": case.subject, "prompt": case.prompt, "seed": case.seed}
            shown = {"reference": case.reference, "truth": case.truth}
            asked = {"asked": case.caption if way in found.described else case.prompt}
            files = {"file": image.info.get("file") or _save(folder, image, saved)}
            files |= {name: one and _save(folder, one, saved) for name, one in shown.items()}
            numbers = {name: None if math.isnan(value) else value for name, value in row.items()}
            identity = _hash(repr(about), _hash_image(image))
            rows.append({"id": identity} | about | asked | files | {"reason": reason} | numbers)
    return rows


def _save(folder: Path, image: Image.Image, saved: dict[int, str]) -> str:
    """Save an image under its hash unless it is there, undamaged, and return the name of its file."""
    if id(image) not in saved:
        name = saved[id(image)] = f"{_hash_image(image)}.png"
        if not _is_saved(folder / name):
            jsonl.write_atomic(folder / name, contact_sheet.png(image))
    return saved[id(image)]


def _is_saved(file: Path) -> bool:
    with suppress(ValueError):  # there is no file, or a damaged one
        return file.stem == _hash_image(contact_sheet.read_png(file))
    return False


def _page_rows(rows: list[dict[str, Any]], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows for the HTML page, without traits and with rounded scores."""
    names = [measure["name"] for measure in about["measures"]]
    texts = ("id", "way", "subject", "prompt", "asked", "seed", "file", "reference", "truth", "reason")
    return [
        {text: row[text] for text in texts}
        | {"scores": {name: None if row[name] is None else round(row[name], 3) for name in names}}
        for row in rows
    ]


def _page_images(out: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    names = dict.fromkeys(row[kind] for row in rows for kind in ("file", "reference", "truth"))
    files = [name for name in names if name]
    return {name: report.data_url(contact_sheet.read_png_in(out / "images", name)) for name in files}


# ---------------------------------------------------------------- labels


def add_labels(out: Path, file: Path) -> str:
    """Add a person's labels to a report's folder and return the agreement as a Markdown page.

    Raise ValueError for labels or a page that cannot be read, and for the page of an earlier comparison.
    """
    given, data = labels.read(file), report.read(out)
    with whole.locked(out / "scores"):
        about = jsonl.read_object(out / "results.json", About)
        if about["id"] != data["about"]["id"]:
            raise ValueError(
                f"{out / report.NAME} is older than results.json beside it: let the command that wrote these "
                "results finish first"
            )
        about["agreement"] = _agreement(given, _read_rows(out, about), about)
        _write_results(out, about)
        report.write(out, data | {"about": about})
        if file.resolve() != (out / LABELS).resolve():
            jsonl.write_atomic(out / LABELS, file.read_bytes())
    return labels.page(about["agreement"], about["measures"])


class Measured(TypedDict):
    """What is read of a measure in `results.json`."""

    name: str
    title: str
    is_identity: bool


class About(TypedDict):
    """What is read of `results.json`."""

    id: str
    measures: list[Measured]


def _read_rows(out: Path, about: About) -> list[dict[str, Any]]:
    """Return the rows of `images.jsonl`; raise RunError for fields or scores of the wrong type."""
    names = [measure["name"] for measure in about["measures"] if measure["is_identity"]]
    fields = dict.fromkeys(("id", "way", "subject"), str) | dict.fromkeys(names, float | None)
    return jsonl.read_typed(out / "images.jsonl", TypedDict("ImageRow", fields))


def _agreement(
    given: Mapping[str, bool], rows: list[dict[str, Any]], about: dict[str, Any]
) -> dict[str, Any]:
    names = [measure["name"] for measure in about["measures"] if measure["is_identity"]]
    return labels.agreement(given, rows, names)
