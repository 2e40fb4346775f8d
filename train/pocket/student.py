"""A first student: the teacher, widened, on the two-frame canvas: `python -m train.pocket.student RUN`.

It is trained on *rendered* pairs of one critter in two contexts (its card says so) and all its weights move;
the text encoders stay the teacher's. Both frames count: the left one is redrawn, the right one is the
prompt's.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from diffusers.utils import logging
from torch import Tensor

from dsd import flow
from dsd.latents import encode, positions
from dsd.pipeline import DSDPipeline
from dsd.pocket.words import phrase
from dsd.transformer import widen
from train.pocket import latents as sheets
from train.pocket import scenes
from train.pocket.loop import (
    State,
    descend,
    device,
    learning_rate,
    ranks,
    running_average,
    step_seed,
)  # fmt: skip
from train.pocket.presets import PRESETS, Preset, parser
from train.pocket.text import T5_TOKENS
from train.pocket.vae import TRAIN_SEED

PEAK, SEED = 8e-4, 31
TEXT_DROPOUT = IMAGE_DROPOUT = 0.1
DESCRIBED = 0.35  # the share of prompts that name the critter's traits; the others leave them to the picture
UNUSED = ("image_encoder", "feature_extractor")  # parts of FluxPipeline that a control pipeline has not
REFERENCE_WEIGHT = 0.3  # of the left frame in the loss: copying it is the easy half


def sample_batch(latents: Tensor, black: Tensor, batch: int, step: int) -> tuple[Tensor, Tensor, list[str]]:
    """Canvas tokens [B, 32, 64], condition tokens [B, 32, 64] (some dropped: zeros), prompts (some dropped:
    empty)."""
    rng = np.random.default_rng((SEED, step, ranks()[0]))
    frames, prompts = [], []
    for index in rng.integers(len(latents), size=batch):
        family = scenes.family(TRAIN_SEED, int(index))
        reference, target = rng.permutation(scenes.SAME)[:2]
        frames.append(latents[int(index), [reference, target]])
        words = phrase(*family[target], rng, describe=DESCRIBED)
        prompts.append("" if rng.random() < TEXT_DROPOUT else words)
    pairs = torch.stack(frames).float()  # [B, 2, 16, h, w]
    canvas = sheets.pack(pairs.flatten(0, 1), 1, 2)
    condition = sheets.pack(torch.stack([pairs[:, 0], black.expand_as(pairs[:, 0])], 1).flatten(0, 1), 1, 2)
    condition[torch.from_numpy(rng.random(batch) < IMAGE_DROPOUT)] = 0.0
    return canvas, condition, prompts


def loss(
    student: FluxTransformer2DModel,
    teacher: FluxPipeline,
    latents: Tensor,
    black: Tensor,
    preset: Preset,
    step: int,
):
    data, condition, prompts = sample_batch(latents, black, preset.student_batch, step)
    generator, where = step_seed(SEED, step), student.device
    noise, t = torch.randn(data.shape, generator=generator), flow.sample_times(len(data), generator=generator)
    data, condition, noise, t = (tensor.to(where) for tensor in (data, condition, noise, t))
    with torch.no_grad():
        states, pooled, text_ids = teacher.encode_prompt(prompts, None, max_sequence_length=T5_TOKENS)
    predicted = student(
        hidden_states=torch.cat([flow.interpolate(data, noise, t), condition], dim=2),  # [B, tokens, 2C]
        timestep=t,
        encoder_hidden_states=states,
        pooled_projections=pooled,
        txt_ids=text_ids,
        img_ids=positions(preset.panel, 2 * preset.panel, device=where),
        return_dict=False,
    )[0]
    return flow.loss(predicted, flow.velocity(data, noise), frame_weights(data, preset.panel // 16))


def frame_weights(tokens: Tensor, columns: int) -> Tensor:
    """[1, tokens, 1]: `REFERENCE_WEIGHT` on the left frame, 1 on the right; `columns` tokens make a frame's
    row."""
    rows = tokens.shape[1] // (2 * columns)
    row = torch.tensor([REFERENCE_WEIGHT] * columns + [1.0] * columns, device=tokens.device)
    return row.repeat(rows)[None, :, None]


def train(run: Path, preset: Preset, steps: int) -> FluxTransformer2DModel:
    torch.manual_seed(SEED)
    logging.set_verbosity_error()  # a phrase that loses its last word is no news
    teacher = FluxPipeline.from_pretrained(run / "teacher", dtype=torch.float32).to(device())
    families = scenes.render(TRAIN_SEED, preset.families, preset.panel, run / "renders")
    latents = sheets.load(teacher.vae, families, run / "latents.npy")
    black = black_latents(teacher.vae, preset.panel)
    student = widen(teacher.transformer).train()
    average = running_average(student)
    optimizer = torch.optim.AdamW(student.parameters(), PEAK, betas=(0.9, 0.97), weight_decay=1e-2)
    state = State(run / "student.pt", model=student, average=average, optimizer=optimizer).load()
    descend(
        "student",
        state,
        steps,
        rate=lambda step: learning_rate(step, steps, decay=0.4),
        loss=lambda step: loss(student, teacher, latents, black, preset, step),
    )
    return average.module


def save(student: FluxTransformer2DModel, run: Path) -> None:
    """A folder that `load_pipeline` opens, and `FluxControlPipeline.from_pretrained`."""
    teacher = FluxPipeline.from_pretrained(run / "teacher", dtype=torch.float32)
    parts = {name: part for name, part in teacher.components.items() if name not in UNUSED}
    pipeline = DSDPipeline(**{**parts, "transformer": student.half().eval(), "vae": teacher.vae.half()})
    pipeline.save_pretrained(run / "student")


@torch.no_grad()
def black_latents(vae: AutoencoderKL, panel: int) -> Tensor:
    """Latents [16, h, w] of a black frame: the right half of every condition."""
    return encode(vae, torch.full((1, 3, panel, panel), -1.0, device=vae.device))[0].cpu()


def main() -> None:
    args = parser(__doc__).parse_args()
    preset = PRESETS[args.preset]
    student = train(args.run, preset, args.steps or preset.student_steps)
    if ranks()[0] == 0:
        save(student, args.run)
        print(f"student saved in {args.run / 'student'}", flush=True)


if __name__ == "__main__":
    main()
