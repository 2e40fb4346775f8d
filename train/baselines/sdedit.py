"""Baseline: SDEdit. The reference is noised to a share of the schedule and denoised with the full caption.

Nothing is trained; the strength, from 0 (the reference) to 1 (noise alone), is chosen as learning rates are.
The drawing is diffusers' own `FluxImg2ImgPipeline` on the teacher.
"""

import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline
from PIL import Image

from dsd.evaluation.scores import Draw
from dsd.grids.settings import guidance_settings, panel_side
from dsd.model import canvas
from dsd.model.latents import text_length

STRENGTHS = (0.5, 0.7, 0.85)
PARTS = (
    "scheduler", "vae", "transformer", "tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2",
)  # fmt: skip


def by_sdedit(teacher: FluxPipeline, *, strength: float, steps: int = 28, guidance: float = 2.0) -> Draw:
    """Return a `Draw` that edits the reference; its prompts should be full captions."""
    pipe = FluxImg2ImgPipeline(**{name: teacher.components[name] for name in PARTS})
    pipe.set_progress_bar_config(disable=True)
    side, tokens = panel_side(pipe), text_length(pipe.tokenizer_2)

    def draw(prompts: list[str], references: list[Image.Image], seeds: list[int]) -> list[Image.Image]:
        return pipe(
            prompts,
            image=[canvas.fit(image, side, side) for image in references],
            strength=strength,
            height=side,
            width=side,
            num_inference_steps=steps,
            max_sequence_length=tokens,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            **guidance_settings(pipe, guidance, len(prompts)),
        ).images

    return draw
