"""Check this machine and recommend a model and commands: `python -m dsd.doctor`.

This module gathers the facts, without loading a model and with torch as the only slow import;
`dsd.doctor.advice` decides. `remedy` gives the same advice when loading a model runs out of memory.
"""

import argparse
import json
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

from dsd.doctor.advice import (
    BAD_TOKEN,
    BASE,
    DOWNLOADS,
    GRANTED,
    NO_TOKEN,
    OFFLINE,
    REFUSED,
    REQUIRED,
    SILENT,
    Advice,
    Facts,
    advise,
    lighter,
    shortage,
)
from dsd.model.memory import PACKAGE, WAYS, MemoryShortage, Way, gb

PATIENCE = 4  # seconds to wait for the hub to say whether the license was accepted


def remedy(error: ValueError) -> str:
    """Return the message of an error; for a MemoryShortage, say what fits on this machine."""
    if not isinstance(error, MemoryShortage):
        return str(error)
    say = teacher_shortage if error.teacher else shortage
    return say(gather(ask=False, index=error.index), error.model, error.way, main=error.main)


def teacher_shortage(facts: Facts, model: str, way: Way, *, main: bool) -> str:
    """Return the out-of-memory message for a teacher, which is never quantized: only offloading helps."""
    kind, free = ("main memory", facts.ram_free) if main else ("GPU memory", facts.gpu_free)
    less = [one.offload for one in WAYS if not (main or one.quantize) and one.gpu < way.gpu]
    remedy = f"try --offload {' or '.join(less)}" if less else "close other programs"
    return (
        f"the teacher {model} does not fit into {kind}, of which {gb(free)} can be had here: {remedy}; "
        "python -m dsd.doctor says more"
    )


# ---------------------------------------------------------------- facts


def hint(model: str, way: Way) -> str:
    """Return what to change when the model fits into memory but an image does not."""
    less = lighter(gather(ask=False), way) if model.startswith("flux-") else None
    return f"use{less.flags}" if less else "ask python -m dsd.doctor what fits here"


def gather(*, ask: bool = True, index: int | None = None) -> Facts:
    """Gather the facts about this machine; if `ask`, also ask the hub about the license.

    Memory that this process already holds counts as free. `index` is the GPU index; None is the current GPU.
    """
    asked: dict[str, Any] = {"token": False, "access": SILENT}
    asking = Thread(target=_ask, args=(asked, ask), daemon=True)
    asking.start()  # runs while torch is imported
    found = {**_gpu(index), **_ram(), **_disk()}
    asking.join(PATIENCE)
    versions = {
        "python": platform.python_version(),
        **{name: _version(name) for name in (*REQUIRED, PACKAGE)},
    }
    nvidia = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    return Facts(versions=versions, nvidia=nvidia, **found, **asked)


def _gpu(index: int | None) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(index)
        free += torch.cuda.memory_reserved(index)
        return {
            "device": "cuda",
            "gpu": torch.cuda.get_device_name(index),
            "gpu_free": free,
            "gpu_total": total,
        }
    return {"device": "mps", "gpu": "Apple GPU"} if torch.backends.mps.is_available() else {}


def _ram() -> dict[str, int]:
    try:
        import psutil
    except ImportError:  # installed with accelerate
        return {}
    memory = psutil.virtual_memory()
    own = psutil.Process().memory_info().rss
    return {"ram_total": memory.total, "ram_free": min(memory.total, memory.available + own)}


def _disk() -> dict[str, Any]:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return {}
    cache = Path(HF_HUB_CACHE).absolute()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    blobs = {name: cache / f"models--{name.replace('/', '--')}" / "blobs" for name in DOWNLOADS}
    cached = {name: sum(file.stat().st_size for file in blobs[name].glob("*")) for name in blobs}
    return {"cache": str(cache), "disk_free": shutil.disk_usage(there).free, "cached": cached}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ask(asked: dict[str, Any], ask: bool) -> None:
    """Store in `asked` whether there is a token and whether it has access to BASE."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return
    asked["token"] = get_token() is not None
    if constants.HF_HUB_OFFLINE:
        asked["access"] = OFFLINE
    elif not asked["token"]:
        asked["access"] = NO_TOKEN
    elif ask:
        asked["access"] = _access()


def _access() -> str:
    from huggingface_hub import auth_check
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        auth_check(BASE)
    except GatedRepoError:
        return REFUSED
    except HfHubHTTPError as error:
        return BAD_TOKEN if error.response.status_code == 401 else SILENT
    except Exception:  # any network error leads to the same advice
        return SILENT
    return GRANTED


# ---------------------------------------------------------------- the command


def report(facts: Facts, advice: Advice) -> str:
    """Format facts and advice as text."""
    gpu = f"{facts.gpu}, {gb(facts.gpu_free)} of {gb(facts.gpu_total)} free" if facts.gpu_total else facts.gpu
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in facts.versions.items())
    on_disk = ", ".join(f"{name} {gb(size)}" for name, size in facts.cached.items() if size) or "no FLUX yet"
    lines = {
        "device": f"{facts.device} ({gpu})" if gpu else facts.device,
        "memory": f"{gb(facts.ram_free)} of {gb(facts.ram_total)} free",
        "disk": f"{gb(facts.disk_free)} free in {facts.cache}; {on_disk}",
        "versions": versions,
        "token": f"{'there is one' if facts.token else 'none'}; FLUX.1-dev: {facts.access}",
    }
    parts = ["\n".join(f"{name:9} {text}" for name, text in lines.items()), _page("Run", advice)]
    if advice.missing:
        parts.append("\n".join(["Missing", *(f"  {one}" for one in advice.missing)]))
    if advice.later:
        parts.append(_page("Then this machine can run", advice.later))
    return "\n\n".join(parts)


def _page(title: str, advice: Advice) -> str:
    """Format the choice, what to expect, and the commands."""
    held = f"offload {advice.offload}, quantize {advice.quantize or 'none'}"
    choice = f"{title}: {advice.preset} on {advice.device}, {advice.dtype}, {held}, quality {advice.quality}"
    commands = (f"    {command}" for command in advice.commands)
    return "\n".join([choice, *(f"  {line}" for line in advice.expect), *commands])


def main(argv: list[str] | None = None) -> int:
    """Print the report; return 1 if a required package is missing, else 0."""
    parser = argparse.ArgumentParser(
        prog="dsd.doctor", description="What of this project runs here, and how."
    )
    parser.add_argument("--json", action="store_true", help="facts and advice as JSON")
    args = parser.parse_args(argv)
    facts = gather()
    advice = advise(facts)
    if args.json:
        print(json.dumps({"facts": asdict(facts), "advice": asdict(advice)}, indent=2))
    else:
        print(report(facts, advice))
    return 0 if all(facts.versions[name] for name in REQUIRED) else 1
