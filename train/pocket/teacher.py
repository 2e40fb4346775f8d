"""The pocket teacher, a stock `FluxPipeline` trained from nothing: `python -m train.pocket.teacher RUN`.

It learns single pictures, diptychs and 2x2 sheets from captions, text encoders and transformer together. Most
sheets show one critter, some do not: consistency within a sheet is learnt, imperfect, and leaves curation a
real job.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from dsd import flow
from dsd.latents import positions
from dsd.pocket.words import NAMED, grid_prompt, phrase
from train.pocket import latents as sheets
from train.pocket import scenes, text
from train.pocket.loop import (
    State,
    descend,
    device,
    learning_rate,
    made_ahead,
    mixed_precision,
    ranks,
    running_average,
    step_seed,
)  # fmt: skip
from train.pocket.presets import PRESETS, Preset, parser
from train.pocket.vae import TRAIN_SEED

PEAK, BETAS, TEXT_DROPOUT, IMPERFECT, SEED = 1.5e-3, (0.9, 0.97), 0.1, 0.1, 11
# Scene, colour, which panel: all is decided above t = 0.8, where plain logit-normal times are rare. There a
# wrong prompt makes the loss up to three times as large, at t = 0.4 a third larger. Eyes and ears are decided
# below, in times that a shift of 4 hardly shows.
SHIFT = 2.0
# The rest of the sheets' prompts place fewer panels. Where all are always placed, the model learns which
# scenes a sheet has and never where: knowing its quadrant and reading the right words pay only together.
ALL_SAID = 0.5
# (rows, columns) -> (share of steps, text tokens, batch relative to singles); all cost about as much
LAYOUTS = {(1, 1): (0.15, 20, 1.0), (1, 2): (0.15, 24, 0.65), (2, 2): (0.7, 36, 0.35)}


class Teacher(nn.Module):
    """Transformer and both text encoders, so that one optimiser and one average hold all that is learnt."""

    def __init__(self, preset: Preset):
        super().__init__()
        self.spell = text.Speller()
        self.text_encoder = text.build_clip_encoder(self.spell.clip, preset.clip_width)
        self.text_encoder_2 = text.build_t5_encoder(self.spell.t5, preset.t5_width)
        self.transformer = build_transformer(preset)

    def forward(self, x_t: Tensor, t: Tensor, t5: Tensor, clip: Tensor, image_ids: Tensor) -> Tensor:
        """Velocities [B, tokens, 64]; words as `text.Speller` gives them."""
        return self.transformer(
            hidden_states=x_t,
            timestep=t,
            encoder_hidden_states=self.text_encoder_2(t5)[0],
            pooled_projections=self.text_encoder(clip).pooler_output,
            txt_ids=torch.zeros(t5.shape[1], 3, device=x_t.device),
            img_ids=image_ids,
            return_dict=False,
        )[0]


def build_transformer(preset: Preset) -> FluxTransformer2DModel:
    rotary = preset.head_width // 12 * 2  # a sixth for the unused axis, the rest for rows and columns
    side = (preset.head_width - rotary) // 2
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=preset.double_blocks,
        num_single_layers=preset.single_blocks,
        attention_head_dim=preset.head_width,
        num_attention_heads=preset.heads,
        joint_attention_dim=preset.t5_width,
        pooled_projection_dim=preset.clip_width,
        guidance_embeds=False,
        axes_dims_rope=(rotary, side, side),
    )


def sample_sheet(
    seed: int, index: int, rows: int, columns: int, rng: np.random.Generator
) -> tuple[list[int], str]:
    """Which panels of family `index` make a sheet, and its prompt."""
    family, count = scenes.family(seed, index), rows * columns
    if count == 1:
        panel = int(rng.integers(scenes.FAMILY))
        return [panel], phrase(*family[panel], rng, describe=0.9)
    panels = rng.permutation(scenes.SAME)[:count]
    if rng.random() < IMPERFECT:
        wrong = rng.permutation(count)[: int(rng.integers(1, count // 2 + 1))]
        panels[wrong] = scenes.SAME + rng.permutation(scenes.CHANGED)[: len(wrong)]
    traits = NAMED if rng.random() < 0.8 else tuple(t for t in NAMED if rng.random() < 0.5)
    said = rng.permutation(count)[: count if rng.random() < ALL_SAID else int(rng.integers(1, count))]
    contexts = [family[p][1] for p in panels]
    return panels.tolist(), grid_prompt(family[0][0], contexts, traits=traits, said=set(said.tolist()))


@dataclass(frozen=True)
class Batch:
    """What one step learns from: sheets of one layout."""

    layout: tuple[int, int]
    families: Tensor  # [B]
    panels: Tensor  # [B, rows columns]
    t5: Tensor  # [B, tokens]
    clip: Tensor  # [B, CLIP_TOKENS]


class Sampler:
    """`sampler(step)` is the batch of a step; holds nothing that worker processes could not have."""

    def __init__(self, families: int, batch: int):
        self.spell, self.families, self.batch = text.Speller(), families, batch
        self.rank = ranks()[0]  # now: a worker process has none

    def __call__(self, step: int) -> Batch:
        names, rng = list(LAYOUTS), np.random.default_rng((SEED + 1, step))
        layout = names[int(rng.choice(len(names), p=[LAYOUTS[name][0] for name in names]))]
        _, tokens, share = LAYOUTS[layout]
        rng = np.random.default_rng((SEED, step, self.rank))
        families = rng.integers(self.families, size=round(share * self.batch))
        chosen = [sample_sheet(TRAIN_SEED, int(family), *layout, rng) for family in families]
        prompts = ["" if rng.random() < TEXT_DROPOUT else prompt for _, prompt in chosen]
        panels = torch.tensor([panels for panels, _ in chosen])
        return Batch(layout, torch.from_numpy(families), panels, *self.spell(prompts, tokens))


def loss(teacher: Teacher, latents: Tensor, preset: Preset, step: int, batch: Batch) -> Tensor:
    """Of the sheets in `batch`, whose families' `latents` [families, FAMILY, 16, h, w] are on the device."""
    where = latents.device
    chosen = latents[batch.families.to(where)[:, None], batch.panels.to(where)]  # [B, panels, 16, h, w]
    data = sheets.pack(chosen.flatten(0, 1), *batch.layout)  # [B, tokens, 64]
    generator = step_seed(SEED, step, where)
    noise = torch.randn(data.shape, generator=generator, device=where)
    t = flow.sample_times(len(data), shift=SHIFT, generator=generator, device=where)
    ids = positions(*(preset.panel * n for n in batch.layout), device=where)
    with mixed_precision():
        predicted = teacher(
            flow.interpolate(data, noise, t), t, batch.t5.to(where), batch.clip.to(where), ids
        )
    return flow.loss(predicted, flow.velocity(data, noise))


