"""The card of a dataset: its contents, how it was made, its license, and some sample pairs.

Everything is read from the run's rows, so the card describes what happened instead of what was intended.
"""

import json
from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCardData
from PIL import Image, ImageOps

from dsd.curation import report
from dsd.curation.captions import GRID
from dsd.curation.dataset import Written
from dsd.curation.selection import FLUX_DEV, Choice, Run, counts, license
from dsd.curation.verdict import KEEP
from dsd.files import contact_sheet as samples
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.files.pairs import COLUMNS, Pairs

SHOWN = 8  # pairs in the image, in two columns
BORDER = 12  # pixels
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEANING = {
    "id": "grid, panel of `conditioning`, panel of `target`",
    "conditioning": "the image that a model is shown",
    "target": "the same subject somewhere else: what it is to draw",
    "caption": "what `target` shows",
    "instruction": "what to change to get from one to the other",
    "caption_writer": f"the model that wrote both; `{GRID}` if they are the words of the grid's own prompt",
    "subject": "the subject in the grid's prompt",
    "prompt": "of the whole grid",
    "seed": "of the whole grid",
    "grid": "the grid",
    "generator": "the model that drew it",
    "generator_hash": "names that model's weights",
    "generator_license": "what may be done with what it drew",
    "judge": "the model that judged the pair",
    "reason": "of its verdict",
    "similarity": "cosine of the two images' embeddings",
    "scores": "JSON: how well each part of the subject agrees, 0 to 4",
}
KINDS = {
    "judge": "A vision-language model judged every pair and kept those that show one and the same subject.",
    "floor": "These pairs passed only a cheap check of how alike two images are; **no judge's verdict "
    "counted**. They are made for comparison: many do not show one and the same subject.",
    "all": "These are all pairs of all grids, **uncurated**. They are made for comparison: many do not show "
    "one and the same subject.",
}
NON_COMMERCIAL = """\
**Non-commercial.** What FLUX.1 [dev] drew may be used for non-commercial purposes only, and not to train a
model that competes with it; `generator_license` marks every such row."""
LIMITS = """\
- Every image was made by a model. So was every text, unless its `caption_writer` is `grid`.
- The judge errs; its grades, where they are known, are above. Pairs that it was too strict about are missing.
- The words of a grid's own prompt say what was asked for, which is not always what was drawn.
- Subjects, places and styles are those that the generator knows and the prompts asked for, with their biases.
- Panels of one grid come back in several pairs, and each pair in both orders: rows are not independent. To
  hold some out, hold out whole subjects.
"""


def write_card(run: Run, written: Written, choice: Choice, *, grades: Path | None = None) -> None:
    """Write README.md and samples.png beside the shards.

    `grades` is the grades.json of `train.curate --grade`.
    """
    text = card(run, written, choice, grades=read_grades(grades) if grades else None)
    _write(written.folder / "samples.png", samples.png(contact_sheet(written)))
    _write(written.folder / "README.md", text.encode())


