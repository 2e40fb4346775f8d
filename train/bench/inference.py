"""Compare the pipeline with the published method: `python -m train.bench inference`, one line of JSON a row.

The published method is a plain loop, written here with diffusers' parts: with guidance it makes three
separate evaluations a step after the first two steps, whatever the scales. Both draw the same image from the
same noise and take turns. The cost of FLUX.1-dev's architecture on a GPU comes last (`train.bench.gpu`).
"""

import argparse
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux_control import calculate_shift, retrieve_timesteps
from PIL import Image
from torch import Tensor

from dsd.evaluation.critters import validation_set
from dsd.files.jsonl import Row
from dsd.model.sampling import advance
from train.bench.timing import clock, count_branches

UNGUIDED = 2  # steps before guidance starts
SCALES = ((1.0, 1.0), (1.5, 1.5), (1.0, 2.0), (1.5, 1.0))  # image, text: one, two, two and three branches


@torch.no_grad()
def draw_straight(
    pipe: Any, prompt: str, image: Image.Image, *, scales: tuple[float, float], steps: int, seed: int
) -> Tensor:
    """Draw with the published method; return the right frame's pixels [1, 3, side, side] in 0..1."""
    side, vae, model = image.width, pipe.vae, pipe.transformer
    length = min(pipe.tokenizer_2.model_max_length, 512)
    embeds, pooled, text_ids = pipe.encode_prompt(prompt, max_sequence_length=length)
    no_embeds, no_pooled, _ = pipe.encode_prompt("", max_sequence_length=length)
    canvas = torch.full((1, 3, side, 2 * side), -1.0, device=vae.device, dtype=vae.dtype)
    canvas[..., :side] = pipe.image_processor.preprocess(image).to(canvas)
    shown = (vae.encode(canvas).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    shown = pipe._pack_latents(shown, *shown.shape)
    noise = torch.Generator().manual_seed(seed)
    x, ids = pipe.prepare_latents(1, shown.shape[2] // 4, side, 2 * side, embeds.dtype, vae.device, noise)
    times = _times(pipe.scheduler, steps, x.shape[1], x.device)
    embedded = torch.full([1], 3.5, device=x.device) if model.config.guidance_embeds else None

    def velocity(t: Tensor, condition: Tensor, embeds: Tensor, pooled: Tensor) -> Tensor:
        return model(
            hidden_states=torch.cat([x, condition], dim=2), timestep=t.expand(1).to(x.dtype) / 1000,
            guidance=embedded, encoder_hidden_states=embeds, pooled_projections=pooled, txt_ids=text_ids,
            img_ids=ids, return_dict=False,
        )[0]  # fmt: skip

    for index, t in enumerate(times):
        both = velocity(t, shown, embeds, pooled)
        if index >= UNGUIDED and scales != (1.0, 1.0):
            neither = velocity(t, torch.zeros_like(shown), no_embeds, no_pooled)
            seen = velocity(t, shown, no_embeds, no_pooled)
            both = neither + scales[0] * (seen - neither) + scales[1] * (both - seen)
        x = advance(pipe.scheduler, both, t, x, noise)
    x = pipe._unpack_latents(x, side, 2 * side, pipe.vae_scale_factor)
    pixels = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
    return pipe.image_processor.postprocess(pixels, output_type="pt")[..., side:]


def _times(scheduler: Any, steps: int, tokens: int, device: torch.device) -> Tensor:
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens, *(scheduler.config[name] for name in names))
    sigmas = torch.linspace(1, 1 / steps, steps).tolist()
    return retrieve_timesteps(scheduler, steps, device, sigmas=sigmas, mu=mu)[0]


def draw_ours(
    pipe: Any, prompt: str, image: Image.Image, *, scales: tuple[float, float], steps: int, seed: int
) -> Tensor:
    """Draw the same image with the pipeline."""
    options = {"num_inference_steps": steps, "generator": torch.Generator().manual_seed(seed)}
    options |= {"image_guidance_scale": scales[0], "text_guidance_scale": scales[1]}
    return pipe(prompt, image=image, output_type="pt", **options).images


def compare(pipe: Any, scales: tuple[float, float], *, steps: int, rounds: int, together: bool | None) -> Row:
    """Return a row that compares both methods by turns; ratios above 1 mean that the pipeline is faster.

    `together` says whether the pipeline evaluates its branches in one call.
    """
    case = validation_set(0, 1, 1, size=pipe.frame_size)[0]
    options = {"scales": scales, "steps": steps, "seed": case.seed}
    methods = {
        "straight": lambda: draw_straight(pipe, case.prompt, case.reference, **options).cpu(),
        "ours": lambda: draw_ours(pipe, case.prompt, case.reference, **options).cpu(),
    }
    pipe.batch_branches = together
    images, branches = {}, {}
    for name, draw in methods.items():  # also the warm-up round
        images[name], branches[name] = count_branches(pipe.transformer, draw)
    # by turns, so that other load slows both alike
    turns = [{name: clock(draw)[1] for name, draw in methods.items()} for _ in range(rounds)]
    wall = {name: median(turn[name].wall for turn in turns) for name in methods}
    cpu = {name: median(turn[name].cpu for turn in turns) for name in methods}
    difference = (images["straight"] - images["ours"]).abs().max().item()
    return {
        "part": "against three separate evaluations", "image and text guidance": list(scales), "steps": steps,
        "evaluations": sum(branches["ours"]), "calls": len(branches["ours"]),
        "theirs": len(branches["straight"]), "s": round(wall["ours"], 3),
        "times faster": round(wall["straight"] / wall["ours"], 3),
        "in CPU time": round(cpu["straight"] / cpu["ours"], 3),
        "largest difference of a pixel, 0..1": float(f"{difference:.2g}"),
    }  # fmt: skip


def measure_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of the pipeline against the plain loop, then the rows of the GPU."""
    from dsd.model.checkpoint import best_device
    from train.bench.gpu import gpu_rows
    from train.comparison import open_student

    pipe = open_student(args.model, base="pocket", device=args.device or best_device())
    for scales in SCALES:
        for together in (False, True) if scales == SCALES[-1] else (None,):
            yield compare(pipe, scales, steps=args.steps or 28, rounds=args.rounds, together=together)
    yield from gpu_rows()
