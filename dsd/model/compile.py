"""Compile the transformer's blocks on request: the app starts later and draws faster.

On an NVIDIA GPU this uses `torch.compile`, which compiles while the first images are drawn. On ZeroGPU,
compiled code is lost when a process ends, so the blocks are compiled ahead of time into packages that each
process opens. Either way some images are drawn before the app serves visitors: if the compiler fails, it
fails then, and the model runs uncompiled.

The tests run both ways on a CPU. On an H200, compiled blocks cut the time of an evaluation by a quarter
(README, Hardware). None of this has been run on ZeroGPU yet.
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

AHEAD_SECONDS = 1500  # GPU time requested from ZeroGPU, once; an estimate, not a measurement
LONGEST = 200  # characters of a compiler's message


def compile_blocks(pipe: DiffusionPipeline, spaces: Any = None) -> str:
    """Compile the transformer's repeated blocks and return a sentence on the outcome, even on failure.

    `spaces` is the package of that name on ZeroGPU, None elsewhere.
    """
    if spaces is None and (device := _device(pipe)) != "cuda":
        return f"compiling is for NVIDIA GPUs: on {device} the model runs as it is"
    before = [(block, block.__dict__.get("forward")) for block in _blocks(pipe.transformer)]
    try:
        ahead_of_time(pipe, spaces) if spaces else just_in_time(pipe)
    except Exception as error:  # compilers raise errors of any type, and the model runs without one
        _undo(before)
        return f"compiling did not work, and the model runs as it is: {_short(error)}"
    return "the model is compiled"


def just_in_time(pipe: DiffusionPipeline, backend: str = "inductor") -> None:
    """Apply `torch.compile`, and draw images so that everything visitors need is compiled now."""
    pipe.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)
    for images in (1, 2):  # one is a special case; two also covers more images, and any frame size
        _draw(pipe, images)


def ahead_of_time(pipe: DiffusionPipeline, spaces: Any) -> None:
    """Compile each kind of block into a package on disk; the packages use the model's own weights."""
    folder = Path(tempfile.mkdtemp(prefix="dsd-compiled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    # ZeroGPU runs GPU code in a separate process; only the packages outlive it.
    @spaces.GPU(duration=AHEAD_SECONDS)
    def build() -> None:
        for name in _kinds(pipe.transformer):
            block = pipe.transformer.get_submodule(name)[0]
            with spaces.aoti_capture(block) as call:
                _draw(pipe, 2)  # two images: export would treat a batch size of one as fixed
            spaces.aoti_compile_and_save(folder, _exported(block, call.kwargs), submodule=name)
        spaces.aoti_load_from_package_dir(pipe.transformer, folder)
        for images in (1, 2):
            _draw(pipe, images)

    build()
    spaces.aoti_load_from_package_dir(pipe.transformer, folder)


def _exported(block: torch.nn.Module, inputs: dict[str, Any]) -> torch.export.ExportedProgram:
    """Export a block for any number of images and tokens; only the width is fixed."""

    def sizes(value: Any) -> dict[int, Any] | None:
        is_tensor = isinstance(value, torch.Tensor)
        return {axis: torch.export.Dim.AUTO for axis in range(value.ndim - 1)} if is_tensor else None

    with torch.no_grad():
        return torch.export.export(block, (), inputs, dynamic_shapes=tree_map(sizes, inputs))


def _device(pipe: DiffusionPipeline) -> str:
    return pipe._execution_device.type


def _draw(pipe: DiffusionPipeline, images: int) -> None:
    """Draw with the fewest steps that include both unguided and guided ones."""
    frame = Image.new("RGB", (pipe.frame_size, pipe.frame_size), "gray")
    options = {"num_inference_steps": 3, "image_guidance_scale": 1.5, "output_type": "latent"}
    pipe("a red hat", image=frame, num_images_per_prompt=images, **options)


def _kinds(transformer: torch.nn.Module) -> Iterator[str]:
    """Yield the names of the transformer's lists of repeated blocks."""
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
        if forward is not None:  # offloading replaces `forward` on the instance
            block.forward = forward


def _short(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:LONGEST]}" if line else type(error).__name__
