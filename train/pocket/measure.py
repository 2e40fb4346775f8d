"""Make the figures and sample grids of pocket's card: `python -m train.pocket.measure --out FOLDER`.

All images are drawn by the plain pipelines from saved folders; traits are read back by the scorer.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

from dsd.evaluation.critters import CritterScorer, Scene, make_case
from dsd.evaluation.scores import Case, Interval, evaluate, measure_levels
from dsd.evaluation.validation import by_student, by_teacher, in_batches, sample_sheet
from dsd.grids.teacher import SETTINGS, taught_lengths
from dsd.model.checkpoint import load_pipeline
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import ASSETS
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.scorer import Reading, Scorer, followed, kept, same_identity
from dsd.pocket.words import caption, grid_prompt
from dsd.pocket.world import Context, Critter, sample_context, sample_critter
from train.pocket import scenes, vae
from train.pocket.edges import sharpness, token_edges
from train.pocket.loop import device

SEED, STEPS, BATCH = 5000, 28, 50


@dataclass(frozen=True)
class World:
    """The scenes to measure on: panels of `panel` pixels, in the lights that the scorer knows."""

    scorer: Scorer
    panel: int

    def fresh(self, index: int, *, held_out: bool, contexts: int = 1) -> tuple[Critter, list[Context]]:
        """Return scene `index` of the measurements, from a seed that no training uses."""
        rng = np.random.default_rng((SEED, index, held_out))
        lights = self.scorer.choices["light"]
        return sample_critter(rng, held_out=held_out), [sample_context(rng, lights) for _ in range(contexts)]


def draw_with(
    teacher: FluxPipeline, prompts: list[str], side: int, tokens: int, guidance: float
) -> list[Image.Image]:
    draw = by_teacher(teacher, side=side, tokens=tokens, guidance=guidance, steps=STEPS)
    return in_batches(draw, BATCH)(prompts, [], [SEED + i for i in range(len(prompts))])


def share(values) -> float:
    return round(float(np.mean([float(v) for v in values])), 4)


def score_parts(pairs: list[tuple[Critter, Context]], readings: list[Reading]) -> dict[str, float]:
    """Return, for each trait and each part of the context, the share of images that show it."""
    rows: dict[str, list[bool]] = {}
    for (critter, context), reading in zip(pairs, readings, strict=True):
        for name, value in {**kept(critter, reading), **followed(context, reading)}.items():
            rows.setdefault(name, []).append(value)
    return {name: share(values) for name, values in rows.items()}


def looks(drawn: list[Image.Image], pairs: list[tuple[Critter, Context]], panel: int) -> dict[str, float]:
    """Return sharpness and token edges of images, relative to renders of the scenes they should show."""
    renders = [draw(*pair, panel) for pair in pairs]
    return {
        "sharpness": round(sharpness(drawn, renders), 3),
        "token_edges": round(token_edges(drawn, renders), 3),
    }


def measure_singles(
    teacher: FluxPipeline, world: World, count: int, guidance: float
) -> tuple[dict, list[Image.Image]]:
    scenes = [world.fresh(i, held_out=False) for i in range(count)]
    pairs = [(critter, contexts[0]) for critter, contexts in scenes]
    prompts, tokens = [caption(*pair) for pair in pairs], teacher.tokenizer_2.model_max_length
    images = draw_with(teacher, prompts, world.panel, tokens, guidance)
    parts = score_parts(pairs, world.scorer.read(images))
    return parts | looks(images, pairs, world.panel), images


def measure_grids(
    teacher: FluxPipeline, world: World, count: int, tokens: int, guidance: float
) -> tuple[dict, list[Image.Image]]:
    rows = [world.fresh(i, held_out=False, contexts=4) for i in range(count)]
    prompts = [grid_prompt(critter, contexts) for critter, contexts in rows]
    grids = draw_with(teacher, prompts, 2 * world.panel, tokens, guidance)
    panels = [split(grid, world.panel) for grid in grids]
    readings = [world.scorer.read(four) for four in panels]
    flat = [(critter, context) for critter, contexts in rows for context in contexts]
    parts = score_parts(flat, [reading for four in readings for reading in four])
    agreed = {
        "one_identity_in_all_four": share(same_identity(four) for four in readings),
        "pairs_that_agree": share(
            same_identity([four[a], four[b]]) for four in readings for a in range(4) for b in range(a)
        ),
    }
    return agreed | parts | looks([p for four in panels for p in four], flat, world.panel), grids


def split(grid: Image.Image, panel: int) -> list[Image.Image]:
    return [grid.crop((x, y, x + panel, y + panel)) for y in (0, panel) for x in (0, panel)]


def ceiling_of_grids(world: World, count: int) -> float:
    """Return the share of rendered, truly consistent grids that the same test accepts."""
    rows = [world.fresh(i, held_out=False, contexts=4) for i in range(count)]
    return share(same_identity(world.scorer.read([draw(c, x, world.panel) for x in xs])) for c, xs in rows)


def held_out_cases(world: World, count: int) -> list[Case]:
    """Return cases of held-out critters, each requested in one context."""
    cases = []
    for i in range(count):
        critter, (shown, asked) = world.fresh(i, held_out=True, contexts=2)
        scene = Scene(critter=critter, reference=shown, target=asked)
        cases.append(make_case(scene, f"{i:04d}", SEED + i, size=world.panel))
    return cases


def measure_student(
    student: DSDPipeline, teacher: FluxPipeline, world: World, count: int, guidance: dict
) -> tuple[dict, Image.Image]:
    """Measure student, prompted teacher and true renders on held-out critters; return also a sample grid."""
    cases, readers = held_out_cases(world, count), CritterScorer(world.scorer)
    tokens = teacher.tokenizer_2.model_max_length
    guided = {"image_guidance": guidance["image"], "text_guidance": guidance["text"]}
    drawn = in_batches(by_student(student, steps=STEPS, **guided), BATCH)
    told = by_teacher(teacher, side=world.panel, tokens=tokens, guidance=guidance["teacher"], steps=STEPS)
    levels = measure_levels(cases, readers)
    ways = {
        "student": evaluate(drawn, cases, readers, levels=levels),
        "student_described": evaluate(drawn, cases, readers, described=True, levels=levels),
        "prompted_teacher": evaluate(in_batches(told, BATCH), cases, readers, described=True, levels=levels),
    }
    result = {name: _identity_row(scores.means) for name, scores in ways.items()}
    result["true_render"] = _identity_row(levels.ceiling)
    asked = [(case.facts.critter, case.facts.target) for case in cases]
    result["student_looks"] = looks(ways["student"].images, asked, world.panel)
    shown = {
        name: ways[way].images for name, way in (("student", "student"), ("teacher", "prompted_teacher"))
    }
    return result, sample_sheet(cases, shown)


def _identity_row(means: dict[str, Interval]) -> dict[str, list[float]]:
    """Return the mean and 95 % interval of each score in the card."""
    names = {
        "identity": "identity",
        "named_traits": "named",
        "unnamed_traits": "unnamed",
        "context": "following",
    }
    return {title: [round(value, 4) for value in means[name]] for title, name in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--assets", type=Path, default=ASSETS, help="folder with teacher/, student/ and scorer/"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--guidance", type=float, default=3.0, help="the teacher's true_cfg_scale")
    parser.add_argument("--image-guidance", type=float, default=1.5)
    parser.add_argument("--text-guidance", type=float, default=1.0)
    parser.add_argument(
        "--grid-tokens", type=int, help="of text, in a grid's prompt; by default as the teacher learned"
    )
    parser.add_argument("--only-singles", action="store_true", help="of the teacher; for a look on the way")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scorer = Scorer.from_pretrained(args.assets / "scorer").to(device())
    teacher = FluxPipeline.from_pretrained(args.assets / "teacher", dtype=torch.float32).to(device())
    teacher.set_progress_bar_config(disable=True)
    world, grids = World(scorer, teacher.vae.config.sample_size // 2), max(args.count // 2, 10)
    figures = {"vae_psnr_db": round(measure_vae(teacher.vae, world.panel), 2)}
    figures["teacher_singles"], singles = measure_singles(teacher, world, args.count, args.guidance)
    save_grid(singles[:40], 8, args.out / "teacher_singles.png")
    if not args.only_singles:
        figures["teacher_grids"], drawn = measure_grids(
            teacher, world, grids, args.grid_tokens or grid_tokens(teacher), args.guidance
        )
        figures["grids_ceiling"] = ceiling_of_grids(world, grids)
        save_grid(drawn[:12], 4, args.out / "teacher_grids.png")
    if (args.assets / "student").exists() and not args.only_singles:
        figures["held_out"] = add_student(args, teacher, world)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


def grid_tokens(teacher: FluxPipeline) -> int:
    return taught_lengths(teacher).get("tokens", SETTINGS["pocket"].tokens)


def save_grid(images: list[Image.Image], columns: int, path: Path) -> None:
    grid, largest = draw_grid(images, columns), 1024
    scale = max(1, largest // grid.width)
    grid.resize((scale * grid.width, scale * grid.height), Image.Resampling.BICUBIC).save(path)


def add_student(args: argparse.Namespace, teacher: FluxPipeline, world: World) -> dict:
    student = load_pipeline(args.assets / "student", dtype=torch.float32)
    student.set_progress_bar_config(disable=True)
    scales = {"image": args.image_guidance, "text": args.text_guidance, "teacher": args.guidance}
    figures, grid = measure_student(student, teacher, world, min(args.count, 200), scales)
    grid.save(args.out / "student.png")
    return figures


def measure_vae(model: torch.nn.Module, panel: int) -> float:
    images = [draw(*scenes.family(vae.TEST_SEED + 3, i)[0], panel) for i in range(500)]
    return vae.vae_psnr(model, vae.to_tensor(np.stack([np.asarray(p) for p in images])).to(model.device))


if __name__ == "__main__":
    main()