def begin_with(teacher: Teacher, folder: Path) -> None:
    """Take over the weights of a saved teacher of the same sizes."""
    earlier = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    for part in ("text_encoder", "text_encoder_2", "transformer"):
        getattr(teacher, part).load_state_dict(getattr(earlier, part).state_dict())


def train(run: Path, preset: Preset, steps: int, begin: Path | None = None) -> Teacher:
    torch.manual_seed(SEED)
    vae = AutoencoderKL.from_pretrained(run / "vae").to(device())
    families = scenes.render(TRAIN_SEED, preset.families, preset.panel, run / "renders")
    latents = sheets.load(vae, families, run / "latents.npy").to(device())
    teacher = Teacher(preset).to(device())
    if begin:
        begin_with(teacher, begin)
    average = running_average(teacher)
    optimizer = torch.optim.AdamW(teacher.parameters(), PEAK, betas=BETAS, weight_decay=1e-2, fused=True)
    state = State(run / "teacher.pt", model=teacher, average=average, optimizer=optimizer).load()
    batches = made_ahead(Sampler(len(latents), preset.teacher_batch), state.step, steps)
    descend(
        "teacher",
        state,
        steps,
        rate=lambda step: learning_rate(step, steps, PEAK, warmup=400),
        loss=lambda step: loss(teacher, latents, preset, step, next(batches)),
    )
    return average.module


def save(teacher: Teacher, vae: AutoencoderKL, folder: Path) -> None:
    """A folder that `FluxPipeline.from_pretrained` opens; big weights as float16, small ones as they are."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=vae.half(),
        text_encoder=teacher.text_encoder.eval(),
        tokenizer=teacher.spell.clip,
        text_encoder_2=teacher.text_encoder_2.eval(),
        tokenizer_2=teacher.spell.t5,
        transformer=teacher.transformer.half().eval(),
    )
    pipeline.save_pretrained(folder)


def main() -> None:
    flags = parser(__doc__)
    flags.add_argument("--begin", type=Path, metavar="TEACHER", help="a saved one's folder, to go on from")
    args = flags.parse_args()
    preset = PRESETS[args.preset]
    teacher = train(args.run, preset, args.steps or preset.teacher_steps, args.begin)
    if ranks()[0] == 0:
        save(teacher, AutoencoderKL.from_pretrained(args.run / "vae"), args.run / "teacher")
        print(f"teacher saved in {args.run / 'teacher'}", flush=True)


if __name__ == "__main__":
    main()
