"""Advice on what to run on a machine: pure functions of its facts, so that any machine can be tested.

The memory needed by FLUX is computed from parameter counts; its speed was measured on one GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dsd.model.memory import INSTALL, PACKAGE, ROOM, WAYS, WORKSPACE, Way, gb
from dsd.model.presets import FLUX_DEV
from dsd.model.sampling import QUALITIES

BASE, WEIGHTS, PAGE = FLUX_DEV.base, FLUX_DEV.weights, FLUX_DEV.license_page
DOWNLOADS = {BASE: 9_940_000_000, WEIGHTS: 23_810_000_000}  # bytes: text encoders and VAE, transformer
REQUIRED = ("torch", "diffusers", "transformers", "gradio")
# Access to BASE.
GRANTED, REFUSED, BAD_TOKEN = "granted", "refused", "the token is not accepted"
OFFLINE, NO_TOKEN, SILENT = "not asked: offline", "not asked: no token", "unknown: no answer from the hub"
REMEDIES = {
    NO_TOKEN: f"no token: accept the license at {PAGE}, then set HF_TOKEN to a token of that account "
    "(https://huggingface.co/settings/tokens)",
    REFUSED: f"the license: accept it at {PAGE} with the account of the token",
    BAD_TOKEN: "the token is not accepted: create a new one at https://huggingface.co/settings/tokens",
}
MAC_NEED = Way().gpu - WORKSPACE
POCKET = "draws small images of drawn critters and nothing else, in seconds; no download, no key"
POCKET_COMMANDS = (
    "python app.py",
    'python -m dsd.generate assets/examples/01-pink-tall-striped.png "wearing a red hat" -o out.png',
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about a machine; memory and disk sizes are in bytes."""

    device: str = "cpu"  # the best device for torch: cuda, mps, cpu
    gpu: str | None = None  # its name
    gpu_total: int = 0
    gpu_free: int = 0
    nvidia: bool = False  # a driver is installed, whether or not torch can use it
    ram_total: int = 0
    ram_free: int = 0
    cache: str = ""  # folder of the hub cache
    disk_free: int = 0  # on the disk of the cache
    cached: dict[str, int] = field(default_factory=dict)  # bytes of BASE and WEIGHTS in the cache
    versions: dict[str, str | None] = field(default_factory=dict)  # None if not installed
    token: bool = False  # whether a token is set, never the token itself
    access: str = NO_TOKEN  # access to BASE


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to run, pocket by default. `later` is what the hardware can run with what is `missing`."""

    preset: str = "pocket"
    device: str
    dtype: str = "float32"
    quality: str = "best"
    expect: tuple[str, ...]
    commands: tuple[str, ...] = POCKET_COMMANDS
    offload: str = "none"
    quantize: str | None = None
    missing: tuple[str, ...] = ()
    later: "Advice | None" = None


def advise(facts: Facts) -> Advice:
    """Recommend FLUX in the best way that fits; pocket if none fits or something is missing."""
    packages = ", ".join(name for name in REQUIRED if not facts.versions.get(name))
    missing = (f"not installed: {packages}: pip install -r requirements.txt",) if packages else ()
    if facts.device == "mps":  # memory is shared, so offloading would gain nothing
        way = Way() if MAC_NEED <= ROOM * facts.ram_free else None
    else:
        way = find_lighter(facts, None)
    if way is None:
        return Advice(device=facts.device, expect=(POCKET, _explain_no_fit(facts)), missing=missing)
    flux = _advise_flux(facts, way)
    missing += tuple(_find_missing(facts))
    return Advice(device=facts.device, expect=(POCKET,), missing=missing, later=flux) if missing else flux


def find_lighter(facts: Facts, way: Way | None, *, main: bool = False) -> Way | None:
    """Return the first of WAYS that fits and takes less GPU memory than `way`, or less main memory if `main`.

    `way` None is no limit. The result is None if nothing fits, as on a machine without an NVIDIA GPU.
    """
    for other in WAYS if facts.device == "cuda" else ():
        is_less = way is None or (other.ram < way.ram if main else other.gpu < way.gpu)
        if is_less and other.gpu <= ROOM * facts.gpu_free and other.ram <= ROOM * facts.ram_free:
            return other
    return None


def _explain_no_fit(facts: Facts) -> str:
    if facts.device == "cpu" and facts.nvidia:
        remedy = "install a CUDA build, https://pytorch.org/get-started/locally/"
        return f"torch {facts.versions.get('torch')} cannot use the NVIDIA GPU of this machine: {remedy}"
    if facts.device == "cpu":
        return "FLUX needs an NVIDIA GPU or a Mac with much memory, and torch finds neither here"
    if facts.device == "mps":
        need, free, kind = MAC_NEED, facts.ram_free, "memory"
    elif fitting := [way.ram for way in WAYS if way.gpu <= ROOM * facts.gpu_free]:
        need, free, kind = min(fitting), facts.ram_free, "main memory with this GPU"
    else:
        need, free, kind = min(way.gpu for way in WAYS), facts.gpu_free, "GPU memory"
    return f"FLUX needs at least {gb(need)} of {kind} (computed), and {gb(free)} are free"


def _find_missing(facts: Facts) -> Iterator[str]:
    """Yield what FLUX still needs on this machine, each with its remedy."""
    downloads = _remaining_downloads(facts)
    size = sum(downloads.values())
    if downloads[BASE] and facts.access in REMEDIES:
        yield REMEDIES[facts.access]
    if size and facts.access == OFFLINE:
        yield "its files must be downloaded once, and HF_HUB_OFFLINE is set: unset it for that"
    if size > facts.disk_free:
        free = f"{gb(facts.disk_free)} are free in {facts.cache}"
        yield f"disk: {gb(size)} to download, {free}: make room, or set HF_HOME to another disk"


def _remaining_downloads(facts: Facts) -> dict[str, int]:
    """Return the bytes still to download per repository; less than 1 % missing counts as complete."""
    left = {name: size - facts.cached.get(name, 0) for name, size in DOWNLOADS.items()}
    return {name: size if size > DOWNLOADS[name] / 100 else 0 for name, size in left.items()}


def _advise_flux(facts: Facts, way: Way) -> Advice:
    # Fewer evaluations where each is slower.
    quality = "best" if way == Way() and facts.device == "cuda" else "balanced"
    quality = "draft" if way.offload in ("group", "sequential") else quality
    flags = f"--model flux-dev{way.flags}"
    draw = f'python -m dsd.generate photo.png "on the beach" -o out.png {flags} --quality {quality}'
    commands = (f"python app.py {flags}", draw)
    if way.quantize and not facts.versions.get(PACKAGE):
        commands = (INSTALL, *commands)
    return Advice(
        preset="flux-dev", device=facts.device, dtype="bfloat16", quality=quality,
        expect=tuple(_expect(facts, way, quality)), commands=commands, offload=way.offload,
        quantize=way.quantize,
    )  # fmt: skip


def _expect(facts: Facts, way: Way, quality: str) -> Iterator[str]:
    cuda_need = f"{gb(way.gpu)} of GPU memory and {gb(way.ram)} of main memory"
    need = cuda_need if facts.device == "cuda" else gb(MAC_NEED)
    yield f"needs {need} for one image of 512 pixels (computed from parameter counts)"
    if facts.gpu_free < 0.8 * facts.gpu_total:
        taken = gb(facts.gpu_total - facts.gpu_free)
        yield f"other programs use {taken} of GPU memory: close them and run this command again"
    if way.quantize:
        yield f"weights rounded to {way.quantize}: images are close to those of bfloat16, not the same"
    if way.offload != "none":
        yield "weights in main memory, moved to the GPU when needed: slower"
    size = sum(_remaining_downloads(facts).values())
    yield f"{gb(size)} to download first" if size else "all files are on this disk already"
    yield f"{QUALITIES[quality].steps} steps an image; times: docs/benchmarks.md, most are not measured"


def explain_shortage(facts: Facts, model: str, way: Way, *, main: bool, teacher: bool = False) -> str:
    """Return one sentence: how much memory is free for `model`, held this `way`, and what takes less.

    `main` means that main memory ran out, not GPU memory.
    """
    kind, free = ("main memory", facts.ram_free) if main else ("GPU memory", facts.gpu_free)
    if teacher:
        limit = min(way.gpu, ROOM * free)
        flags = [other.flags.strip() for other in WAYS if not main and other.gpu < limit]
        remedy = f"try {' or '.join(flags)}" if flags else "close other programs"
        model = f"the teacher {model}"
    elif model.startswith("flux-"):
        need = gb(way.ram if main and facts.device == "cuda" else way.gpu)
        remedy = f"it needs about {need}{_lighten_flux(facts, model, find_lighter(facts, way, main=main))}"
    else:
        remedy = "close other programs" if main else "try --offload model or --quantize 4bit"
    problem = f"{model} does not fit into {kind}, of which {gb(free)} are free"
    return f"{problem}: {remedy}; python -m dsd.doctor says more"


def _lighten_flux(facts: Facts, model: str, way: Way | None) -> str:
    if way is None:
        return ", and nothing lighter fits; python app.py runs the small embedded model"
    install = f"{INSTALL} && " if way.quantize and not facts.versions.get(PACKAGE) else ""
    return f"; try {install}python app.py --model {model}{way.flags}"
