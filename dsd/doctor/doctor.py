"""Check this machine and recommend a model and commands: `python -m dsd.doctor`.

This module gathers the facts, without loading a model and with torch as the only slow import;
`dsd.doctor.advice` decides. `remedy` gives the same advice when loading a model runs out of memory.
"""

import argparse
import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dsd.doctor import advice
from dsd.doctor.advice import BASE, DOWNLOADS, REQUIRED, Advice, Facts
from dsd.model.memory import PACKAGE, MemoryShortage, Way, gb, installed_version

PATIENCE = 4  # seconds to wait for the hub to say whether the license was accepted


def remedy(error: ValueError) -> str:
    """Return the message of an error; for a MemoryShortage, say what fits on this machine."""
    if not isinstance(error, MemoryShortage):
        return str(error)
    facts = gather(ask=False, index=error.index)
    return advice.explain_shortage(facts, error.model, error.way, main=error.main, teacher=error.teacher)


def suggest_change(model: str, way: Way) -> str:
    """Return what to change when the model fits into memory but an image does not."""
    less = advice.find_lighter(gather(ask=False), way) if model.startswith("flux-") else None
    return f"use{less.flags}" if less else "run python -m dsd.doctor to see what fits here"


def gather(*, ask: bool = True, index: int | None = None) -> Facts:
    """Gather the facts about this machine; if `ask`, also ask the hub about the license.

    Memory that this process already holds counts as free. `index` is the GPU index; None is the current GPU.
    Without the required packages, only the versions are gathered.
    """
    versions = {name: installed_version(name) for name in (*REQUIRED, PACKAGE)}
    versions = {"python": platform.python_version(), **versions}
    if not all(versions[name] for name in REQUIRED):
        return Facts(versions=versions)
    nvidia = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    facts = {**_gather_gpu(index), **_gather_memory(), **_gather_access(ask)}
    return Facts(versions=versions, nvidia=nvidia, **facts)


def _gather_gpu(index: int | None) -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(index)
        free += torch.cuda.memory_reserved(index)
        name = torch.cuda.get_device_name(index)
        return {"device": "cuda", "gpu": name, "gpu_free": free, "gpu_total": total}
    return {"device": "mps", "gpu": "Apple GPU"} if torch.backends.mps.is_available() else {}


def _gather_memory() -> dict[str, Any]:
    """Return the main memory, the disk of the hub cache, and what of FLUX is in it."""
    import psutil
    from huggingface_hub.constants import HF_HUB_CACHE

    memory = psutil.virtual_memory()
    free = min(memory.total, memory.available + psutil.Process().memory_info().rss)
    cache = Path(HF_HUB_CACHE).absolute()
    disk = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    blobs = {name: (cache / f"models--{name.replace('/', '--')}" / "blobs").glob("*") for name in DOWNLOADS}
    cached = {name: sum(file.stat().st_size for file in files) for name, files in blobs.items()}
    ram = {"ram_total": memory.total, "ram_free": free}
    return {**ram, "cache": str(cache), "disk_free": disk, "cached": cached}


def _gather_access(ask: bool) -> dict[str, Any]:
    """Return whether there is a token, and whether it has access to BASE."""
    from huggingface_hub import constants, get_token

    token = get_token() is not None
    if constants.HF_HUB_OFFLINE:
        access = advice.OFFLINE
    elif not token:
        access = advice.NO_TOKEN
    else:
        access = _ask_hub() if ask else advice.SILENT
    return {"token": token, "access": access}


def _ask_hub() -> str:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers

    try:
        url = f"{constants.ENDPOINT}/api/models/{BASE}/auth-check"
        response = get_session().get(url, headers=build_hf_headers(), timeout=PATIENCE)
    except Exception:  # any network error leads to the same advice
        return advice.SILENT
    if response.headers.get("X-Error-Code") == "GatedRepo":
        return advice.REFUSED
    return {200: advice.GRANTED, 401: advice.BAD_TOKEN}.get(response.status_code, advice.SILENT)


def report(facts: Facts, choice: Advice) -> str:
    """Format facts and advice as text."""
    gpu = f"{facts.gpu}, {gb(facts.gpu_free)} of {gb(facts.gpu_total)} free" if facts.gpu_total else facts.gpu
    on_disk = ", ".join(f"{name} {gb(size)}" for name, size in facts.cached.items() if size) or "no FLUX yet"
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts.versions.items())
    lines = [
        f"device    {facts.device} ({gpu})" if gpu else f"device    {facts.device}",
        f"memory    {gb(facts.ram_free)} of {gb(facts.ram_total)} free",
        f"disk      {gb(facts.disk_free)} free in {facts.cache}; {on_disk}",
        f"versions  {versions}",
        f"token     {'set' if facts.token else 'none'}; FLUX.1-dev: {facts.access}",
        *_format("Run", choice),
    ]
    if choice.missing:
        lines += ["", "Missing", *(f"  {one}" for one in choice.missing)]
    if choice.later:
        lines += _format("Then this machine can run", choice.later)
    return "\n".join(lines)


def _format(title: str, choice: Advice) -> list[str]:
    """Return the choice, what to expect, and the commands as lines."""
    held = f"offload {choice.offload}, quantize {choice.quantize or 'none'}, quality {choice.quality}"
    first = f"{title}: {choice.preset} on {choice.device}, {choice.dtype}, {held}"
    commands = (f"    {command}" for command in choice.commands)
    return ["", first, *(f"  {line}" for line in choice.expect), *commands]


def main(argv: list[str] | None = None) -> int:
    """Print the report; return 1 if a required package is missing, else 0."""
    parser = argparse.ArgumentParser(prog="dsd.doctor", description="Show what runs here, and how.")
    parser.add_argument("--json", action="store_true", help="print facts and advice as JSON")
    args = parser.parse_args(argv)
    facts = gather()
    choice = advice.advise(facts)
    as_json = json.dumps({"facts": asdict(facts), "advice": asdict(choice)}, indent=2)
    print(as_json if args.json else report(facts, choice))
    return 0 if all(facts.versions[name] for name in REQUIRED) else 1
