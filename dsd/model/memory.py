"""Compute the memory that FLUX.1-dev needs from its parameter counts, without torch, to be quick.

The counts are those of its published configs (a test builds these models without weights and counts again).
The additional memory for one image was counted from the tensors alive at once during one evaluation.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dsd.files.errors import LoadError

QUANTIZED = {"8bit": 1.0, "4bit": 0.56}  # bytes per weight, scales included
PACKAGE = "bitsandbytes"
INSTALL = f'pip install "{PACKAGE}>=0.48"'  # older versions cannot offload quantized models to main memory
WORKSPACE = 1_500_000_000  # bytes that CUDA and its libraries use
ROOM = 0.95  # share of the free memory that a plan may use
WIDTH = 2  # bytes per bf16 number


@dataclass(frozen=True)
class Part:
    """A model of the pipeline: its number of weights, and how many of them can be quantized."""

    weights: int
    linear: int = 0  # weights of its linear layers; 0: never quantized
    largest: int = 0  # weights of its largest layer

    def size(self, bits: str | None = None) -> int:
        """Return the size in bytes, in bf16 or with linear layers in 8 or 4 bits."""
        small = self.linear if bits else 0
        return int(small * QUANTIZED.get(bits, 0) + WIDTH * (self.weights - small))


FLUX = {  # the widened transformer, T5-XXL, CLIP-L, VAE
    "transformer": Part(11_901_604_928, 11_897_929_728, 56_623_104),
    "text_encoder_2": Part(4_762_310_656, 4_630_511_616, 131_596_288),
    "text_encoder": Part(123_060_480, largest=37_945_344),
    "vae": Part(83_819_683, largest=2_359_296),
}
TOKENS, INNER, PIXELS, CHANNELS = 2 * 32 * 32 + 512, 3072, 512 * 1024, 128  # of one canvas: two 512 px frames
BRANCHES = 3  # evaluations in one batch with both guidances
ALIVE = 18.5, 6.0  # values alive at once: per token and inner unit (transformer), per pixel and channel (VAE)
# Bytes that one image needs: the larger of drawing and decoding.
DRAWING = int(WIDTH * max(BRANCHES * ALIVE[0] * TOKENS * INNER, ALIVE[1] * PIXELS * CHANNELS))


@dataclass(frozen=True)
class Way:
    """How FLUX is held in memory: what is offloaded to main memory, and the bits per weight."""

    offload: str = "none"
    quantize: str | None = None

    @property
    def gpu(self) -> int:
        """Return the bytes of GPU memory needed for one 512 x 512 image."""
        sizes = [part.size(self.quantize) for part in FLUX.values()]
        layers = [WIDTH * part.largest for part in FLUX.values()]
        moved = max(sizes) + FLUX["vae"].size()  # the VAE stays on the GPU for the previews
        held = {"none": sum(sizes), "model": moved, "group": 2 * max(layers)}
        return held.get(self.offload, max(layers)) + DRAWING + WORKSPACE

    @property
    def ram(self) -> int:
        """Return the bytes of main memory needed.

        All weights pass through it, unless they go to the GPU one by one.
        """
        if self.quantize and self.offload == "none":
            return max(part.size() for part in FLUX.values() if not part.linear) + WORKSPACE
        return sum(part.size(self.quantize) for part in FLUX.values()) + WORKSPACE

    @property
    def flags(self) -> str:
        """Return the command-line flags, each with a leading space."""
        bits = f" --quantize {self.quantize}" if self.quantize else ""
        return bits + (f" --offload {self.offload}" if self.offload != "none" else "")


WAYS = (  # best first: exact before quantized, resident before offloaded, layer by layer (slowest) last
    Way(),
    Way("model"),
    Way("none", "8bit"),
    Way("model", "8bit"),
    Way("none", "4bit"),
    Way("model", "4bit"),
    Way("group"),
    Way("sequential"),
)


def is_shortage(error: BaseException) -> bool:
    """Return whether the error means that memory ran out.

    It may come from torch (OutOfMemoryError), Python (MemoryError) or the operating system.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)


def gb(size: float) -> str:
    """Format `size` bytes in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


class MemoryShortage(LoadError):
    """A LoadError for a model that does not fit into memory; entry points get the remedy from `dsd.doctor`.

    `main` means main memory, otherwise the memory of GPU `index`. A `teacher` is never quantized.
    """

    def __init__(self, model: str, way: Way, *, main: bool, index: int | None, teacher: bool):
        self.model, self.way, self.main, self.index, self.teacher = model, way, main, index, teacher
        kind = "main memory" if main else "GPU memory"
        super().__init__(f"{model} does not fit into {kind}: python -m dsd.doctor says what fits here")


@contextmanager
def noticing_shortage(model: str, device: Any, way: Way, *, teacher: bool = False) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a MemoryShortage for `model` on this torch device."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_shortage(error):
            raise
        main = device.type != "cuda" or type(error).__name__ != "OutOfMemoryError"
        raise MemoryShortage(model, way, main=main, index=device.index, teacher=teacher) from error
