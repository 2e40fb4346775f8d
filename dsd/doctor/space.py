"""Checks for Hugging Face Spaces: what a model lacks there, and whether this folder can be pushed.

`python app.py --check-space` checks what can be checked without a Space. The versions that ZeroGPU supports
are listed here as documented in August 2026, because a Space does not report them in advance.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dsd.model.memory import installed_version
from dsd.model.presets import FLUX_DEV, PRESETS

SPACE = "SPACE_ID"  # variable with the Space's name, "owner/name"
MODEL = "DSD_MODEL"  # variable that names the model, because a Space passes no flags
PINS = "pre-requirements.txt"  # installed by a Space before requirements.txt
TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")
PYTHON = ("3.10", "3.12")
KEYS = (
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file",
    "short_description", "models", "tags", "license", "suggested_hardware", "startup_duration_timeout",
)  # fmt: skip
DESCRIPTION = 60  # maximum characters on the hub
LARGE = 10 * 2**20  # maximum bytes of a file that git can push to a Space


def is_space() -> bool:
    """Return whether this process runs on a Space."""
    return bool(os.environ.get(SPACE)) or is_zero()


def page() -> str | None:
    """Return the address of the page around this Space, or None elsewhere."""
    name = os.environ.get(SPACE)
    return f"https://huggingface.co/spaces/{name}" if name else None


def code() -> str | None:
    """Return the address of this Space's files, or None elsewhere."""
    return f"{page()}/tree/main" if page() else None


def is_zero() -> bool:
    """Return whether this is ZeroGPU: there the main thread alone places weights, before it serves."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def find_missing(model: str, *, device: str, token: bool) -> str | None:
    """Return what this Space lacks for `model`, before any download; None if it lacks nothing."""
    if model not in PRESETS or PRESETS[model].embedded:
        return None
    if device == "cpu":
        return f"{model} needs a GPU: choose ZeroGPU as hardware in the settings of this Space"
    if model == FLUX_DEV.name and not token:
        secret = "a secret HF_TOKEN with a token of that account"
        return f"{model} is gated: accept its license, then add {secret} in the settings of this Space"
    return None


def check(root: Path) -> list[str]:
    """Return what would fail on a Space, one sentence each; [] if nothing would."""
    from huggingface_hub import metadata_load

    header = metadata_load(root / "README.md") or {}
    missing = [key for key in KEYS if not header.get(key)]
    if missing:
        return [f"README.md: its front matter lacks {', '.join(missing)}"]
    lines, pins = lines_of(root / "requirements.txt"), lines_of(root / PINS)
    return [
        *(f"README.md: {problem}" for problem in check_header(header, root)),
        *(f"{PINS}: {problem}" for problem in check_pins(pins, lines)),
        *(f"requirements.txt: {problem}" for problem in check_requirements(lines, header["sdk_version"])),
        *check_files(root),
    ]


def lines_of(file: Path) -> list[str]:
    """Return the file's lines, or [] if there is no file."""
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def check_header(header: dict[str, Any], root: Path) -> Iterator[str]:
    """Yield the problems of a front matter that has all KEYS."""
    from huggingface_hub import SpaceHardware

    allowed = {
        "sdk": ["gradio"],
        "sdk_version": [installed_version("gradio")],
        "python_version": PYTHON,
        "suggested_hardware": [hardware.value for hardware in SpaceHardware],
    }
    for key, values in allowed.items():
        if header[key] not in values:
            choice = f"{'one of ' if len(values) > 1 else ''}{', '.join(values)}"
            yield f"{key} must be {choice}, in quotes where it is a number, got {header[key]!r}"
    if not (root / header["app_file"]).is_file():
        yield f"app_file {header['app_file']} does not exist"
    if len(header["short_description"]) > DESCRIPTION:
        yield f"short_description has more than {DESCRIPTION} characters"


def check_pins(pins: list[str], lines: list[str]) -> list[str]:
    """Return a problem unless torch is pinned to a version of ZeroGPU: pip takes the newest of a range."""
    pin, torch = _parse(pins)[0].get("torch"), _parse(lines)[0].get("torch")
    version = str(pin).removeprefix("==")
    if version not in TORCH:
        got = "nothing" if pin is None else f"torch{pin}"
        return [f"torch must be pinned, as torch==VERSION, to one of {', '.join(TORCH)}, got {got}"]
    if torch is not None and version not in torch:
        return [f"torch{torch} in requirements.txt excludes torch=={version}, and would replace it"]
    return []


def check_requirements(lines: list[str], sdk_version: str) -> list[str]:
    """Return the requirements that ZeroGPU cannot install or that differ from the versions tested here."""
    ranges, problems = _parse(lines)
    if "torch" in ranges and not any(ranges["torch"].filter(TORCH)):
        problems.append(f"torch{ranges['torch']} excludes all that ZeroGPU offers: {', '.join(TORCH)}")
    if "gradio" in ranges and sdk_version not in ranges["gradio"]:
        problems.append(f"gradio{ranges['gradio']} contradicts the front matter's sdk_version {sdk_version}")
    problems += [f"{name} is missing" for name in {"torch", "spaces"} - ranges.keys()]
    for name, specifier in ranges.items():
        version = installed_version(name)
        if version is None:
            problems.append(f"{name} is not installed here, so nothing was tested with it")
        elif not specifier.contains(version.split("+")[0], prereleases=True):
            problems.append(f"{name}{specifier} excludes the installed version, {version}")
    return problems


def _parse(lines: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return version ranges by package, and the problems of lines that cannot be parsed."""
    from packaging.requirements import InvalidRequirement, Requirement

    ranges: dict[str, Any] = {}
    problems = []
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        try:
            ranges[Requirement(line).name] = Requirement(line).specifier
        except InvalidRequirement:
            problems.append(f"{line!r} is not a package with a range of versions")
    return ranges, problems


def check_files(root: Path) -> Iterator[str]:
    """Yield the files that are too large to push, or are Git LFS pointers without content."""
    paths = [path for folder in ("assets", "dsd", "train", "tests") for path in (root / folder).rglob("*")]
    for file in sorted(path for path in paths if path.is_file()):
        name = file.relative_to(root)
        if file.stat().st_size > LARGE:
            yield f"{name} has more than 10 MB: git cannot push it as it is"
        elif file.suffix == ".safetensors" and file.read_bytes().startswith(b"version https://git"):
            yield f"{name} is a pointer of Git LFS: run git lfs pull"
