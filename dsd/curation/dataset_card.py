"""The card of a dataset: its contents, how it was made, its license, and some sample pairs.

Everything is read from the run's rows, so the card describes what happened instead of what was intended.
"""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import DatasetCardData
from PIL import Image, ImageOps

from dsd.curation import report
from dsd.curation.captions import GRID
from dsd.curation.dataset import Dataset
from dsd.curation.folders import CONFIGS, LAYOUTS
from dsd.curation.licenses import is_unknown
from dsd.curation.selection import FLUX_DEV, Choice, Run, counts, find_recipe, license, part_licenses
from dsd.files import contact_sheet, jsonl
from dsd.files.jsonl import Row, RunError
from dsd.files.markdown import table
from dsd.files.pairs import IMAGES
from dsd.grids import grids
from dsd.grids.grids import Grid, describe_lora

PARQUET_FILES = [{"split": "train", "path": "train-*.parquet"}]
SAMPLES = 8  # pairs in the image, in two columns
BORDER = 12  # pixels
DEV_PAGE = "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md"
OPENING = (
    "{:,} rows, {:,} pairs in both orders, to train a model that {}. Made by diffusion self-distillation "
    "([arXiv 2411.18616](https://arxiv.org/abs/2411.18616)): a text-to-image model drew grids of such "
    "images, and the grids were cut into panels. {}"
)
MEANINGS = {
    "id": "grid, panel of `conditioning`, panel of `target`",
    "conditioning": "the image that a model is shown",
    "target": "the image to draw",
    "caption": "what `target` shows",
    "instruction": "what to change to get from one to the other",
    "caption_writer": f"the model that wrote both; `{GRID}` if they are the words of the grid's own prompt",
    "subject": "the subject in the grid's prompt",
    "prompt": "the prompt of the whole grid",
    "seed": "the seed of the whole grid",
    "grid": "the grid that both images are from",
    "generator": "the model that drew it",
    "generator_hash": "a hash of that model's weights",
    "generator_license": "the license of its images",
    "license": "the strictest license of generator, prompt writer, judge, captions and reference captions",
    "judge": "the model that judged the pair",
    "reason": "the reason for its verdict",
    "similarity": "cosine of the two images' embeddings",
    "scores": "JSON: how well each part of the subject agrees, 0 to 4",
}
KINDS = {
    "judge": "A vision-language model judged every pair and kept those that show {pairs}.",
    "floor": "These pairs passed only a cheap check of how alike two images are; **no judge's verdict "
    "counted**. They are made for comparison: many do not show {pairs}.",
    "all": "These are all pairs of all grids, **uncurated**. They are made for comparison: many do not show "
    "{pairs}.",
}
NON_COMMERCIAL = """\
**Non-commercial.** Images drawn by FLUX.1 [dev] may be used for non-commercial purposes only, and not to
train a model that competes with it; `generator_license` marks every such row."""
UNKNOWN_LICENSE = """\
**Unknown licenses.** The license of these parts is not known: {}. Treat it as the strictest of all until you
have read it."""
LIMITS = """\
- Every image was made by a model. So was every text, unless its `caption_writer` is `grid`.
- The judge makes errors; if its grades are known, they are above. Good pairs that it rejected are missing.
- The words of a grid's own prompt say what was requested, which is not always what was drawn.
- Subjects, places and styles are those that the generator knows and the prompts requested, with their biases.
- A panel can be in several pairs, and each pair comes in both orders: rows are not independent. To hold some
  out, hold out whole subjects.
"""


def write_card(run: Run, dataset: Dataset, choice: Choice, *, grades: Path | None = None) -> None:
    """Write README.md and samples.png beside the shards; `grades` is that file of `train.curate --grade`."""
    text = card(run, dataset, choice, grades=read_grades(grades) if grades else None)
    samples = contact_sheet.marked_png(sample_sheet(run, dataset))
    contents = {"samples.png": samples, "README.md": text.encode()}
    for name, content in contents.items():
        path = dataset.folder / name
        if not path.exists() or path.read_bytes() != content:
            jsonl.write_atomic(path, content)


