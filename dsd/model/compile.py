"""The transformer's blocks, compiled on request: the app starts later and draws faster.

On an NVIDIA GPU that is `torch.compile`, which compiles while the first pictures are drawn. ZeroGPU forgets
what a process compiled when the process ends, so there the blocks are compiled ahead of time, into packages
that each process opens. Either way some pictures are drawn before a visitor is let in: a compiler that fails
shall fail then, and the model runs as it was.

The tests run both ways on a CPU. On an H200 compiled blocks took a quarter off an evaluation (README,
Hardware); on ZeroGPU nothing of this has been run yet.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.utils._pytree import tree_map

AHEAD_SECONDS = 1500  # asked of ZeroGPU, once: an allowance, not a measurement
LONGEST = 200  # characters of what a compiler has to say


def compile_blocks(pipe: DiffusionPipeline, spaces: Any = None) -> str:
    """Compile what repeats in the transformer; a sentence on what came of it, whatever that is.

    `spaces` is that package on ZeroGPU, None elsewhere.
    """
    if spaces is None and (device := _device(pipe)) != "cuda":
        return f"compiling is for NVIDIA GPUs: on {device} the model runs as it is"
    before = [(block, block.__dict__.get("forward")) for block in _blocks(pipe.transformer)]
    try:
        ahead_of_time(pipe, spaces) if spaces else just_in_time(pipe)
    except Exception as error:  # a compiler can fail in any way, and the model does not need it
        _undo(before)
        return f"compiling did not work, and the model runs as it is: {_short(error)}"
    return "the model is compiled"


def just_in_time(pipe: DiffusionPipeline, backend: str = "inductor") -> None:
    """`torch.compile`, and the pictures that make it compile all that visitors will need."""
    pipe.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)
    for pictures in (1, 2):  # one is a case of its own; what does for two does for more, and for any size
        _draw(pipe, pictures)


def ahead_of_time(pipe: DiffusionPipeline, spaces: Any) -> None:
    """Packages on disk, one for each kind of block; what they compute with stays the model's own weights."""
    folder = Path(tempfile.mkdtemp(prefix="dsd-compiled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    # In a process of its own, as all that touches a GPU there: it leaves nothing but the packages.
    @spaces.GPU(duration=AHEAD_SECONDS)
    def build() -> None:
        for name in _kinds(pipe.transformer):
            block = pipe.transformer.get_submodule(name)[0]
            with spaces.aoti_capture(block) as call:
                _draw(pipe, 2)  # of two pictures: a size of one would be taken for granted
            spaces.aoti_compile_and_save(folder, _exported(block, call.kwargs), submodule=name)
        spaces.aoti_load_from_package_dir(pipe.transformer, folder)
        for pictures in (1, 2):
            _draw(pipe, pictures)

    build()
    spaces.aoti_load_from_package_dir(pipe.transformer, folder)


def _exported(block: torch.nn.Module, inputs: dict[str, Any]) -> torch.export.ExportedProgram:
    """Any number of pictures and tokens; only the width is the model's."""

    def sizes(value: Any) -> dict[int, Any] | None:
        is_tensor = isinstance(value, torch.Tensor)
        return {axis: torch.export.Dim.AUTO for axis in range(value.ndim - 1)} if is_tensor else None

    with torch.no_grad():
        return torch.export.export(block, (), inputs, dynamic_shapes=tree_map(sizes, inputs))


def _device(pipe: DiffusionPipeline) -> str:
    return pipe._execution_device.type


def _draw(pipe: DiffusionPipeline, pictures: int) -> None:
    """As few steps as have both kinds: without guidance and with it."""
    frame = Image.new("RGB", (pipe.frame_size, pipe.frame_size), "gray")
    options = {"num_inference_steps": 3, "image_guidance_scale": 1.5, "output_type": "latent"}
    pipe("a red hat", image=frame, num_images_per_prompt=pictures, **options)


def _kinds(transformer: torch.nn.Module) -> Iterator[str]:
    """The names of its lists of blocks."""
    repeated = transformer._repeated_blocks
    for name, module in transformer.named_children():
        if isinstance(module, torch.nn.ModuleList) and type(module[0]).__name__ in repeated:
            yield name


def _blocks(transformer: torch.nn.Module) -> list[torch.nn.Module]:
    return [block for name in _kinds(transformer) for block in transformer.get_submodule(name)]


def _undo(before: list[tuple[torch.nn.Module, Any]]) -> None:
    for block, forward in before:
        block._compiled_call_impl = None
        block.__dict__.pop("forward", None)
        if forward is not None:  # weights that are kept elsewhere come in by way of a `forward` of its own
            block.forward = forward


def _short(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:LONGEST]}" if line else type(error).__name__
