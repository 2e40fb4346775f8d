"""Published benchmarks of one subject, read from a folder that the user has: DreamBench++ and OmniContext.

DreamBench++ is its `data` folder: `images/**/NN.jpg` and `captions/**/NN.txt`, where the first line names the
subject and nine prompts follow: four photorealistic, three in another style, two imaginative. OmniContext is
the folder of its parquet files, of which the rows with one reference (`task_type` "single_...") are read.
Any other folder is one of photographs, as `dsd.evaluation.photographs` describes it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.evaluation import photographs
from dsd.evaluation.intervals import Interval, intervals
from dsd.evaluation.scores import Case, Numbers
from dsd.files import intake, parquet
from dsd.model import canvas

PHOTOGRAPHS, DREAMBENCH, OMNICONTEXT = "photographs", "DreamBench++", "OmniContext, single subject"
KINDS = ("photorealistic",) * 4 + ("style transfer",) * 3 + ("imaginative",) * 2  # of the nine prompts
STYLE, SUBJECTS = "style", "all but style"  # style images show a style, not a subject
COLUMNS = ["key", "task_type", "instruction", "input_images"]


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """The cases of a folder, and the benchmark that it holds."""

    name: str
    cases: list[Case]


def read(folder: str | Path, prompts: int | None = None, *, size: int = 512) -> Photographs:
    """Return the cases of a folder, recognized by its layout, with images cropped to `size` pixels.

    `prompts` limits the prompts of each subject; None means 3 for photographs and all for DreamBench++. Raise
    ValueError for files that are missing or cannot be used.
    """
    folder = photographs.check_folder(folder)
    if (folder / "images").is_dir() and (folder / "captions").is_dir():
        return Photographs(name=DREAMBENCH, cases=_read_dreambench(folder, prompts, size))
    if files := sorted(folder.rglob("*.parquet")):
        return Photographs(name=OMNICONTEXT, cases=list(_read_omnicontext(files, prompts, size)))
    return Photographs(name=PHOTOGRAPHS, cases=photographs.read_cases(folder, prompts, size=size))


# ---------------------------------------------------------------- DreamBench++


def _read_dreambench(folder: Path, prompts: int | None, size: int) -> list[Case]:
    count = len(KINDS) if prompts is None else prompts
    if not 1 <= count <= len(KINDS):
        raise ValueError(f"prompts must be from 1 to {len(KINDS)} for DreamBench++, got {prompts}")
    suffixes = intake.suffixes()
    found = (file for file in (folder / "images").rglob("*") if file.suffix.lower() in suffixes)
    files = sorted(file for file in found if not file.name.startswith("."))  # macOS leaves ._00.jpg
    if len(files) < 2:
        raise ValueError(f"at least 2 images are needed in {folder / 'images'}, got {len(files)}")
    cases = []
    for index, file in enumerate(files):
        cases += _read_subject(folder, file.relative_to(folder / "images"), 1000 * index, size)[:count]
    return cases


def _read_subject(folder: Path, name: Path, seed: int, size: int) -> list[Case]:
    """Return the nine cases of an image; raise ValueError if its captions are not nine."""
    file = (folder / "captions" / name).with_suffix(".txt")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    texts = [line.strip() for line in lines if line.strip()][1:]  # the first one names the subject
    if len(texts) != len(KINDS):
        raise ValueError(
            f"{file} must hold a subject and {len(KINDS)} prompts, a line each, got {len(texts)} prompts"
        )
    category = name.parent.name
    within = (category,) if category == STYLE else (category, SUBJECTS)
    reference = canvas.fit(intake.open_image(folder / "images" / name), size, size)
    return [
        _case(name.with_suffix("").as_posix(), reference, text, seed + turn, (*within, KINDS[turn]))
        for turn, text in enumerate(texts)
    ]


def _case(subject: str, reference: Image.Image, text: str, seed: int, groups: tuple[str, ...]) -> Case:
    """Return a case whose prompt already names its subject, so that it is the caption, too."""
    prompt = intake.check_prompt(text)
    return Case(subject=subject, reference=reference, prompt=prompt, caption=prompt, seed=seed, groups=groups)


# ---------------------------------------------------------------- OmniContext


def _read_omnicontext(files: list[Path], prompts: int | None, size: int) -> Iterator[Case]:
    if prompts not in (None, 1):
        raise ValueError(f"prompts must be 1 for OmniContext, which has one for each image, got {prompts}")
    rows = [row for file in files for row in _single_rows(file)]
    if len(rows) < 2:
        raise ValueError(
            f"{files[0].parent} has {len(rows)} rows of a single subject, and at least 2 are needed: give "
            "the folder of OmniContext's parquet files"
        )
    for index, row in enumerate(sorted(rows, key=lambda row: str(row["key"]))):
        (cell,) = row["input_images"]
        reference = canvas.fit(intake.decode(cell["bytes"]), size, size)
        yield _case(str(row["key"]), reference, row["instruction"], 1000 * index, (row["task_type"],))


def _single_rows(file: Path) -> Iterator[dict]:
    """Yield the rows of a file that have one reference; raise ValueError for other columns."""
    opened = parquet.open_file(str(file))
    if lacking := [name for name in COLUMNS if name not in opened.schema_arrow.names]:
        raise ValueError(
            f"{file} lacks the columns {', '.join(lacking)}, so it is not OmniContext's: name a folder of "
            "photographs, DreamBench++'s data folder, or OmniContext's"
        )
    for group in range(opened.num_row_groups):
        for row in parquet.read_group(opened, group, COLUMNS).to_pylist():
            if row["task_type"].startswith("single") and len(row["input_images"]) == 1:
                yield row


# ---------------------------------------------------------------- groups


def by_group(cases: Sequence[Case], rows: Sequence[Numbers], measure: str) -> dict[str, Interval]:
    """Return a measure's mean over the images of each group that has at least 2 subjects."""
    means = {}
    for name in dict.fromkeys(name for case in cases for name in case.groups):
        pairs = [(row, case) for row, case in zip(rows, cases, strict=True) if name in case.groups]
        numbers = [{name: row[measure]} for row, _ in pairs]
        if len({case.subject for _, case in pairs}) > 1:
            means |= intervals(numbers, [case.subject for _, case in pairs])
    return means
