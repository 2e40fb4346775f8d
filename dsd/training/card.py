"""The card of a trained model: its use, data, settings, training time, scores and license."""

import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from httpx import TransportError
from huggingface_hub import HfApi, ModelCardData, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from dsd.files import hub
from dsd.files.hub import LoadError
from dsd.files.pairs import BadRow
from dsd.generate.drawing import public_name
from dsd.training.loop import Trained
from dsd.training.options import OF_LORA, TrainOptions

LICENSES = {"Apache-2.0": "apache-2.0"}
KEPT_BACK = ["run/*", "samples/*", ".*"]  # files of the folder that are not uploaded
UNTOLD = ("cache", "model", "save_every", "validate_every", "log_every")
OPENING = """\
Give it a picture of a character or a thing and a few words, and it draws the same one somewhere else. It was
made with `dsd`, by diffusion self-distillation ([arXiv 2411.18616](https://arxiv.org/abs/2411.18616)), from
the model `{base}` and the pairs below."""
USE = """\
```python
from PIL import Image
from dsd import load_pipeline

pipe = load_pipeline("{name}")
image = pipe(prompt="on the beach", image=Image.open("subject.png"), image_guidance_scale=1.5).images[0]
```

Plain diffusers opens it as a `FluxControlPipeline`; its control image is the subject on the left half of a
canvas twice as wide, and black on the right.{lora}"""
LORA = """ `lora/pytorch_lora_weights.safetensors` is the same as one file, new input
columns included: `load_lora_weights` puts it on `{base}`."""


def dataset_facts(source: str, pairs: Any) -> dict[str, str]:
    """Return a dataset's name, number of rows, generator, the generator's license, and judge."""
    first = _first_readable(pairs)
    facts = {"dataset": public_name(source), "rows": f"{len(pairs):,}"}
    for name in ("generator", "generator_license", "judge"):
        if first.get(name):
            facts[name.replace("_", "'s ")] = str(first[name])
    return facts


def _first_readable(pairs: Any) -> dict[str, Any]:
    """Return the first undamaged row, or {}; training skips damaged rows too."""
    for index in range(len(pairs)):
        try:
            return pairs[index]
        except BadRow:
            continue
    return {}


def keep_rates(source: str, files: Sequence[str] = ()) -> str | None:
    """Return the part of the dataset's own card that counts what was drawn and kept, or None.

    The card is in the folder `source` or its subfolder `dataset`; for a hub dataset it is in the folder of
    its parquet `files` or the one above.
    """
    folders = [Path(source), Path(source, "dataset"), *Path(*files[:1]).parents[:2]]
    for card in (folder / "README.md" for folder in folders):
        if card.is_file():
            found = re.search(
                r"^## How many\n+(.*?)(?=^## |\Z)", card.read_text(encoding="utf-8"), re.M | re.S
            )
            return found[1].strip() if found else None
    return None


def card(
    trained: Trained,
    name: str,
    *,
    facts: dict[str, str],
    kept: str | None = None,
    scores: dict[str, float] | None = None,
    legend: str | None = None,
    samples: str | None = None,
    curves: str | None = None,
) -> str:
    """Return README.md; `legend` explains the scores, `samples` and `curves` name images beside the file."""
    base, options = trained.base, trained.options
    lora = "" if options.full else LORA.format(base=public_name(base.name))
    parts = [
        f"---\n{_head(trained).to_yaml()}\n---",
        f"# Same subject, somewhere new\n\n{OPENING.format(base=public_name(base.name))}",
        *([f"![What it draws of subjects it never saw]({samples})"] if samples else []),
        f"## Use\n\n{USE.format(name=name, lora=lora)}",
        f"## Data\n\n{_table(('', ''), facts)}",
        *([kept] if kept else []),
        f"## Training\n\n{_cost(trained)}\n\n{_table(('setting', 'value'), settings(options))}",
        *([f"![Loss and scores over the steps]({curves})"] if curves else []),
        *([f"## Scores\n\n{_scores(scores)}"] if scores else []),
        *([legend] if scores and legend else []),
        f"## License\n\n{_license(trained)}",
    ]
    return "\n\n".join(parts) + "\n"


