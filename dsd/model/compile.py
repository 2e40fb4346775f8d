"""Compile the transformer's blocks on request: the app starts later and draws faster.

`torch.compile` compiles while the first images are drawn, so some are drawn before the app serves visitors:
if the compiler fails, it fails then, and the model runs uncompiled. On an H200, compiled blocks cut the time
of an evaluation by a quarter (docs/benchmarks.md).
"""

from dataclasses import replace

from diffusers import DiffusionPipeline
from PIL import Image


def compile_blocks(pipe: DiffusionPipeline, is_zero: object = False) -> str:
    """Compile the transformer's repeated blocks and return a sentence on the outcome, even on failure."""
    if pipe.speed.cache:
        return f"a cache ({pipe.speed.cache}) needs uncompiled blocks: the model runs uncompiled"
    device = "ZeroGPU" if is_zero else _device(pipe)  # ZeroGPU loses compiled code when a process ends
    if device != "cuda":
        return f"compiling is for NVIDIA GPUs: on {device} the model runs uncompiled"
    repeated = pipe.transformer._repeated_blocks
    blocks = [module for module in pipe.transformer.modules() if type(module).__name__ in repeated]
    forwards = [block.__dict__.get("forward") for block in blocks]  # offloading sets it on the instance
    try:
        just_in_time(pipe)
    except Exception as error:  # compilers raise errors of any type, and the model runs without one
        for block, forward in zip(blocks, forwards, strict=True):
            block._compiled_call_impl = None
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return f"compiling failed, and the model runs uncompiled: {reason}"
    pipe.speed = replace(pipe.speed, compiled=True)
    return "the model is compiled"


def just_in_time(pipe: DiffusionPipeline, backend: str = "inductor") -> None:
    """Apply `torch.compile`, and draw images so that everything visitors need is compiled now."""
    pipe.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)
    frame = Image.new("RGB", (pipe.frame_size, pipe.frame_size), "gray")
    # The fewest steps that include both unguided and guided ones.
    options = {"num_inference_steps": 3, "image_guidance_scale": 1.5, "output_type": "latent"}
    for images in (1, 2):  # one is a special case; two also covers more images, and any frame size
        pipe("a red hat", image=frame, num_images_per_prompt=images, **options)


def _device(pipe: DiffusionPipeline) -> str:
    return pipe._execution_device.type
