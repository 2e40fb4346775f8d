"""What a step of training costs: operations, by the config; seconds, measured on a model of few blocks."""

import time
from typing import Any

import torch
from accelerate import Accelerator, init_empty_weights
from diffusers import FluxTransformer2DModel

from dsd.training.options import TrainOptions
from dsd.training.student import linear_layers, make_trainable, quantise

TRIAL_BLOCKS = 2  # of each kind, in the copy that is timed
PATIENCE = 5e12  # more operations than that are not timed on a CPU


def flops(transformer: FluxTransformer2DModel, options: TrainOptions, picture: int, text: int) -> float:
    """Of one sample there and back: every weight twice a token, and attention."""
    forward = 0
    for name, layer in linear_layers(transformer).items():
        if "blocks." not in name or "norm" in name:  # once a sample, not once a token
            continue
        words = "add_" in name or "_context" in name
        tokens = picture + text if "single" in name else text if words else picture
        forward += 2 * tokens * layer.weight.numel()
    blocks = len(transformer.transformer_blocks) + len(transformer.single_transformer_blocks)
    forward += 4 * (picture + text) ** 2 * transformer.inner_dim * blocks
    # The way back costs as much again for the inputs, and again for weights that move.
    return forward * (2 + options.full + options.gradient_checkpointing)


def time_step(
    transformer: FluxTransformer2DModel,
    options: TrainOptions,
    accelerator: Accelerator,
    picture: int,
    text: int,
) -> float | None:
    """Seconds of one step: a copy of the model with few blocks is timed and scaled; None if too long.

    `picture` and `text` are how many tokens a canvas and its words have.
    """
    config = dict(transformer.config)
    for name in ("num_layers", "num_single_layers"):
        config[name] = min(TRIAL_BLOCKS, config[name])
    with init_empty_weights():
        empty = FluxTransformer2DModel.from_config(config)
    few, all_of_them = (flops(model, options, picture, text) for model in (empty, transformer))
    if accelerator.device.type == "cpu" and options.batch * few > PATIENCE:
        return None
    took = _time_copy(config, options, accelerator, picture, text)
    return options.accumulate * took * all_of_them / few


def _time_copy(
    config: dict[str, Any], options: TrainOptions, accelerator: Accelerator, picture: int, text: int
) -> float:
    """Seconds there and back of one batch through a model of random weights."""
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    dtype = torch.bfloat16 if bf16 and not options.full else torch.float32
    model = FluxTransformer2DModel.from_config(config).to(dtype=dtype)
    if options.quantise:
        model = quantise(model, options.quantise, dtype, device)
    model.to(device)
    make_trainable(model, options)
    rand = lambda *shape: torch.randn(options.batch, *shape, device=device)  # noqa: E731
    inputs = {
        "hidden_states": rand(picture, config["in_channels"]),
        "timestep": torch.rand(options.batch, device=device),
        "guidance": torch.ones(options.batch, device=device) if config["guidance_embeds"] else None,
        "encoder_hidden_states": rand(text, config["joint_attention_dim"]),
        "pooled_projections": rand(config["pooled_projection_dim"]),
        "txt_ids": torch.zeros(text, 3, device=device),
        "img_ids": torch.zeros(picture, 3, device=device),
    }
    seconds = []
    for _ in range(3):  # the first one warms up
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            model(**inputs, return_dict=False)[0].float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - began)
    return min(seconds[1:])
