"""What the files of a model say about its origin: config, license, schedule, text length and frame.

A student draws as it was trained, whichever base it is put on, and the license is the strictest of all parts.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from huggingface_hub import hf_hub_download, metadata_load
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open

from dsd.files import hub, jsonl
from dsd.model.presets import FLUX_DEV, IDENTITY, SCALES, Preset, family_of
from dsd.model.sampling import make_stochastic

METADATA = "dsd"  # key in a LoRA file's metadata for what training has noted, as JSON
FRAME = "_frame"  # key in model_index.json for the frame of the training; diffusers ignores private keys
REFERENCES = "_references"  # the same for the most references of the training, if more than one
TASKS = "_tasks"  # the same for the tasks of the training, unless they are these:
USUAL_TASKS = (IDENTITY,)
GUIDANCE = "_scales"  # the same for the guidance scales that suit the student
SCHEDULER = "scheduler/scheduler_config.json"
FREE = "Apache-2.0"
Facts = dict[str, str | int | float]
SHIFTED = {"shift": 3.0, "use_dynamic_shifting": True}  # the schedule of FLUX.1-dev, published so


def find_file(source: str, path: str) -> Path | None:
    """Return a file of a folder or hub id, or None if there is none.

    Raise LocalEntryNotFoundError if the hub cannot be asked.
    """
    if Path(source).exists():
        file = Path(source, path)
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(source, path))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None


def read_json(source: str, path: str) -> dict[str, Any]:
    """Return a JSON file of a folder or hub id; {} if there is none."""
    file = find_file(source, path)
    return json.loads(file.read_text()) if file else {}


def transformer_config(source: str) -> dict[str, Any]:
    """Return the config of a model's transformer; {} if it cannot be read, which loading it will explain."""
    try:
        with hub.offline_if_unreachable(source):
            return read_json(source, "transformer/config.json") or read_json(source, "config.json")
    except Exception:  # the hub's library raises many kinds
        return {}


def pipeline_class(source: str) -> str | None:
    """Return the name of a model's pipeline class, or None if it cannot be read."""
    try:
        with hub.offline_if_unreachable(source):
            return read_json(source, "model_index.json").get("_class_name")
    except Exception:  # the hub's library raises many kinds
        return None


def card_license(source: str) -> str | None:
    """Return the license that the README of a folder or hub id names, or None."""
    try:
        with hub.offline_if_unreachable(source):
            card = find_file(source, "README.md")
    except Exception:  # the hub's library raises many kinds
        return None
    facts = (metadata_load(card) if card else None) or {}
    license = facts.get("license")
    if license == "other":
        return facts.get("license_name") or license
    return FREE if license == FREE.lower() else license


class Noted(TypedDict, total=False):
    """What training notes in a LoRA file, beside the tasks."""

    license: str | None
    frame: list[int] | None
    references: int | None
    text_tokens: int | None
    stochastic: bool | None


def lora_facts(file: Path) -> dict[str, Any]:
    """Return what training has noted in a LoRA file; {} for others. Raise RunError for other than facts."""
    with safe_open(file, framework="pt") as tensors:
        noted = (tensors.metadata() or {}).get(METADATA, "{}")
    return jsonl.parse_object(noted, Noted, f"the metadata of {file}")


def strictest(licenses: Iterable[str]) -> str:
    """Return the strictest license: a non-commercial one, then one that is not known to be free."""
    return min(licenses, key=lambda name: ("on-commercial" not in name.lower(), name == FREE))


def license_of(pipe: Any, preset: Preset, weights: str | None, lora: Path | None) -> str:
    """Return the license of a loaded pipeline: the strictest of its base, weights and style LoRAs."""
    parts = [preset.license]
    if family_of(pipe.transformer.config) is FLUX_DEV:
        parts.append(FLUX_DEV.license)
    if weights or pipe.styles:
        card = card_license(weights) if weights else None
        noted = lora_facts(lora).get("license") if lora and weights else card
        parts.append(Preset.license if pipe.styles else noted or Preset.license)
    return strictest(parts)


def follow_student(pipe: Any, base: str, weights: str | None, lora: Path | None) -> None:
    """Give a pipeline the schedule, text length, frame, references, tasks and scales of its student."""
    is_model = weights and not Path(weights).is_file()
    noted = lora_facts(lora) if lora else {}
    sources = [weights, base] if is_model else [base]
    if frame := noted.get("frame") or _find_fact(FRAME, sources):
        pipe.trained_frame = tuple(frame)
    own = sources[:1] if is_model or not weights else []  # where the weights are not one file
    pipe.trained_references = noted.get("references") or _find_fact(REFERENCES, own) or 1
    pipe.trained_tasks = _read_tasks(noted.get("tasks") or _find_fact(TASKS, own), weights or base)
    pipe.scales = read_scales(sources) or pipe.scales
    tokens = noted.get("text_tokens")
    if is_model and not tokens:
        tokens = read_json(weights, "tokenizer_2/tokenizer_config.json").get("model_max_length")
    if tokens:
        pipe.tokenizer_2.model_max_length = tokens
    config = read_json(weights, SCHEDULER) if is_model else {}
    family = family_of(getattr(pipe.transformer, "config", {}))  # training opens the transformer later
    if weights and not config and family is FLUX_DEV:
        config = {**pipe.scheduler.config, **SHIFTED}
    if config:
        pipe.register_modules(scheduler=type(pipe.scheduler).from_config(config))
    if noted.get("stochastic"):
        make_stochastic(pipe)


def _read_tasks(names: Any, source: str) -> tuple[str, ...]:
    """Return the tasks that a model's files name; raise LoadError for anything but a list of names."""
    names = names or list(USUAL_TASKS)
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        remedy = "correct or remove this entry of its files"
        raise hub.LoadError(f"{source} must name its tasks as a list of words, got {names!r:.80}: {remedy}")
    return tuple(dict.fromkeys(names))


def read_scales(sources: Iterable[str]) -> dict[str, float] | None:
    """Return the guidance scales from the first folder or hub id that names some, or None.

    Raise LoadError for anything but numbers.
    """
    for source in sources:
        if (scales := read_json(source, "model_index.json").get(GUIDANCE)) is None:
            continue
        is_whole = isinstance(scales, dict) and scales.keys() == SCALES.keys()
        if not is_whole or not all(type(it) in (int, float) and 0 <= it <= 10 for it in scales.values()):
            what = f"its scales {' and '.join(SCALES)} as numbers from 0 to 10, got {scales!r:.80}"
            raise hub.LoadError(f"{source} must name {what}: correct or remove this entry")
        return {name: float(scales[name]) for name in SCALES}
    return None


def _find_fact(name: str, sources: Iterable[str]) -> Any:
    """Return a fact from the first model_index.json of folders or hub ids that has it, or None."""
    return next(filter(None, (read_json(source, "model_index.json").get(name) for source in sources)), None)


def training_facts(pipe: Any) -> dict[str, Any]:
    """Return what model_index.json says of the training; nothing that its absence says as well."""
    facts = {FRAME: list(pipe.trained_frame)} if pipe.trained_frame else {}
    facts |= {REFERENCES: pipe.trained_references} if pipe.trained_references > 1 else {}
    facts |= {GUIDANCE: dict(pipe.scales)}
    return facts | ({TASKS: list(pipe.trained_tasks)} if pipe.trained_tasks != USUAL_TASKS else {})