def _write(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        jsonl.write(path, content)


def read_grades(path: Path) -> str:
    """Return the judge's grades as a section of the page; raise RunError for a file without grades."""
    try:
        page = report.markdown(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RunError(f"cannot read the judge's grades: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} holds no grades: give the grades.json that train.curate --grade writes"
        ) from error
    return f"#{page}"


def contact_sheet(written: Written) -> Image.Image:
    """Draw sample pairs of different grids, spread over the dataset, with their texts."""
    firsts: dict[str, int] = {}
    for place, row in enumerate(written.rows):
        firsts.setdefault(row["grid"], place)
    places, count = list(firsts.values()), min(SHOWN, len(firsts))
    pairs = Pairs([str(path) for path in written.shards])
    shown = [pairs[places[k * len(places) // count]] for k in range(count)]
    half = -(-count // 2)
    columns = [_column(part) for part in (shown[:half], shown[half:]) if part]
    page = Image.new("RGB", (sum(column.width for column in columns), columns[0].height), "white")
    for k, column in enumerate(columns):
        page.paste(column, (k * columns[0].width, 0))
    return ImageOps.expand(page, BORDER, "white")


def _column(shown: list[Row]) -> Image.Image:
    images = {name: [row[name] for row in shown] for name in ("conditioning", "target")}
    return samples.compose(images, [f"{row['caption']} ({row['instruction']})" for row in shown])


# ---------------------------------------------------------------- text


def card(run: Run, written: Written, choice: Choice, *, grades: str | None = None) -> str:
    """Return the README.md: the metadata that the hub reads, and the page with `grades` as a section."""
    parts = [
        f"---\n{_head(written).to_yaml()}\n---",
        f"# Pairs of one subject in two places\n\n{_opening(written, choice)}",
        "![Some pairs: the image shown, the image to draw, the words](samples.png)",
        f"## In a row\n\n{report.table(('column', 'what it holds'), MEANING.items())}",
        f"## How many\n\n{_amounts(run, written, choice)}",
        f"## How it was made\n\n{_making(run, written, choice)}",
        *([grades] if grades else []),
        f"## License\n\n{_license_text(written)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return "\n\n".join(parts)


def _head(written: Written) -> DatasetCardData:
    size = sum(path.stat().st_size for path in written.shards)
    features = [{"name": name, "dtype": kind} for name, kind in COLUMNS.items()]
    split = {"name": "train", "num_bytes": size, "num_examples": len(written.rows)}
    return DatasetCardData(
        **_license_head(written),
        pretty_name="Pairs of one subject in two places",
        task_categories=["image-to-image", "text-to-image"],
        size_categories=[next((name for limit, name in SIZES if len(written.rows) < limit), "n>1M")],
        tags=["diffusion-self-distillation", "subject-driven-generation", "synthetic"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "train-*.parquet"}]}],
        dataset_info={"features": features, "splits": [split], "download_size": size, "dataset_size": size},
    )


def _license_head(written: Written) -> dict[str, str]:
    """Return the metadata of the strictest license among the rows."""
    found = {row["generator_license"] for row in written.rows}
    if FLUX_DEV in found:
        page = "https://huggingface.co/black-forest-labs/FLUX.1-dev/blob/main/LICENSE.md"
        return {"license": "other", "license_name": "flux-1-dev-non-commercial-license", "license_link": page}
    return {"license": "apache-2.0" if found == {"Apache-2.0"} else "unknown"}


def _license_text(written: Written) -> str:
    found = Counter(row["generator_license"] for row in written.rows)
    text = _table(("license of the generator", "rows"), found)
    if FLUX_DEV in found:
        return f"{text}\n\n{NON_COMMERCIAL}"
    return text


def _opening(written: Written, choice: Choice) -> str:
    count = len(written.rows)
    return (
        f"{count:,} rows, {count // 2:,} pairs in both orders, to train a model that is shown an image and "
        "told where its subject shall be. Made by diffusion self-distillation ([arXiv 2411.18616]"
        "(https://arxiv.org/abs/2411.18616)): a text-to-image model drew grids of one subject in several "
        f"places, and the grids were cut into panels. {KINDS[choice.which]}"
    )


def _amounts(run: Run, written: Written, choice: Choice) -> str:
    grids, pairs = counts(run).values()
    used, subjects = ({row[name] for row in written.rows} for name in ("grid", "subject"))
    kept = sum(pair["verdict"] == KEEP for pair in run.pairs)
    writers = Counter(row["caption_writer"] for row in written.rows)
    overruled = [
        p for p in run.pairs if choice.labels and run.labels.get(p["id"], p["verdict"]) != p["verdict"]
    ]
    return "\n\n".join(
        [
            f"{grids.total():,} grids were drawn, which gave {pairs.total():,} pairs of panels; the judge "
            f"kept {kept:,} of them, {kept / pairs.total():.1%}. Here are {len(written.rows) // 2:,} pairs "
            f"from {len(used):,} grids, of {len(subjects):,} differently worded subjects.",
            *([f"People overruled the judge in {len(overruled):,} pairs."] if overruled else []),
            _table(("grids", "how many"), grids),
            _table(("pairs", "how many"), pairs),
            _table(("words by", "rows"), writers),
        ]
    )


def _making(run: Run, written: Written, choice: Choice) -> str:
    grids = {row["grid"] for row in written.rows}
    drawn = Counter(_drawing(grid) for grid in run.grids.values() if grid["id"] in grids)
    judged = Counter(_judging(pair) for pair in run.pairs)
    return "\n\n".join(
        [
            _table(("grids drawn by", "grids"), drawn),
            _table(("pairs judged by", "pairs"), judged),
            "With these commands of `dsd`, in this order, and the options that the tables tell:",
            f"```bash\n{_commands(choice)}\n```",
        ]
    )


def _drawing(grid: Row) -> str:
    return (
        f"{grid['generator']} (weights {grid['generator_hash']}, {license(grid)}), {grid['rows']}x"
        f"{grid['columns']} panels, {grid['steps']} steps, guidance {grid['guidance']}"
    )


def _judging(pair: Row) -> str:
    limits = ", ".join(f"{name} {value}" for name, value in pair["thresholds"].items())
    return f"{pair['judge']}, after {pair['embedder'] or 'no'} embeddings; {limits}"


def _commands(choice: Choice) -> str:
    options = {f"--{name}": value for name, value in choice.changed().items()}
    flags = [name if value is True else f"{name} {value}" for name, value in options.items()]
    stages = [f"python -m train.{stage} RUN" for stage in ("prompts", "grids", "curate", "dataset")]
    return "\n".join([*stages[:-1], " ".join([stages[-1], *flags])])


def _table(heads: tuple[str, str], found: Counter) -> str:
    lines = [(name, f"{count:,} ({count / found.total():.1%})") for name, count in found.most_common()]
    return report.table(heads, lines)
