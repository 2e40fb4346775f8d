"""The figures and sample sheets of the pocket family's card: `python -m train.pocket.measure RUN --out
FOLDER`.

All pictures are drawn by the plain pipelines from saved folders; traits are read back by the scorer.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image, ImageDraw, ImageFont

from dsd.checkpoint import ASSETS, load_pipeline
from dsd.pipeline import DSDPipeline
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.scorer import Reading, Scorer, followed, identity, kept, same_identity
from dsd.pocket.words import caption, describe_context, grid_prompt
from dsd.pocket.world import NAMED, Context, Critter, sample_context, sample_critter
from train.pocket import scenes, vae
from train.pocket.loop import device
from train.pocket.text import T5_TOKENS

SEED, STEPS, BATCH = 5000, 28, 50
GRID_TOKENS = 36
UNNAMED_ONLY = (
    "eyes",
    "hue",
    "accent_hue",
    "stripe_angle",
    "spot_turn",
    "stripe_width",
    "eye_size",
    "ear_length",
    "aspect",
)


def fresh(index: int, *, held_out: bool, contexts: int = 1) -> tuple[Critter, list[Context]]:
    """Scene `index` of the measurements: never one that was trained on."""
    rng = np.random.default_rng((SEED, index, held_out))
    return sample_critter(rng, held_out=held_out), [sample_context(rng) for _ in range(contexts)]


def draw_with(
    teacher: FluxPipeline, prompts: list[str], side: int, tokens: int, guidance: float
) -> list[Image.Image]:
    pictures = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        pictures += teacher(
            part,
            negative_prompt=[""] * len(part),
            true_cfg_scale=guidance,
            height=side,
            width=side,
            num_inference_steps=STEPS,
            max_sequence_length=tokens,
            generator=[torch.Generator().manual_seed(SEED + start + i) for i in range(len(part))],
        ).images
    return pictures


def share(values) -> float:
    return round(float(np.mean([float(v) for v in values])), 4)


def interval(values) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    values, rng = np.asarray(values, dtype=float), np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
    return [round(float(x), 4) for x in (values.mean(), *np.quantile(means, (0.025, 0.975)))]


def score_parts(pairs: list[tuple[Critter, Context]], readings: list[Reading]) -> dict[str, float]:
    """Share of each named trait and each part of the context that is there."""
    rows: dict[str, list[bool]] = {}
    for (critter, context), reading in zip(pairs, readings, strict=True):
        for name, value in {**kept(critter, reading), **followed(context, reading)}.items():
            rows.setdefault(name, []).append(value)
    return {name: share(values) for name, values in rows.items()}


def measure_singles(
    teacher: FluxPipeline, scorer: Scorer, count: int, panel: int, guidance: float
) -> tuple[dict, list]:
    pairs = [(critter, contexts[0]) for critter, contexts in (fresh(i, held_out=False) for i in range(count))]
    pictures = draw_with(teacher, [caption(*pair) for pair in pairs], panel, T5_TOKENS, guidance)
    return score_parts(pairs, scorer.read(pictures)), pictures


def measure_grids(
    teacher: FluxPipeline, scorer: Scorer, count: int, panel: int, guidance: float
) -> tuple[dict, list]:
    rows = [fresh(i, held_out=False, contexts=4) for i in range(count)]
    sheets = draw_with(teacher, [grid_prompt(c, x) for c, x in rows], 2 * panel, GRID_TOKENS, guidance)
    readings = [scorer.read(split(sheet, panel)) for sheet in sheets]
    flat = [(critter, x) for critter, contexts in rows for x in contexts]
    parts = score_parts(flat, [r for four in readings for r in four])
    return {"one_identity_in_all_four": share(same_identity(four) for four in readings), **parts}, sheets


def split(sheet: Image.Image, panel: int) -> list[Image.Image]:
    return [sheet.crop((x, y, x + panel, y + panel)) for y in (0, panel) for x in (0, panel)]


def ceiling_of_grids(scorer: Scorer, count: int, panel: int) -> float:
    """How many truly consistent rendered sheets the same test accepts."""
    rows = [fresh(i, held_out=False, contexts=4) for i in range(count)]
    return share(same_identity(scorer.read([draw(c, x, panel) for x in xs])) for c, xs in rows)


def measure_student(
    student: DSDPipeline, teacher: FluxPipeline, scorer: Scorer, count: int, panel: int, guidance: dict
):
    """Held-out critters in an asked context: the student, the prompted teacher, and a true render."""
    rows = [fresh(i, held_out=True, contexts=2) for i in range(count)]
    references = [draw(critter, contexts[0], panel) for critter, contexts in rows]
    asked = [describe_context(contexts[1]) for _, contexts in rows]
    drawn = draw_student(student, asked, references, guidance)
    captions = [caption(critter, contexts[1]) for critter, contexts in rows]
    described = draw_student(student, captions, references, guidance)
    prompted = draw_with(teacher, captions, panel, T5_TOKENS, guidance["teacher"])
    rendered = [draw(critter, contexts[1], panel) for critter, contexts in rows]
    ways = {"student": drawn, "student_described": described, "prompted_teacher": prompted}
    ways["true_render"] = rendered
    result = {name: _identity_row(rows, scorer.read(pictures)) for name, pictures in ways.items()}
    return result, [references, drawn, prompted, rendered], asked


def draw_student(
    student: DSDPipeline, prompts: list[str], references: list[Image.Image], guidance: dict
) -> list[Image.Image]:
    drawn = []
    for start in range(0, len(prompts), BATCH):
        part = slice(start, start + BATCH)
        drawn += student(
            prompts[part],
            image=references[part],
            generator=[torch.Generator().manual_seed(SEED + start + i) for i in range(len(prompts[part]))],
            num_inference_steps=STEPS,
            image_guidance_scale=guidance["image"],
            text_guidance_scale=guidance["text"],
        ).images
    return drawn


def _identity_row(rows: list, readings: list[Reading]) -> dict:
    traits = [kept(critter, reading) for (critter, _), reading in zip(rows, readings, strict=True)]
    context = [followed(contexts[1], reading) for (_, contexts), reading in zip(rows, readings, strict=True)]
    return {
        "identity": interval([identity(c, r) for (c, _), r in zip(rows, readings, strict=True)]),
        "named_traits": interval([share(t[n] for n in NAMED) for t in traits]),
        "unnamed_traits": interval([share(v for n, v in t.items() if n in UNNAMED_ONLY) for t in traits]),
        "context": interval([share(c.values()) for c in context]),
    }


def sheet_of(columns: list[list[Image.Image]], prompts: list[str], scale: int = 2) -> Image.Image:
    """Rows of (reference, drawn, ...), smoothly enlarged for the eye, each with its prompt on the right."""
    cells = [column[row] for row in range(len(prompts)) for column in columns]
    sheet = draw_grid(cells, len(columns))
    sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.BICUBIC)
    labelled, height = (
        Image.new("RGB", (sheet.width + 330, sheet.height), "white"),
        sheet.height // len(prompts),
    )
    labelled.paste(sheet, (0, 0))
    for row, prompt in enumerate(prompts):
        place = (sheet.width + 12, row * height + height // 2 - 8)
        ImageDraw.Draw(labelled).text(place, prompt, fill=(50, 50, 50), font=ImageFont.load_default(size=13))
    return labelled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--assets", type=Path, default=ASSETS, help="folder with teacher/, student/ and scorer/"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=2.0, help="the teacher's true_cfg_scale")
    parser.add_argument("--image-guidance", type=float, default=1.5)
    parser.add_argument("--text-guidance", type=float, default=1.0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scorer = Scorer.from_pretrained(args.assets / "scorer").to(device())
    teacher = FluxPipeline.from_pretrained(args.assets / "teacher", dtype=torch.float32).to(device())
    teacher.set_progress_bar_config(disable=True)
    panel = teacher.vae.config.sample_size // 2
    figures = {"vae_psnr_db": round(measure_vae(teacher.vae, panel), 2)}
    figures["teacher_singles"], singles = measure_singles(teacher, scorer, args.count, panel, args.guidance)
    figures["teacher_grids"], grids = measure_grids(
        teacher, scorer, max(args.count // 2, 10), panel, args.guidance
    )
    figures["grids_ceiling"] = ceiling_of_grids(scorer, max(args.count // 2, 10), panel)
    draw_grid(singles[:40], 8).resize((8 * 128, 5 * 128), Image.Resampling.BICUBIC).save(
        args.out / "teacher_singles.png"
    )
    draw_grid(grids[:12], 4).resize((4 * 256, 3 * 256), Image.Resampling.BICUBIC).save(
        args.out / "teacher_grids.png"
    )
    if (args.assets / "student").exists():
        figures["held_out"] = add_student(args, teacher, scorer, panel)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


def add_student(args: argparse.Namespace, teacher: FluxPipeline, scorer: Scorer, panel: int) -> dict:
    student = load_pipeline(args.assets / "student", dtype=torch.float32)
    student.set_progress_bar_config(disable=True)
    scales = {"image": args.image_guidance, "text": args.text_guidance, "teacher": args.guidance}
    figures, columns, asked = measure_student(student, teacher, scorer, min(args.count, 200), panel, scales)
    sheet_of(columns, asked[:16]).save(args.out / "student.png")
    return figures


def measure_vae(model: torch.nn.Module, panel: int) -> float:
    pictures = [draw(*scenes.family(vae.TEST_SEED + 3, i)[0], panel) for i in range(500)]
    return vae.vae_psnr(model, vae.to_tensor(np.stack([np.asarray(p) for p in pictures])).to(model.device))


if __name__ == "__main__":
    main()
