"""Train the pocket teacher, a stock `FluxPipeline`, from scratch: `python -m train.pocket.teacher RUN`.

It learns single images, diptychs and 2x2 grids from captions (see `lessons.py`); text encoders and
transformer are trained together.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from dsd.model import flow
from dsd.model.latents import positions
from dsd.pocket.scorer import CHOICES, IDENTITY, NUMBERS
from train import command
from train.pocket import latents as grids
from train.pocket import loop, text
from train.pocket.lessons import SEED, STAGES, TASK_STAGES, Batch, Sampler, stage
from train.pocket.presets import PRESETS, Preset, build_parser, locked
from train.pocket.scenes import load_truths, take
from train.pocket.scorer import reading_loss
from train.pocket.vae.model import TRAIN_SEED

# Scene, color and their panels are decided above t = 0.8, where plain logit-normal times are rare: there a
# wrong prompt makes the loss up to three times as large, at t = 0.4 only a third larger. Eyes and ears are
# decided below, at times that a shift of 4 rarely samples.
SHIFT = 2.0
READING = 0.3  # weight of the reader's loss
# Share of the shown panels that also get noise, though less than the panels to be drawn: when a whole grid is
# sampled, no panel is ever far ahead of the others.
HAZY = 0.5
NARROW, FEATURES = 32, 192  # widths of the reader


class Teacher(nn.Module):
    """Transformer, text encoders and reader in one module, for one optimizer and one EMA of all weights."""

    def __init__(self, preset: Preset):
        super().__init__()
        self.spell = text.Speller()
        self.text_encoder = text.build_clip_encoder(self.spell.clip, preset.clip_width)
        self.text_encoder_2 = text.build_t5_encoder(self.spell.t5, preset.t5_width)
        self.transformer = build_transformer(preset)
        self.reader = Reader(preset)

    def study(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `forward` returns, and the image tokens halfway through [B, tokens, width]."""
        blocks, halfway = self.transformer.single_transformer_blocks, []
        middle = blocks[(len(blocks) - 1) // 2]
        hook = middle.register_forward_hook(lambda block, inputs, outputs: halfway.append(outputs[1]))
        velocities = self(*inputs)
        hook.remove()
        return velocities, halfway[0]

    def forward(self, x_t: Tensor, t: Tensor, t5: Tensor, clip: Tensor, image_ids: Tensor) -> Tensor:
        """Return velocities [B, tokens, 64]; `t5` and `clip` are ids from `text.Speller`."""
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
        in_channels=64, num_layers=preset.double_blocks, num_single_layers=preset.single_blocks,
        attention_head_dim=preset.head_width, num_attention_heads=preset.heads,
        joint_attention_dim=preset.t5_width, pooled_projection_dim=preset.clip_width, guidance_embeds=False,
        axes_dims_rope=(rotary, side, side),
    )  # fmt: skip