def _head(trained: Trained) -> ModelCardData:
    base = trained.base
    known = LICENSES.get(base.license)
    named = {} if known else {"license_name": "see-the-base-model", "license_link": base.license_page}
    return ModelCardData(
        license=known or "other",
        **{key: value for key, value in named.items() if value},
        library_name="diffusers",
        pipeline_tag="image-to-image",
        base_model=base.source if hub.ID.fullmatch(base.source) else None,
        tags=["diffusion-self-distillation", "subject-driven-generation", "flux"],
    )


def settings(options: TrainOptions) -> dict[str, Any]:
    """Return the settings that affect the result, by their names on the command line."""
    told = {one.name: getattr(options, one.name) for one in fields(options) if one.name not in UNTOLD}
    unused = OF_LORA if options.full else ()
    return {
        name.replace("_", "-"): " ".join(value) if isinstance(value, tuple) else value
        for name, value in told.items()
        if name not in unused and value is not None and value != ()
    }


def _cost(trained: Trained) -> str:
    options = trained.options
    pairs = options.batch * options.accumulate * trained.processes
    samples, hours = options.steps * pairs, trained.seconds / 3600
    skipped = f"; {trained.skipped:,} rows could not be used" if trained.skipped else ""
    return (
        f"{options.steps:,} steps of {pairs} pairs, {samples:,} samples of {trained.rows:,} rows"
        f"{skipped}. {hours:.2f} hours on {trained.processes} x {trained.device}, "
        f"{hours * trained.processes:.2f} device hours, without the encoding of the images."
    )


def _scores(scores: dict[str, float]) -> str:
    """Return a table of the scores, with interval, chance and ceiling where they are known."""
    names = [name for name in scores if not re.search(r"_(low|high|chance|ceiling)$", name)]
    lines = {
        name: [scores.get(f"{name}{end}") for end in ("", "_low", "_high", "_chance", "_ceiling")]
        for name in names
    }
    return _table(("score", "mean", "95 % from", "to", "chance", "the truth"), lines)


def _license(trained: Trained) -> str:
    page = f" ([text]({trained.base.license_page}))" if trained.base.license_page else ""
    return (
        f"The weights are made from `{public_name(trained.base.name)}`, whose license holds for them too: "
        f"{trained.base.license}{page}. What the data's generator may be used for is said under Data."
    )


def _table(heads: tuple[str, ...], lines: dict[str, Any]) -> str:
    cells = [[name, *(value if isinstance(value, list) else [value])] for name, value in lines.items()]
    rows = (heads, ["---"] * len(heads), *cells)
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def check_upload(name: str) -> None:
    """Raise LoadError if the hub does not allow the name or there is no token to upload with."""
    _check_name(name)
    if get_token() is None:
        raise LoadError(
            f"uploading {name} needs a token: set the variable HF_TOKEN to one that may write there "
            "(https://huggingface.co/settings/tokens)"
        )


def _check_name(name: str) -> None:
    if not hub.ID.fullmatch(name):
        raise LoadError(f"a model on the hub is called owner/name, got {name!r}")


def push(folder: Path, name: str, *, private: bool = True, api: HfApi | None = None) -> str:
    """Upload a checkpoint and its card to the hub as model `name` (owner/name), and return its URL.

    A new model is private by default. Raise LoadError if the hub refuses or cannot be reached.
    """
    _check_name(name)
    api = api or HfApi()
    with hub.explained(name, [name]):
        try:
            api.create_repo(name, repo_type="model", private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name, folder_path=folder, ignore_patterns=KEPT_BACK, commit_message="Upload the model"
            )
        except (OfflineModeIsEnabled, TransportError) as error:
            raise LoadError(
                f"the hub cannot be reached, so {name} was not uploaded. What is in {folder} is whole: run "
                "the same command again when there is a network"
            ) from error
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403, 404):
                raise
            raise LoadError(
                f"the hub does not let you write {name}: set the variable HF_TOKEN to a token that may write "
                "there (https://huggingface.co/settings/tokens)"
            ) from error
    return f"https://huggingface.co/{name}"