def read_grades(path: Path) -> str:
    """Return the judge's grades as a section of the page; raise RunError for a file without grades."""
    try:
        return f"#{report.markdown(json.loads(path.read_text(encoding='utf-8')))}"
    except OSError as error:
        raise RunError(f"cannot read the judge's grades: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} holds no grades: give the grades.json that train.curate --grade writes"
        ) from error


def sample_sheet(run: Run, dataset: Dataset) -> Image.Image:
    """Draw sample pairs of different grids, spread over the dataset, with their texts."""
    firsts: dict[str, int] = {}  # grid -> its first row
    for index, row in enumerate(dataset.rows):
        firsts.setdefault(row["grid"], index)
    indices, count = list(firsts.values()), min(SAMPLES, len(firsts))
    rows = [dataset.rows[indices[k * len(indices) // count]] for k in range(count)]
    samples = [row | dict(zip(IMAGES, _images(run, row), strict=True)) for row in rows]
    half = -(-count // 2)
    columns = []
    for part in filter(None, (samples[:half], samples[half:])):
        images = {name: [row[name] for row in part] for name in IMAGES}
        texts = [f"{row['caption']} ({row['instruction']})" for row in part]
        columns.append(contact_sheet.compose(images, texts))
    page = Image.new("RGB", (sum(column.width for column in columns), columns[0].height), "white")
    for k, column in enumerate(columns):
        page.paste(column, (k * columns[0].width, 0))
    return ImageOps.expand(page, BORDER, "white")


def _images(run: Run, row: Row) -> list[Image.Image]:
    """Return the conditioning image and the target of a row."""
    panels = grids.open_panels(run.folder, run.grids[row["grid"]])
    return [panels[int(panel)] for panel in row["id"].split("-")[-2:]]


def card(run: Run, dataset: Dataset, choice: Choice, *, grades: str | None = None) -> str:
    """Return the README.md: the metadata that the hub reads, and the page with `grades` as a section."""
    count, licenses = len(dataset.rows), Counter(row["generator_license"] for row in dataset.rows)
    strict = Counter(row["license"] for row in dataset.rows)
    recipe = find_recipe(run)
    title = f"Pairs of {recipe.pairs}"
    parts = [
        f"---\n{_metadata(title, set(strict), dataset.format).to_yaml()}\n---",
        f"# {title}",
        OPENING.format(count, count // 2, recipe.aim, KINDS[choice.which].format(pairs=recipe.pairs)),
        "![Sample pairs: the conditioning image, the target image, the texts](samples.png)",
        *([f"## Files\n\n{LAYOUTS[dataset.format]}"] if dataset.format in LAYOUTS else []),
        *([] if dataset.format in CONFIGS else [_columns(dataset.format)]),
        f"## How many\n\n{_amounts(run, dataset, choice)}",
        f"## How it was made\n\n{_making(run, dataset, choice)}",
        *([grades] if grades else []),
        f"## License\n\n{_shares('license of the generator', 'rows', licenses)}",
        _shares("strictest license of all parts", "rows", strict),
        *([NON_COMMERCIAL] if FLUX_DEV in licenses else []),
        *_warn_of_unknown(run, dataset),
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(parts)


def _columns(format: str) -> str:
    names = {"target": "image"} if format == "imagefolder" else {}  # as `datasets` names it there
    rows = [(names.get(name, name), meaning) for name, meaning in MEANINGS.items()]
    return f"## Columns\n\n{table(('column', 'content'), rows)}"


def _warn_of_unknown(run: Run, dataset: Dataset) -> list[str]:
    """Return a warning that names the parts whose license is not known, if there are any."""
    pairs, names = {pair.id: pair for pair in run.pairs}, set()
    for row in dataset.rows:
        first, second = sorted(map(int, row["id"].rsplit("-", 2)[1:]))
        pair = pairs[f"{row['grid']}-{first}-{second}"]
        parts = part_licenses(pair, run.grids[row["grid"]], row["caption_writer"], run)
        names |= {name for name, license in parts.items() if is_unknown(license)}
    return [UNKNOWN_LICENSE.format(", ".join(sorted(names)))] if names else []


def _metadata(title: str, licenses: set[str], format: str) -> DatasetCardData:
    """Return what the hub cannot read from the parquet files."""
    files = {"configs": [{"config_name": "default", "data_files": PARQUET_FILES}]}
    return DatasetCardData(
        **license_metadata(licenses),
        **(files if format == "parquet" else {}),
        pretty_name=title,
        task_categories=["image-to-image", "text-to-image"],
        tags=["diffusion-self-distillation", "subject-driven-generation", "synthetic"],
    )


def license_metadata(licenses: set[str]) -> dict[str, str]:
    """Return the license of a dataset in the hub's terms: the strictest of its rows."""
    if FLUX_DEV in licenses:
        return {
            "license": "other",
            "license_name": "flux-1-dev-non-commercial-license",
            "license_link": DEV_PAGE,
        }
    return {"license": "apache-2.0" if licenses == {"Apache-2.0"} else "unknown"}


def _amounts(run: Run, dataset: Dataset, choice: Choice) -> str:
    grids, pairs = counts(run).values()
    used, subjects = ({row[name] for row in dataset.rows} for name in ("grid", "subject"))
    kept = sum(pair.is_kept for pair in run.pairs)
    text = (
        f"{grids.total():,} grids were drawn, which gave {pairs.total():,} pairs of panels; the judge "
        f"kept {kept:,} of them, {kept / pairs.total():.1%}. The dataset has {len(dataset.rows) // 2:,} "
        f"pairs from {len(used):,} grids, with {len(subjects):,} differently worded subjects."
    )
    if choice.labels:
        overruled = sum(run.labels.get(pair.id, pair.verdict) != pair.verdict for pair in run.pairs)
        text += f"\n\nPeople overruled the judge in {overruled:,} pairs."
    writers = Counter(row["caption_writer"] for row in dataset.rows)
    tables = ("grids", "number", grids), ("pairs", "number", pairs), ("captions by", "rows", writers)
    return "\n\n".join([text, *(_shares(*one) for one in tables)])


def _making(run: Run, dataset: Dataset, choice: Choice) -> str:
    used = {row["grid"] for row in dataset.rows}
    generators = Counter(_drawing(grid) for grid in run.grids.values() if grid.id in used)
    judges = Counter()
    for pair in run.pairs:
        limits = ", ".join(f"{name} {value}" for name, value in asdict(pair.thresholds).items())
        judges[f"{pair.judge}, after {pair.embedder or 'no'} embeddings; {limits}"] += 1
    commands = "\n".join(
        f"python -m train.{stage} RUN" for stage in ("prompts", "grids", "curate", "dataset")
    )
    format = [] if dataset.format == "parquet" else [f"--format {dataset.format}"]
    parts = [
        _shares("grids drawn by", "grids", generators),
        _shares("pairs judged by", "pairs", judges),
        "These commands of `dsd` made it, in this order, with the options that the tables show:",
        f"```bash\n{' '.join([commands, *format, *choice.flags()])}\n```",
    ]
    return "\n\n".join(parts)


def _drawing(grid: Grid) -> str:
    """Return what drew a grid, and how."""
    lora = f" with {describe_lora(grid.teacher_lora)}" if grid.teacher_lora else ""
    return (
        f"{grid.generator} (weights {grid.generator_hash}, {license(grid)}){lora}, "
        f"{grid.rows}x{grid.columns} panels, {grid.steps} steps, guidance {grid.guidance}"
        + (f", shared noise {grid.shared_noise:g}" if grid.shared_noise else "")
        + (f", each panel drawn again at strength {grid.refine:g}" if grid.refine else "")
    )


def _shares(what: str, unit: str, counts: Counter) -> str:
    total = counts.total()
    return table((what, unit), [(key, f"{n:,} ({n / total:.1%})") for key, n in counts.most_common()])