class Reader(nn.Module):
    """An auxiliary head from a panel's tokens [B, tokens, width], halfway, to its critter's traits.

    Velocities alone teach small traits slowly: three eyes instead of two are a few pixels of a grid. So the
    tokens must also predict, in the middle of the transformer, the critter that they show or should show; if
    a panel is noise, only another panel reveals it. This is the idea of REPA (Yu et al. 2024, arXiv
    2410.06940) with known truth instead of another network's features. Not saved with the teacher.
    """

    def __init__(self, preset: Preset):
        super().__init__()
        width, tokens = preset.heads * preset.head_width, (preset.panel // 16) ** 2
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, NARROW), nn.Flatten(-2), nn.GELU(),
            nn.Linear(NARROW * tokens, FEATURES), nn.GELU(),
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(CHOICES[name])) for name in IDENTITY})
        self.numbers = nn.Linear(FEATURES, NUMBERS)

    def forward(self, tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:  # logits by name, numbers
        features = self.body(tokens)
        return {name: head(features) for name, head in self.heads.items()}, self.numbers(features)


def by_panel(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Split tokens of grids [B, rows columns n, width] by panel [B rows columns, n, width], row by row."""
    side = int((tokens.shape[1] / (rows * columns)) ** 0.5)  # panels are square
    split = tokens.unflatten(1, (rows, side, columns, side))
    return split.transpose(2, 3).flatten(0, 2).flatten(1, 2)  # by rows, columns, side, side


@dataclass(frozen=True)
class Images:
    """The data that all batches are taken from, on the device."""

    latents: Tensor  # [families, panels, 16, h, w]
    traits: dict[str, Tensor]  # `scenes.targets` of every image


def loss(teacher: Teacher, images: Images, preset: Preset, step: int, batch: Batch) -> Tensor:
    """Return the velocity loss of the panels that are not shown, plus the reader's loss of all panels."""
    where, layout = images.latents.device, (batch.lesson.rows, batch.lesson.columns)
    families, panels, shown = (x.to(where) for x in (batch.families[:, None], batch.panels, batch.shown))
    chosen = images.latents[families, panels]  # [B, panels, 16, h, w]
    data = grids.pack(chosen.flatten(0, 1), *layout)  # [B, tokens, 64]
    generator = loop.step_seed(SEED, step, where)
    noise = torch.randn(data.shape, generator=generator, device=where)
    t = flow.sample_times(len(data), shift=SHIFT, generator=generator, device=where)

    def by_token(values: Tensor) -> Tensor:  # [B, panels] -> [B, tokens, 1]
        expanded = values.float()[..., None, None, None].expand(*chosen.shape[:2], 1, *chosen.shape[3:])
        return grids.pack(expanded.flatten(0, 1), *layout)[..., :1]

    x_t = data.lerp(noise, by_token(t[:, None] * _haze(shown, generator)))
    ids = positions(*(preset.panel * n for n in layout), device=where)
    with loop.mixed_precision():
        velocity, halfway = teacher.study(x_t, t, batch.t5.to(where), batch.clip.to(where), ids)
        traits = take(images.traits, (families * images.latents.shape[1] + panels).flatten())
        reading = reading_loss(*teacher.reader(by_panel(halfway, *layout)), traits)
    return flow.loss(velocity, flow.velocity(data, noise), by_token(~shown)) + READING * reading


def _haze(shown: Tensor, generator: torch.Generator) -> Tensor:
    """Return each panel's share of the noise [B, panels]: 1 for a panel to be drawn."""
    much, hazy = torch.rand(2, *shown.shape, generator=generator, device=shown.device)
    return torch.where(shown, much * (hazy < HAZY), 1.0)


def begin_with(teacher: Teacher, folder: Path) -> None:
    """Load the weights of a saved teacher; raise SystemExit if its sizes differ."""
    earlier = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    try:
        for part in ("text_encoder", "text_encoder_2", "transformer"):
            getattr(teacher, part).load_state_dict(getattr(earlier, part).state_dict())
    except RuntimeError as error:
        message = f"{folder} has other sizes than this --preset; use the preset it was trained with"
        raise SystemExit(message) from error


def compile_blocks(transformer: FluxTransformer2DModel) -> None:
    """Compile the blocks for a GPU: twice as fast after a minute or two."""
    for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks):
        # Every lesson has one shape. `Teacher.study` attaches a hook to a block's call, so only its forward.
        block.forward = torch.compile(block.forward, dynamic=False)


def train(args: argparse.Namespace) -> Teacher:
    """Return the averaged teacher."""
    torch.manual_seed(SEED)
    run, preset, where = args.run, PRESETS[args.preset], loop.device()
    steps, (start, stop) = args.steps or preset.teacher_steps, args.lessons
    vae = AutoencoderKL.from_pretrained(run / "vae").to(where)
    truths = load_truths(TRAIN_SEED, preset.families, run / "renders", edits=args.tasks)
    kinds = ("families", "edits") if args.tasks else ("families",)
    parts = [grids.load(vae, TRAIN_SEED, preset.families, preset.panel, run, kind=kind) for kind in kinds]
    latents = torch.cat(parts, 1).to(where)
    images, teacher = Images(latents, truths.targets(where)), Teacher(preset).to(where)
    if args.begin:
        begin_with(teacher, args.begin)
    ema = loop.build_ema(teacher)
    if args.compile:
        compile_blocks(teacher.transformer)
    path = run / f"teacher-{start:g}-{stop:g}{'-tasks' * args.tasks}.pt"
    optimizer = loop.build_optimizer(teacher, preset.teacher_rate)
    state = loop.TrainState(path, teacher, optimizer=optimizer, ema=ema, steps=steps, minutes=args.minutes)
    settings = {"lessons": (start, stop), "stages": TASK_STAGES if args.tasks else STAGES}
    sampler = Sampler(truths, args.batch or preset.teacher_batch, steps=steps, **settings)
    batches = loop.prefetch(sampler, state.step, steps)
    loop.descend(state, lambda step: loss(teacher, images, preset, step, next(batches)), warmup=400)
    return ema.module


def save(teacher: Teacher, vae: AutoencoderKL, folder: Path) -> None:
    """Save for `FluxPipeline.from_pretrained`; VAE and transformer in float16, text encoders as they are."""
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT), vae=vae.half(),
        text_encoder=teacher.text_encoder.eval(), tokenizer=teacher.spell.clip,
        text_encoder_2=teacher.text_encoder_2.eval(), tokenizer_2=teacher.spell.t5,
        transformer=teacher.transformer.half().eval(),
    ).save_pretrained(folder)  # fmt: skip


def check(args: argparse.Namespace) -> None:
    """Raise SystemExit for options that do not go together."""
    start, stop = args.lessons
    if args.compile and loop.device() != "cuda":
        raise SystemExit("--compile needs a GPU and saves no time on a CPU; leave it out")
    if args.minutes and stage(start) is not stage(stop - 1e-6):
        error = f"--minutes needs lessons of one stage, got {start:g} to {stop:g}; the stages begin at "
        raise SystemExit(error + ", ".join(f"{share:g}" for share in STAGES))


def main() -> None:
    parser = build_parser("teacher", "Train the teacher, the text-to-image model, from scratch.")
    add, text = parser.add_argument, "part of the lessons to train, in shares of the whole training (0 1)"
    add("--begin", type=Path, metavar="TEACHER", help="start from the teacher in this folder")
    add("--batch", type=int, help="single images per process (default: the preset's)")
    add("--lessons", type=float, nargs=2, default=(0.0, 1.0), metavar=("FROM", "TO"), help=text)
    add(
        "--tasks",
        action="store_true",
        help="also teach grids of edits, and more grids of one scene in lights",
    )
    add("--compile", action="store_true", help="compile the transformer's blocks for a GPU")
    args = parser.parse_args()
    check(args)
    with locked(args.run / "teacher"):
        teacher = train(args)
        if loop.ranks()[0] == 0:
            save(teacher, AutoencoderKL.from_pretrained(args.run / "vae"), args.run / "teacher")
            print(f"teacher saved in {args.run / 'teacher'}", flush=True)


if __name__ == "__main__":
    command.run(main)
