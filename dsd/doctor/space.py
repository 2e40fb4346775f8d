"""Checks for Hugging Face Spaces: what a model lacks there, and whether this folder can be pushed.

`python app.py --check-space` checks what can be checked without a Space. The versions that ZeroGPU supports
are listed here as documented in August 2026, because a Space does not report them in advance.
"""

import os
from importlib import metadata
from pathlib import Path
from typing import Any

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
    return bool(os.environ.get("SPACE_ID")) or is_zero()


def is_zero() -> bool:
    """Return whether this process runs on ZeroGPU.

    There, only the main thread can place weights, and only before serving.
    """
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def lacking(model: str, *, device: str, token: bool) -> str | None:
    """Return what this Space lacks for `model`, before any download; None if it lacks nothing."""
    if not model.startswith("flux-"):
        return None
    if device == "cpu":
        return f"{model} needs a GPU: choose ZeroGPU as hardware in the settings of this Space"
    if model == "flux-dev" and not token:
        return (
            f"{model} is gated: accept its license, then add a secret HF_TOKEN with a token of that account "
            "in the settings of this Space"
        )
    return None


def check(root: Path) -> list[str]:
    """Return what would fail on a Space, one sentence each; [] if nothing would."""
    from huggingface_hub import metadata_load

    header = metadata_load(root / "README.md") or {}
    missing = [key for key in KEYS if not header.get(key)]
    if missing:
        return [f"README.md: its front matter lacks {', '.join(missing)}"]
    wanted, pins = lines_of(root / "requirements.txt"), lines_of(root / PINS)
    return [
        *(f"README.md: {problem}" for problem in check_header(header, root)),
        *(f"{PINS}: {problem}" for problem in check_pins(pins, wanted)),
        *(f"requirements.txt: {problem}" for problem in check_requirements(wanted, header["sdk_version"])),
        *check_files(root),
    ]


def lines_of(file: Path) -> list[str]:
    """Return the file's lines, or [] if there is no file."""
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def check_header(header: dict[str, Any], root: Path) -> list[str]:
    """Return the problems of a front matter that has all KEYS."""
    from huggingface_hub import SpaceHardware

    gradio, python = metadata.version("gradio"), header["python_version"]
    flavours = [flavour.value for flavour in SpaceHardware]
    found = {
        f"sdk is {header['sdk']}, not gradio": header["sdk"] != "gradio",
        f"sdk_version {header['sdk_version']} is not the gradio at hand, {gradio}": (
            str(header["sdk_version"]) != gradio
        ),
        f"python_version {python!r} must be one of {', '.join(PYTHON)}, in quotes": python not in PYTHON,
        f"app_file {header['app_file']} is not there": not (root / header["app_file"]).is_file(),
        f"short_description has more than {DESCRIPTION} characters": (
            len(header["short_description"]) > DESCRIPTION
        ),
        f"suggested_hardware {header['suggested_hardware']} is none of {', '.join(flavours)}": (
            header["suggested_hardware"] not in flavours
        ),
    }
    return [problem for problem, is_there in found.items() if is_there]


def check_pins(pins: list[str], lines: list[str]) -> list[str]:
    """Return a problem unless torch is pinned to a version of ZeroGPU: pip takes the newest of a range."""
    pin, torch = _wanted(pins)[0].get("torch"), _wanted(lines)[0].get("torch")
    version = str(pin).removeprefix("==")
    if version not in TORCH:
        got = "nothing" if pin is None else f"torch{pin}"
        return [f"torch must be pinned, as torch==VERSION, to one of {', '.join(TORCH)}, got {got}"]
    if torch is not None and version not in torch:
        return [f"torch{torch} in requirements.txt leaves out torch=={version}, and would replace it"]
    return []


def check_requirements(lines: list[str], sdk_version: str) -> list[str]:
    """Return the requirements that ZeroGPU cannot install or that differ from the versions tested here."""
    wanted, problems = _wanted(lines)
    if "torch" in wanted and not any(wanted["torch"].filter(TORCH)):
        problems.append(f"torch{wanted['torch']} leaves out all that ZeroGPU offers: {', '.join(TORCH)}")
    if "gradio" in wanted and sdk_version not in wanted["gradio"]:
        problems.append(f"gradio{wanted['gradio']} contradicts the front matter's sdk_version {sdk_version}")
    for name in {"torch", "spaces"} - wanted.keys():
        problems.append(f"{name} is missing")
    return problems + [problem for name in wanted if (problem := _untested(name, wanted[name]))]


def _wanted(lines: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return version ranges by package, and the problems of lines that cannot be parsed."""
    from packaging.requirements import InvalidRequirement, Requirement

    wanted: dict[str, Any] = {}
    problems = []
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        try:
            wanted[Requirement(line).name] = Requirement(line).specifier
        except InvalidRequirement:
            problems.append(f"{line!r} is no package with a range of versions")
    return wanted, problems


def _untested(name: str, specifier: Any) -> str | None:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name} is not installed here, so nothing was tested with it"
    inside = specifier.contains(version.split("+")[0], prereleases=True)
    return None if inside else f"{name}{specifier} leaves out the version at hand, {version}"


def check_files(root: Path) -> list[str]:
    """Return the files that are too large to push, or are Git LFS pointers without content."""
    problems = []
    for folder in ("assets", "dsd", "train", "tests"):
        for file in sorted(path for path in (root / folder).rglob("*") if path.is_file()):
            if file.stat().st_size > LARGE:
                problems.append(f"{file.relative_to(root)} has more than 10 MB: git cannot push it as it is")
            elif file.suffix == ".safetensors" and _is_pointer(file):
                problems.append(f"{file.relative_to(root)} is a pointer of Git LFS: run git lfs pull")
    return problems


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(20).startswith(b"version https://git")
