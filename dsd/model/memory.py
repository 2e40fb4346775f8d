"""The memory that FLUX.1-dev needs for drawing, and errors for memory that runs out; imports no torch.

The table follows from the parameter counts of the published configs: a test builds the models without weights
and computes it again.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from dsd.files.errors import LoadError

# (offload, bits) -> GB of GPU memory and of main memory for one 512 x 512 image. The best way is first: exact
# before quantized, resident before offloaded, layer by layer (slowest) last. Weights pass through main
# memory, unless they are quantized one by one on their way to the GPU.
FLUX_GB = {
    ("none", None): (36.2, 35.3),
    ("model", None): (26.4, 35.3),
    ("none", "8bit"): (19.6, 1.8),
    ("model", "8bit"): (14.5, 18.8),
    ("none", "4bit"): (12.4, 1.8),
    ("model", "4bit"): (9.3, 11.5),
    ("group", None): (2.9, 35.3),
    ("sequential", None): (2.7, 35.3),
}
OFFLOADS = ("none", "model", "group", "sequential")
QUANTIZED = {"8bit": 1.0, "4bit": 0.56, "int8": 1.0, "fp8": 1.0, "fp8-compute": 1.0}  # bytes per weight
PACKAGE = "bitsandbytes"
INSTALL = f'pip install "{PACKAGE}>=0.48"'  # older versions cannot offload quantized models to main memory
WORKSPACE = 1_500_000_000  # bytes that CUDA and its libraries use
ROOM = 0.95  # share of the free memory that a plan may use


def drawing_bytes(*, tokens: int, width: int, pixels: int, channels: int, size: int = 2) -> int:
    """Return the bytes of one image beside the weights: the larger of drawing and decoding.

    `tokens` and `width` are the transformer's, `pixels` and `channels` the canvas's in the VAE, `size` the
    bytes of a number. The factors count the numbers alive at once, with three branches of guidance.
    """
    return int(size * max(3 * 18.5 * tokens * width, 6 * pixels * channels))


@dataclass(frozen=True)
class Way:
    """How FLUX is held in memory: what is offloaded to main memory, and the bits per weight."""

    offload: str = "none"
    quantize: str | None = None

    @property
    def gpu(self) -> int:
        """Return the bytes of GPU memory needed for one 512 x 512 image."""
        return int(1e9 * self._row[0])

    @property
    def ram(self) -> int:
        """Return the bytes of main memory needed; torchao needs the whole model there for a moment."""
        return int(1e9 * (FLUX_GB["none", None][1] if self._is_torchao else self._row[1]))

    @property
    def _is_torchao(self) -> bool:
        return self.quantize in QUANTIZED and ("none", self.quantize) not in FLUX_GB

    @property
    def _row(self) -> tuple[float, float]:
        return FLUX_GB[self.offload, "8bit" if self._is_torchao else self.quantize]

    @property
    def flags(self) -> str:
        """Return the command-line flags, each with a leading space."""
        bits = f" --quantize {self.quantize}" if self.quantize else ""
        return bits + (f" --offload {self.offload}" if self.offload != "none" else "")


WAYS = tuple(Way(*names) for names in FLUX_GB)


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, for torch (OutOfMemoryError), Python or the operating system."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def gb(size: float) -> str:
    """Format `size` bytes in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


class MemoryShortage(LoadError):
    """A LoadError for a model that does not fit into memory; entry points get the remedy from `dsd.doctor`.

    `main` means main memory, otherwise the memory of GPU `index`. A `teacher` draws grids.
    """

    def __init__(self, model: str, way: Way, *, main: bool, index: int | None, teacher: bool):
        self.model, self.way, self.main, self.index, self.teacher = model, way, main, index, teacher
        kind = "main memory" if main else "GPU memory"
        super().__init__(f"{model} does not fit into {kind}: python -m dsd.doctor says what fits here")


@contextmanager
def report_shortage(model: str, device: Any, way: Way, *, teacher: bool = False) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a MemoryShortage for `model` on this torch device."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        main = device.type != "cuda" or type(error).__name__ != "OutOfMemoryError"
        raise MemoryShortage(model, way, main=main, index=device.index, teacher=teacher) from error
