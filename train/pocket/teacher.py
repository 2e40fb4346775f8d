"""The pocket teacher, a stock `FluxPipeline` trained from nothing: `python -m train.pocket.teacher RUN`.

It learns single pictures, diptychs and 2x2 sheets from captions, text encoders and transformer together. Most
sheets show one critter, some do not: consistency within a sheet is learnt, imperfect, and leaves curation a
real job. In some lessons part of the panels is clean: then only the others are learnt, and what no word tells
pays at once. From noise in all panels alone, eyes and ears agreed by chance after 17 400 steps.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

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
from train.pocket.reader import Reader, by_panel
from train.pocket.scorer import targets, truths
from train.pocket.vae import TRAIN_SEED

PEAK, BETAS, TEXT_DROPOUT, IMPERFECT, SEED = 1e-3, (0.9, 0.97), 0.1, 0.1, 11
# Scene, colour, which panel: all is decided above t = 0.8, where plain logit-normal times are rare. There a
# wrong prompt makes the loss up to three times as large, at t = 0.4 a third larger. Eyes and ears are decided
# below, in times that a shift of 4 hardly shows.
SHIFT = 2.0
# The rest of the sheets' prompts place fewer panels. Where all are always placed, the model learns which
# scenes a sheet has and never where: knowing its quadrant and reading the right words pay only together.
ALL_SAID = 0.5
SHEET_TOKENS, WORDLESS = 36, 2  # of text
READING = 0.3  # the weight of what the reader asks
UNTOLD, UNTOLD_COPYING = 0.25, 0.7  # of the sheets' prompts name no trait: panels must look at each other


class Lesson(NamedTuple):
    """What a step may teach: sheets of one layout."""

    rows: int
    columns: int
    share: float  # of the steps
    tokens: int  # of text
    batch: float  # relative to singles, so that all lessons cost about as much
    copying: bool = False  # some panels are clean, all show one critter, and only the others are learnt


COPYING = Lesson(1, 2, 0.25, WORDLESS, 1.0, copying=True)  # cheap
LESSONS = (
    Lesson(1, 1, 0.15, 20, 1.0),
    Lesson(1, 2, 0.10, 24, 0.65),
    Lesson(2, 2, 0.35, SHEET_TOKENS, 0.35),
    COPYING,
    Lesson(2, 2, 0.15, SHEET_TOKENS, 0.35, copying=True),
)


class Teacher(nn.Module):
    """Transformer and both text encoders, so that one optimiser and one average hold all that is learnt."""

    def __init__(self, preset: Preset):
        super().__init__()
        self.spell = text.Speller()
        self.text_encoder = text.build_clip_encoder(self.spell.clip, preset.clip_width)
        self.text_encoder_2 = text.build_t5_encoder(self.spell.t5, preset.t5_width)
        self.transformer = build_transformer(preset)
        self.reader = Reader(preset)

    def study(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the pictures' tokens halfway through [B, tokens, width]."""
        blocks, halfway = self.transformer.single_transformer_blocks, []
        middle = blocks[(len(blocks) - 1) // 2]
        hook = middle.register_forward_hook(lambda block, given, made: halfway.append(made[1]))
        velocities = self(*inputs)
        hook.remove()
        return velocities, halfway[0]

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


class Sheet(NamedTuple):
    panels: list[int]  # of the family
    prompt: str
    clean: list[bool]  # panel by panel


def sample_sheet(seed: int, index: int, lesson: Lesson, rng: np.random.Generator) -> Sheet:
    """A sheet of family `index`."""
    family, count = scenes.family(seed, index), lesson.rows * lesson.columns
    if count == 1:
        panel = int(rng.integers(scenes.FAMILY))
        return Sheet([panel], phrase(*family[panel], rng, describe=0.9), [False])
    panels, clean = rng.permutation(scenes.SAME)[:count], np.zeros(count, bool)
    if lesson.copying:
        clean[rng.permutation(count)[: int(rng.integers(1, count))]] = True
    elif rng.random() < IMPERFECT:
        wrong = rng.permutation(count)[: int(rng.integers(1, count // 2 + 1))]
        panels[wrong] = scenes.SAME + rng.permutation(scenes.CHANGED)[: len(wrong)]
    if lesson.tokens == WORDLESS:
        return Sheet(panels.tolist(), "", clean.tolist())
    said = rng.permutation(count)[: count if rng.random() < ALL_SAID else int(rng.integers(1, count))]
    contexts, traits = [family[p][1] for p in panels], _told(lesson, rng)
    words = grid_prompt(family[0][0], contexts, traits=traits, said=set(said.tolist()))
    return Sheet(panels.tolist(), words, clean.tolist())


def _told(lesson: Lesson, rng: np.random.Generator) -> tuple[str, ...]:
    """The traits that a sheet's words name."""
    if rng.random() < (UNTOLD_COPYING if lesson.copying else UNTOLD):
        return ()
    return NAMED if rng.random() < 0.8 else tuple(t for t in NAMED if rng.random() < 0.5)


@dataclass(frozen=True)
class Batch:
    """What one step learns from: sheets of one lesson."""

    lesson: Lesson
    families: Tensor  # [B]
    panels: Tensor  # [B, rows columns]
    clean: Tensor  # [B, rows columns], bool
    t5: Tensor  # [B, tokens]
    clip: Tensor  # [B, CLIP_TOKENS]


class Sampler:
    """`sampler(step)` is the batch of a step; holds nothing that worker processes could not have.

    The first `copying` steps all are lessons in copying, without words.
    """

    def __init__(self, families: int, batch: int, copying: int = 0):
        self.spell, self.families, self.batch, self.copying = text.Speller(), families, batch, copying
        self.rank = ranks()[0]  # now: a worker process has none

    def __call__(self, step: int) -> Batch:
        lesson = COPYING if step < self.copying else choose(step)
        rng = np.random.default_rng((SEED, step, self.rank))
        families = rng.integers(self.families, size=round(lesson.batch * self.batch))
        chosen = [sample_sheet(TRAIN_SEED, int(family), lesson, rng) for family in families]
        prompts = ["" if rng.random() < TEXT_DROPOUT else sheet.prompt for sheet in chosen]
        panels, clean = (torch.tensor([getattr(s, name) for s in chosen]) for name in ("panels", "clean"))
        spelled = self.spell(prompts, lesson.tokens)
        return Batch(lesson, torch.from_numpy(families), panels, clean, *spelled)


def choose(step: int) -> Lesson:
    """The same in every process."""
    shares = [lesson.share for lesson in LESSONS]
    return LESSONS[np.random.default_rng((SEED + 1, step)).choice(len(LESSONS), p=shares)]


class Pictures(NamedTuple):
    """What all batches are taken from, on the device."""

    latents: Tensor  # [families, FAMILY, 16, h, w]
    traits: dict[str, Tensor]  # `targets`, picture by picture

    @classmethod
    def of(cls, latents: Tensor, where: str) -> "Pictures":
        traits = targets(truths(TRAIN_SEED, len(latents)))
        return cls(latents.to(where), {name: row.to(where) for name, row in traits.items()})


def loss(teacher: Teacher, pictures: Pictures, preset: Preset, step: int, batch: Batch) -> Tensor:
    """Velocities of the panels that are not clean, and what the reader makes of all panels."""
    where, layout = pictures.latents.device, batch.lesson[:2]
    families, panels = batch.families.to(where)[:, None], batch.panels.to(where)
    chosen = pictures.latents[families, panels]  # [B, panels, 16, h, w]
    data = sheets.pack(chosen.flatten(0, 1), *layout)  # [B, tokens, 64]
    mask = torch.ones_like(chosen[:, :, :1]) * ~batch.clean.to(where)[:, :, None, None, None]
    noisy = sheets.pack(mask.flatten(0, 1), *layout)[..., :1]  # [B, tokens, 1]
    generator = step_seed(SEED, step, where)
    noise = torch.randn(data.shape, generator=generator, device=where)
    t = flow.sample_times(len(data), shift=SHIFT, generator=generator, device=where)
    x_t = data.lerp(flow.interpolate(data, noise, t), noisy)
    ids = positions(*(preset.panel * n for n in layout), device=where)
    with mixed_precision():
        predicted, halfway = teacher.study(x_t, t, batch.t5.to(where), batch.clip.to(where), ids)
        rows = (families * scenes.FAMILY + panels).flatten()
        asked = {name: values[rows] for name, values in pictures.traits.items()}
        read = teacher.reader.loss(by_panel(halfway, *layout), asked)
    return flow.loss(predicted, flow.velocity(data, noise), noisy) + READING * read


def begin_with(teacher: Teacher, folder: Path) -> None:
    """Take over the weights of a saved teacher of the same sizes."""
    earlier = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    for part in ("text_encoder", "text_encoder_2", "transformer"):
        getattr(teacher, part).load_state_dict(getattr(earlier, part).state_dict())


def train(run: Path, preset: Preset, steps: int, begin: Path | None = None, copying: int = 0) -> Teacher:
    torch.manual_seed(SEED)
    vae = AutoencoderKL.from_pretrained(run / "vae").to(device())
    families = scenes.render(TRAIN_SEED, preset.families, preset.panel, run / "renders")
    pictures = Pictures.of(sheets.load(vae, families, run / "latents.npy"), device())
    teacher = Teacher(preset).to(device())
    if begin:
        begin_with(teacher, begin)
    average = running_average(teacher)
    optimizer = torch.optim.AdamW(teacher.parameters(), PEAK, betas=BETAS, weight_decay=1e-2, fused=True)
    state = State(run / "teacher.pt", model=teacher, average=average, optimizer=optimizer).load()
    batches = made_ahead(Sampler(len(families), preset.teacher_batch, copying), state.step, steps)
    descend(
        "teacher",
        state,
        steps,
        rate=lambda step: learning_rate(step, steps, PEAK, warmup=400),
        loss=lambda step: loss(teacher, pictures, preset, step, next(batches)),
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
    flags.add_argument("--batch", type=int, help="singles, in each process; default: the preset's")
    flags.add_argument("--copying", type=int, default=0, metavar="N", help="lessons in copying first")
    args = flags.parse_args()
    preset = PRESETS[args.preset]
    preset = replace(preset, teacher_batch=args.batch or preset.teacher_batch)
    teacher = train(args.run, preset, args.steps or preset.teacher_steps, args.begin, args.copying)
    if ranks()[0] == 0:
        save(teacher, AutoencoderKL.from_pretrained(args.run / "vae"), args.run / "teacher")
        print(f"teacher saved in {args.run / 'teacher'}", flush=True)


if __name__ == "__main__":
    main()
