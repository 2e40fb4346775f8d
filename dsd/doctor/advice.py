"""Advice on what to run on a machine: pure functions of its facts, so that any machine can be tested.

The memory needed by FLUX is computed from parameter counts; its speed was measured on one GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dsd.model.memory import DRAWING, FLUX, INSTALL, PACKAGE, ROOM, WAYS, WORKSPACE, Way, gb
from dsd.model.sampling import QUALITIES

BASE, WEIGHTS = "black-forest-labs/FLUX.1-dev", "primecai/dsd_model"  # the parts of the preset flux-dev
PAGE = f"https://huggingface.co/{BASE}"
DOWNLOADS = {
    BASE: sum(part.size() for name, part in FLUX.items() if name != "transformer"),
    WEIGHTS: FLUX["transformer"].size(),
}
REQUIRED = ("torch", "diffusers", "transformers", "gradio")
GRANTED, REFUSED, BAD_TOKEN = "granted", "refused", "the token is not accepted"
OFFLINE, NO_TOKEN, SILENT = "not asked: offline", "not asked: no token", "unknown: no answer from the hub"
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
    """What to run. `later` is what the hardware can run once the `missing` items are available."""

    preset: str
    device: str
    dtype: str
    quality: str
    expect: tuple[str, ...]
    commands: tuple[str, ...]
    offload: str = "none"
    quantize: str | None = None
    missing: tuple[str, ...] = ()
    later: "Advice | None" = None


# ---------------------------------------------------------------- advice


def advise(facts: Facts) -> Advice:
    """Recommend FLUX in the best way that fits; pocket if none fits or something is missing."""
    packages = tuple(name for name in REQUIRED if not facts.versions.get(name))
    install = (f"not installed: {', '.join(packages)}: pip install -r requirements.txt",) if packages else ()
    way = best_way(facts)
    if way is None:
        return _pocket(facts, install, why=_why_small(facts))
    missing = install + _missing(facts)
    flux = _flux(facts, way)
    return _pocket(facts, missing, later=flux) if missing else flux


def best_way(facts: Facts) -> Way | None:
    """Return the first of WAYS that fits into free memory; None if FLUX does not fit."""
    if facts.device == "cuda":
        return next((way for way in WAYS if _fits(way, facts)), None)
    if facts.device == "mps" and Way().gpu - WORKSPACE <= ROOM * facts.ram_free:
        return Way()  # memory is shared, so offloading would gain nothing
    return None


def _fits(way: Way, facts: Facts) -> bool:
    return way.gpu <= ROOM * facts.gpu_free and way.ram <= ROOM * facts.ram_free


def _why_small(facts: Facts) -> str:
    if facts.device == "cpu" and facts.nvidia:
        return (
            f"torch {facts.versions.get('torch')} cannot use the NVIDIA card that is here: install a CUDA "
            "build, https://pytorch.org/get-started/locally/"
        )
    if facts.device == "cpu":
        return "FLUX needs an NVIDIA GPU or a Mac with much memory, and torch finds neither here"
    if facts.device == "mps":
        need = gb(Way().gpu - WORKSPACE)
        return f"FLUX takes about {need} of memory (computed), and {gb(facts.ram_free)} are free"
    least = min(
        (way for way in WAYS if way.gpu <= ROOM * facts.gpu_free), key=lambda way: way.ram, default=None
    )
    if least is None:
        small = min(way.gpu for way in WAYS)
        return f"FLUX takes at least {gb(small)} of GPU memory (computed), and {gb(facts.gpu_free)} are free"
    return (
        f"FLUX takes at least {gb(least.ram)} of main memory with this GPU (computed), and "
        f"{gb(facts.ram_free)} are free"
    )


def _missing(facts: Facts) -> tuple[str, ...]:
    """Return what FLUX still needs on this machine, each with its remedy."""
    wanted = _downloads(facts)
    lacks = []
    if wanted[BASE]:
        remedies = {
            NO_TOKEN: f"no token: accept the license at {PAGE}, then set HF_TOKEN to a token of that account "
            "(https://huggingface.co/settings/tokens)",
            REFUSED: f"the license: accept it at {PAGE} with the account of the token",
            BAD_TOKEN: "the token is not accepted: make a new one at https://huggingface.co/settings/tokens",
        }
        lacks += [remedies[facts.access]] if facts.access in remedies else []
    if sum(wanted.values()) and facts.access == OFFLINE:
        lacks.append("its files must be downloaded once, and HF_HUB_OFFLINE is set: unset it for that")
    if sum(wanted.values()) > facts.disk_free:
        lacks.append(
            f"disk: {gb(sum(wanted.values()))} to download, and {gb(facts.disk_free)} are free in "
            f"{facts.cache}: make room, or set HF_HOME to a folder on a larger disk"
        )
    return tuple(lacks)


def _downloads(facts: Facts) -> dict[str, int]:
    """Return the bytes still to download per repository; less than 1 % missing counts as complete."""
    left = {name: size - facts.cached.get(name, 0) for name, size in DOWNLOADS.items()}
    return {name: rest if rest > DOWNLOADS[name] / 100 else 0 for name, rest in left.items()}


def _pocket(
    facts: Facts, missing: tuple[str, ...], *, later: Advice | None = None, why: str | None = None
) -> Advice:
    draws = "draws critters of its own small world and nothing else, 64 pixels wide; no download, no key"
    times = "measured times: assets/pocket/README.md"
    return Advice(
        preset="pocket",
        device=facts.device,
        dtype="float32",
        quality="best",
        expect=(draws, times, *([why] if why else [])),
        commands=POCKET_COMMANDS,
        missing=missing,
        later=later,
    )


def _flux(facts: Facts, way: Way) -> Advice:
    quality = _quality(facts, way)
    flags = f"--model flux-dev{way.flags}"
    install = (INSTALL,) if way.quantize and not facts.versions.get(PACKAGE) else ()
    return Advice(
        preset="flux-dev",
        device=facts.device,
        dtype="bfloat16",
        quality=quality,
        expect=tuple(_expect(facts, way, quality)),
        commands=(
            *install,
            f"python app.py {flags}",
            f'python -m dsd.generate photo.png "on the beach" -o out.png {flags} --quality {quality}',
        ),
        offload=way.offload,
        quantize=way.quantize,
    )


def _quality(facts: Facts, way: Way) -> str:
    """Return a quality with fewer evaluations where each is slower."""
    if way.offload in ("group", "sequential"):
        return "draft"
    return "best" if way == Way() and facts.device == "cuda" else "balanced"


def _expect(facts: Facts, way: Way, quality: str) -> Iterator[str]:
    if facts.device == "cuda":
        yield (
            f"GPU memory about {gb(way.gpu)} of {gb(facts.gpu_free)} free, main memory {gb(way.ram)} of "
            f"{gb(facts.ram_free)} free, for one image of 512 pixels; each more at once takes "
            f"{gb(DRAWING)} (computed from parameter counts)"
        )
        if facts.gpu_free < 0.8 * facts.gpu_total:
            taken = gb(facts.gpu_total - facts.gpu_free)
            yield f"{taken} of GPU memory are taken by other programs: ask again once they are closed"
    else:
        need = gb(Way().gpu - WORKSPACE)
        yield f"memory about {need} of {gb(facts.ram_free)} free (computed from parameter counts)"
    if way.quantize:
        yield f"weights rounded to {way.quantize}: images are close to those of bfloat16, not the same"
    if way.offload != "none":
        yield "weights wait in main memory and travel to the GPU when it is their turn, which costs time"
    left = sum(_downloads(facts).values())
    yield f"{gb(left)} to download first" if left else "all files are on this disk already"
    yield f"{QUALITIES[quality].steps} steps an image; {_seconds(facts, way, quality)}"


def _seconds(facts: Facts, way: Way, quality: str) -> str:
    """Describe the drawing time, which was measured on one GPU only (README, Hardware)."""
    if facts.device != "cuda" or way != Way():
        return "seconds: not measured on such a machine"
    chosen = QUALITIES[quality]
    evaluations = chosen.steps + 2 * len(chosen.guided)  # guided steps take three
    return (
        f"that is {evaluations} evaluations of the transformer with the usual guidance; one of 512 pixels "
        "took 0.095 s on an H200, other cards: not measured"
    )


# ---------------------------------------------------------------- out of memory


def shortage(facts: Facts, model: str, way: Way, *, main: bool) -> str:
    """Return one sentence: what `model` needs when held this `way`, and a command that fits.

    `main` means that main memory ran out, not GPU memory.
    """
    free = gb(facts.ram_free if main else facts.gpu_free)
    kind, more = "main memory" if main else "GPU memory", "python -m dsd.doctor says more"
    if not model.startswith("flux-"):
        remedy = "close other programs" if main else "try --offload model or --quantize 4bit"
        return f"{model} does not fit into {kind}, of which {free} can be had here: {remedy}; {more}"
    need = gb(way.ram if main and facts.device == "cuda" else way.gpu)
    said = f"{model}{way.flags} takes about {need} of {kind} (computed), and {free} can be had here"
    less = lighter(facts, way, main=main)
    if less is None:
        return f"{said}, and nothing lighter fits: python app.py runs the small embedded model; {more}"
    install = f"{INSTALL} && " if less.quantize and not facts.versions.get(PACKAGE) else ""
    command = f"{install}python app.py --model {model}{less.flags}"
    return f"{said}: try {command} (or these flags where you were); {more}"


def lighter(facts: Facts, way: Way, *, main: bool = False) -> Way | None:
    """Return the first of WAYS that fits and takes less GPU memory, or main memory if `main`, or None."""
    size = (lambda one: one.ram) if main else (lambda one: one.gpu)
    if facts.device != "cuda":
        return None
    return next((one for one in WAYS if size(one) < size(way) and _fits(one, facts)), None)
