"""The cost of a training step: operations from the config, seconds measured on a model with few blocks."""

import time
from typing import Any

import torch
from accelerate import Accelerator, init_empty_weights
from diffusers import FluxTransformer2DModel

from dsd.training.options import TrainOptions
from dsd.training.student import linear_layers, make_trainable, quantize, without_cudnn_attention

TRIAL_BLOCKS = 2  # of each kind, in the timed copy
PATIENCE = 5e12  # more operations than this are not timed on a CPU


def flops(transformer: FluxTransformer2DModel, options: TrainOptions, image: int, text: int) -> float:
    """Return one sample's operations, forward and backward: 2 per weight and token, plus attention."""
    forward = 0
    for name, layer in linear_layers(transformer).items():
        if "blocks." not in name or "norm" in name:  # runs once per sample, not per token
            continue
        words = "add_" in name or "_context" in name
        tokens = image + text if "single" in name else text if words else image
        forward += 2 * tokens * layer.weight.numel()
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    forward += 4 * (image + text) ** 2 * transformer.inner_dim * blocks
    # The backward pass adds one forward for the inputs and, in full training, one for the weights.
    return forward * (2 + options.full + options.gradient_checkpointing)


def time_step(
    transformer: FluxTransformer2DModel,
    options: TrainOptions,
    accelerator: Accelerator,
    image: int,
    text: int,
) -> float | None:
    """Return seconds per step, scaled from a timed copy with few blocks; None if timing takes too long.

    `image` and `text` are the token counts of a canvas and its text.
    """
    config = dict(transformer.config)
    for name in ("num_layers", "num_single_layers"):
        config[name] = min(TRIAL_BLOCKS, config[name])
    with init_empty_weights():
        empty = FluxTransformer2DModel.from_config(config)
    few, all_of_them = (flops(model, options, image, text) for model in (empty, transformer))
    if accelerator.device.type == "cpu" and options.batch * few > PATIENCE:
        return None
    took = _time_copy(config, options, accelerator, image, text)
    return options.accumulate * took * all_of_them / few


@without_cudnn_attention()
def _time_copy(
    config: dict[str, Any], options: TrainOptions, accelerator: Accelerator, image: int, text: int
) -> float:
    """Return the seconds of one batch, forward and backward, in a model with random weights."""
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    dtype = torch.bfloat16 if bf16 and not options.full else torch.float32
    model = FluxTransformer2DModel.from_config(config).to(dtype=dtype)
    if options.quantize:
        model = quantize(model, options.quantize, dtype, device)
    model.to(device)
    make_trainable(model, options)
    rand = lambda *shape: torch.randn(options.batch, *shape, device=device)  # noqa: E731
    inputs = {
        "hidden_states": rand(image, config["in_channels"]),
        "timestep": torch.rand(options.batch, device=device),
        "guidance": torch.ones(options.batch, device=device) if config["guidance_embeds"] else None,
        "encoder_hidden_states": rand(text, config["joint_attention_dim"]),
        "pooled_projections": rand(config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(text, 3, device=device),
        "img_ids": torch.zeros(image, 3, device=device),
    }
    seconds = []
    for _ in range(3):  # the first run is a warm-up
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            model(**inputs, return_dict=False)[0].float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])
