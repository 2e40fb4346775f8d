"""The card of a trained model: its use, data, settings, training time, scores and license."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import ModelCardData

from dsd.files import hub
from dsd.files.markdown import table
from dsd.files.pairs import BadRow, Pairs, Row
from dsd.generate.drawing import public_name
from dsd.model import origin
from dsd.training.loop import TrainResult
from dsd.training.options import LORA_ONLY, TrainOptions

NOT_UPLOADED = ["run/*", "samples/*", ".*"]  # files of a checkpoint's folder
OMITTED = ("cache", "cache_gb", "model", "start_from", "save_every", "validate_every", "log_every")
INTRODUCTION = """\
This model takes an image of a character or an object and a prompt, and draws the same subject in a new place.
It was trained with `dsd` by diffusion self-distillation ([arXiv 2411.18616](https://arxiv.org/abs/2411.18616))
from the model `{base}`{start} and the pairs below."""
USE = """\
```python
from PIL import Image
from dsd import load_pipeline

pipe = load_pipeline("{name}")
image = pipe(
    prompt="on the beach",
    image=Image.open("subject.png"),
    image_guidance_scale={image_guidance:g},
    text_guidance_scale={text_guidance:g},
).images[0]
```

Plain diffusers opens it as a `FluxControlPipeline`. Its control image is a canvas of two frames: the subject
on the left, black on the right.{noise}{lora}"""
NOISE = """ Its scheduler adds new noise in every step, which plain diffusers takes from torch's
global generator: seed that one to draw an image again."""
LORA = """ `lora/pytorch_lora_weights.safetensors` holds the same model in one file, new input
columns included: `load_lora_weights` adds it to `{base}`. `lora/comfyui.safetensors` is the same for
ComfyUI."""

ROUNDED = """ The weights of this folder keep {kept:.0%} of the LoRA's change: the rest
is less than their dtype can hold{remedy}."""
EXACT = 0.95  # shares below this are stated


def dataset_facts(source: str, pairs: Pairs) -> dict[str, str]:
    """Return a dataset's name, its number of rows, tasks, generators, their strictest license, its judges.

    The last three are those of the first undamaged row of each of the datasets that are joined.
    """
    rows, facts = _first_rows(pairs), {"dataset": public_name(source), "rows": f"{len(pairs):,}"}
    if (tasks := pairs.read_tasks()) != origin.USUAL_TASKS:
        facts["tasks"] = ", ".join(tasks)
    for name in ("generator", "generator_license", "judge"):
        values = list(dict.fromkeys(str(row[name]) for row in rows if row.get(name)))
        values = [origin.strictest(values)] if values and name == "generator_license" else values
        facts |= {name.replace("_", "'s "): ", ".join(values)} if values else {}
    return facts


def _first_rows(pairs: Pairs) -> list[Row]:
    """Return the first undamaged row of each joined dataset, which has its files in a folder of its own."""
    rows: dict[PurePath, Row] = {}
    for index, file in enumerate(pairs.row_files()):
        if (folder := PurePath(file).parent) not in rows:
            with suppress(BadRow):
                rows[folder] = pairs[index]
    return list(rows.values())


def keep_rates(source: str, files: Sequence[str] = ()) -> str | None:
    """Return the part of the dataset's own card that counts what was drawn and kept, or None.

    The card is in `source` or its subfolder `dataset`, or in the folder of its parquet `files` or above it.
    """
    folders = [Path(source), Path(source, "dataset"), *Path(*files[:1]).parents[:2]]
    for card in (folder / "README.md" for folder in folders):
        if card.is_file():
            section = r"^## How many\n+(.*?)(?=^## |\Z)"
            match = re.search(section, card.read_text(encoding="utf-8"), re.M | re.S)
            return match[1].strip() if match else None
    return None


def card(
    result: TrainResult,
    name: str,
    *,
    facts: dict[str, str],
    rates: str | None = None,
    scores: dict[str, float] | None = None,
    legend: str | None = None,
    samples: str | None = None,
    curves: str | None = None,
) -> str:
    """Return README.md; `legend` explains the scores, `samples` and `curves` name images beside the file."""
    base, options = public_name(result.base.name), result.options
    license = origin.strictest([result.base.license, facts.get("generator's license", result.base.license)])
    lora = "" if options.full or result.base.start else LORA.format(base=base)
    lora += _rounding(result)
    noise = NOISE if result.base.stochastic else ""
    use = USE.format(name=name, lora=lora, noise=noise, **result.base.scales)
    start = f", continuing the student `{public_name(result.base.start)}`," if result.base.start else ""
    parts = [
        f"---\n{_metadata(result, license).to_yaml()}\n---",
        f"# Same subject, new place\n\n{INTRODUCTION.format(base=base, start=start)}",
        f"![Samples with subjects that were not in the training data]({samples})" if samples else None,
        f"## Use\n\n{use}",
        f"## Data\n\n{table(('', ''), facts.items())}",
        rates,
        f"## Training\n\n{_cost(result)}\n\n{table(('setting', 'value'), settings(options).items())}",
        f"![Loss and scores over the steps]({curves})" if curves else None,
        f"## Scores\n\n{_score_table(scores)}" if scores else None,
        legend if scores else None,
        f"## License\n\n{_license(result, license)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rounding(result: TrainResult) -> str:
    """Return a sentence for a LoRA that lost much of its change in the folder's dtype, else nothing."""
    if result.kept is None or result.kept >= EXACT:
        return ""
    remedy = "" if result.base.start else ", and the LoRA file has all of it"
    return ROUNDED.format(kept=result.kept, remedy=remedy)


def _metadata(result: TrainResult, license: str) -> ModelCardData:
    base, licenses = result.base, {"license": "apache-2.0"}
    names = [name for name in (base.source, base.start) if name and hub.ID.fullmatch(name)]
    if license != origin.FREE:
        licenses = {"license": "other", "license_name": "see-the-base-model"}
        licenses |= {"license_link": base.license_page} if base.license_page else {}
    return ModelCardData(
        **licenses,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        base_model=names if len(names) > 1 else "".join(names) or None,
        tags=["diffusion-self-distillation", "subject-driven-generation", "flux"],
    )


def settings(options: TrainOptions) -> dict[str, Any]:
    """Return the settings that affect the result, by their names on the command line."""
    values, unused = {}, OMITTED + (LORA_ONLY if options.full else ())
    for name, value in vars(options).items():
        if name not in unused and value not in (None, ()):
            values[name.replace("_", "-")] = " ".join(value) if isinstance(value, tuple) else value
    return values


def _cost(result: TrainResult) -> str:
    options, hours = result.options, result.seconds / 3600
    pairs = options.batch * options.accumulate * result.processes
    skipped = f"; {result.skipped:,} rows could not be used" if result.skipped else ""
    return (
        f"{options.steps:,} steps of {pairs} pairs, {options.steps * pairs:,} samples of {result.rows:,} rows"
        f"{skipped}. {hours:.2f} hours on {result.processes} x {result.device}, "
        f"{hours * result.processes:.2f} device hours, without the encoding of the images."
    )


def _score_table(scores: dict[str, float]) -> str:
    """Return a table of the scores, with interval, chance and ceiling where they are known."""
    ends = ("_low", "_high", "_chance", "_ceiling")
    names = [name for name in scores if not name.endswith(ends)]
    rows = [[name, *(scores.get(name + end) for end in ("", *ends))] for name in names]
    return table(("score", "mean", "95 % from", "to", "chance", "the truth"), rows)


def _license(result: TrainResult, license: str) -> str:
    page = f" ([text]({result.base.license_page}))" if result.base.license_page else ""
    if license != result.base.license:
        page += f". The pairs were drawn under a stricter one, which holds: {license}"
    names = [result.base.name, *([result.base.start] if result.base.start else [])]
    whose = "its license" if len(names) == 1 else "the stricter of their licenses"
    return (
        f"The weights are derived from {' and '.join(f'`{public_name(name)}`' for name in names)} and have "
        f"{whose}: {result.base.license}{page}. The license of the generator of the pairs is listed under "
        "Data."
    )
