"""Compile the transformer's blocks on request: the app starts later and draws faster.

On an NVIDIA GPU this uses `torch.compile`, which compiles while the first images are drawn. On ZeroGPU,
compiled code is lost when a process ends, so the blocks are compiled ahead of time into packages that each
process opens. Either way some images are drawn before the app serves visitors: if the compiler fails, it
fails then, and the model runs uncompiled. None of this has been run on ZeroGPU yet.
"""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch.utils._pytree import tree_map

AHEAD_SECONDS = 1500  # GPU time requested from ZeroGPU, once; an estimate, not a measurement


def compile_blocks(pipe: DiffusionPipeline, spaces: Any = None) -> str:
    """Compile the transformer's repeated blocks and return a sentence on the outcome, even on failure.

    `spaces` is the package of that name on ZeroGPU, None elsewhere.
    """
    device = _device(pipe)
    if spaces is None and device != "cuda":
        return f"compiling is for NVIDIA GPUs: on {device} the model runs uncompiled"
    blocks = [block for name in _block_lists(pipe) for block in pipe.transformer.get_submodule(name)]
    forwards = [block.__dict__.get("forward") for block in blocks]  # offloading sets it on the instance
    try:
        ahead_of_time(pipe, spaces) if spaces else just_in_time(pipe)
    except Exception as error:  # compilers raise errors of any type, and the model runs without one
        for block, forward in zip(blocks, forwards, strict=True):
            block._compiled_call_impl = None
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return f"compiling failed, and the model runs uncompiled: {reason}"
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
        for name in _block_lists(pipe):
            block = pipe.transformer.get_submodule(name)[0]
            with spaces.aoti_capture(block) as call:
                _draw(pipe, 2)  # two images: export would treat a batch size of one as fixed
            spaces.aoti_compile_and_save(folder, _export(block, call.kwargs), submodule=name)
        spaces.aoti_load_from_package_dir(pipe.transformer, folder)
        for images in (1, 2):
            _draw(pipe, images)

    build()
    spaces.aoti_load_from_package_dir(pipe.transformer, folder)


def _export(block: torch.nn.Module, inputs: dict[str, Any]) -> torch.export.ExportedProgram:
    """Export a block for any number of images and tokens; only the width is fixed."""

    def free_axes(value: Any) -> dict[int, Any] | None:
        is_tensor = isinstance(value, torch.Tensor)
        return {axis: torch.export.Dim.AUTO for axis in range(value.ndim - 1)} if is_tensor else None

    with torch.no_grad():
        return torch.export.export(block, (), inputs, dynamic_shapes=tree_map(free_axes, inputs))


def _device(pipe: DiffusionPipeline) -> str:
    return pipe._execution_device.type


def _draw(pipe: DiffusionPipeline, images: int) -> None:
    """Draw with the fewest steps that include both unguided and guided ones."""
    frame = Image.new("RGB", (pipe.frame_size, pipe.frame_size), "gray")
    options = {"num_inference_steps": 3, "image_guidance_scale": 1.5, "output_type": "latent"}
    pipe("a red hat", image=frame, num_images_per_prompt=images, **options)


def _block_lists(pipe: DiffusionPipeline) -> list[str]:
    """Return the names of the transformer's lists of repeated blocks."""
    repeated, lists = pipe.transformer._repeated_blocks, pipe.transformer.named_children()
    return [n for n, m in lists if isinstance(m, torch.nn.ModuleList) and type(m[0]).__name__ in repeated]
