"""Make the figures and sample grids of pocket's card: `python -m train.pocket.measure --out FOLDER`."""

import argparse
import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from PIL import Image

from dsd.evaluation.critters import CritterScorer, make_case
from dsd.evaluation.critters import Scene as CaseScene
from dsd.evaluation.intervals import Interval
from dsd.evaluation.validation import Benchmark, by_student, by_teacher, in_batches, sample_sheet
from dsd.files import whole
from dsd.files.contact_sheet import marked_webp
from dsd.grids import grids
from dsd.grids.prompts import Prompt
from dsd.grids.recipes import CRITTERS
from dsd.grids.teacher import Teacher, load_teacher
from dsd.model.checkpoint import load_pipeline
from dsd.model.presets import ASSETS
from dsd.pocket.draw import draw, draw_grid
from dsd.pocket.scorer import Reading, Scorer, check_context, check_traits, same_identity
from dsd.pocket.words import caption, describe_critter, describe_panel, grid_prompt
from dsd.pocket.world import Context, Critter, sample_context, sample_critter
from train import command
from train.pocket import scenes
from train.pocket.loop import device
from train.pocket.scenes import Scene
from train.pocket.vae import model as vae

SEED, STEPS, BATCH = 5000, 28, 50
TOKEN = 16  # side of the square that one token draws, in pixels: the VAE's 8, two by two
SCORES = {"identity": "identity", "named_traits": "named", "unnamed_traits": "unnamed",
          "context": "following"}  # fmt: skip


@dataclass(frozen=True)
class Models:
    """The teacher that is measured, with the scorer that reads its images."""

    teacher: FluxPipeline
    scorer: Scorer
    panel: int  # side of a panel in pixels
    guidance: float

    def fresh(self, index: int, *, held_out: bool, contexts: int = 1) -> tuple[Critter, list[Context]]:
        """Return scene `index` of the measurements, from a seed that no training uses."""
        rng = np.random.default_rng((SEED, index, held_out))
        return sample_critter(rng, held_out=held_out), [sample_context(rng) for _ in range(contexts)]

    def draw(self, prompts: list[str], side: int, tokens: int) -> list[Image.Image]:
        by_prompt = by_teacher(self.teacher, side=side, tokens=tokens, guidance=self.guidance, steps=STEPS)
        return in_batches(by_prompt, BATCH)(prompts, [], [SEED + i for i in range(len(prompts))])

    def score(self, images: list[Image.Image], wanted: list[Scene], readings: list[Reading]) -> dict:
        """Return, for each trait and part of the context, the share of images that show it, and the looks."""
        rows: dict[str, list[bool]] = {}
        for (critter, context), reading in zip(wanted, readings, strict=True):
            for name, value in {**check_traits(critter, reading), **check_context(context, reading)}.items():
                rows.setdefault(name, []).append(value)
        return {name: share(values) for name, values in rows.items()} | looks(images, wanted, self.panel)


def share(values: list[bool]) -> float:
    return round(float(np.mean(values)), 4)


def looks(images: list[Image.Image], wanted: list[Scene], panel: int) -> dict[str, float]:
    """Return sharpness and token edges of images, relative to renders of the scenes they should show."""
    renders = [draw(*scene, panel) for scene in wanted]
    return {measure.__name__: round(measure(images, renders), 3) for measure in (sharpness, token_edges)}


def sharpness(images: list[Image.Image], renders: list[Image.Image]) -> float:
    """Return the gradient energy of `images` divided by that of `renders`; 1 is as sharp as a render."""
    energies = [np.mean([np.square(step).mean() for step in _steps(group)]) for group in (images, renders)]
    return float(energies[0] / energies[1])


def token_edges(images: list[Image.Image], renders: list[Image.Image]) -> float:
    """Return the ratio of steps across token borders to steps elsewhere, divided by that of `renders`."""
    return _border_ratio(images) / _border_ratio(renders)


def _border_ratio(images: list[Image.Image]) -> float:
    across, elsewhere = [], []
    for steps in _steps(images):  # the direction of the step is the last axis
        border = np.arange(1, steps.shape[-1] + 1) % TOKEN == 0
        across.append(np.abs(steps[..., border]).mean())
        elsewhere.append(np.abs(steps[..., ~border]).mean())
    return float(np.mean(across) / np.mean(elsewhere))


def _steps(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Return differences of neighboring gray values 0..1: along rows [B, H, W - 1], columns [B, W, H - 1]."""
    gray = np.stack([np.asarray(image.convert("L"), np.float32) / 255 for image in images])
    return np.diff(gray, axis=2), np.diff(gray, axis=1).transpose(0, 2, 1)


def measure_vae(model: torch.nn.Module, panel: int) -> float:
    images = np.stack([np.asarray(draw(*scenes.family(vae.TEST_SEED + 3, i)[0], panel)) for i in range(500)])
    return round(vae.vae_psnr(model, vae.to_tensor(images).to(model.device)), 2)


def measure_singles(models: Models, count: int, out: Path) -> dict[str, float]:
    fresh = [models.fresh(i, held_out=False) for i in range(count)]
    wanted = [(critter, contexts[0]) for critter, contexts in fresh]
    tokens = models.teacher.tokenizer_2.model_max_length
    images = models.draw([caption(*scene) for scene in wanted], models.panel, tokens)
    save_grid(images[:40], 8, out / "teacher_singles.webp")
    return models.score(images, wanted, models.scorer.read(images))


def measure_grids(models: Models, count: int, teacher: Teacher, out: Path) -> dict[str, float]:
    """Measure grids that are drawn as `train.grids` draws them."""
    fresh = [models.fresh(i, held_out=False, contexts=4) for i in range(count)]
    prompts = [_grid_prompt(*scene, SEED + i) for i, scene in enumerate(fresh)]
    batches = [prompts[start : start + BATCH] for start in range(0, count, BATCH)]
    images = [image for batch in batches for image in _draw_grids(teacher, batch)]
    save_grid(images[:12], 4, out / "teacher_grids.webp")
    panels = [panel for image in images for panel in grids.panels(image, 2, 2)]
    readings = models.scorer.read(panels)
    fours = [readings[i : i + 4] for i in range(0, len(readings), 4)]
    pairs = [pair for four in fours for pair in combinations(four, 2)]
    agreement = {
        "one_identity_in_all_four": share([same_identity(four) for four in fours]),
        "pairs_that_agree": share([same_identity(pair) for pair in pairs]),
    }
    wanted = [(critter, context) for critter, contexts in fresh for context in contexts]
    return agreement | models.score(panels, wanted, readings)


def _grid_prompt(critter: Critter, contexts: list[Context], seed: int) -> Prompt:
    words = {"subject": describe_critter(critter), "places": [describe_panel(one) for one in contexts]}
    layout = {"rows": 2, "columns": 2, "recipe": CRITTERS.name}
    return Prompt(id=f"{seed}", prompt=grid_prompt(critter, contexts), seed=seed, **words, **layout)


def _draw_grids(teacher: Teacher, prompts: list[Prompt]) -> list[Image.Image]:
    images = teacher.draw(prompts)
    return teacher.refine(images, prompts, list(map(teacher.find_panels, images, prompts)))


def grids_ceiling(models: Models, count: int) -> float:
    """Return the share of rendered, truly consistent grids that the same test accepts."""
    fresh = [models.fresh(i, held_out=False, contexts=4) for i in range(count)]
    fours = [[draw(critter, context, models.panel) for context in contexts] for critter, contexts in fresh]
    return share([same_identity(models.scorer.read(panels)) for panels in fours])


def measure_student(models: Models, args: argparse.Namespace) -> dict[str, object]:
    """Measure student, prompted teacher and true renders on held-out critters."""
    student = load_pipeline(args.assets / "student", dtype=torch.float32)
    student.set_progress_bar_config(disable=True)
    cases = []
    for i in range(min(args.count, 200)):
        critter, (shown, asked) = models.fresh(i, held_out=True, contexts=2)
        scene = CaseScene(critter=critter, reference=shown, target=asked)
        cases.append(make_case(scene, f"{i:04d}", SEED + i, size=models.panel))
    scales = {"image_guidance": args.image_guidance, "text_guidance": args.text_guidance}
    by_reference = in_batches(by_student(student, **scales, steps=STEPS), BATCH)
    settings = {"side": models.panel, "guidance": models.guidance, "steps": STEPS}
    by_words = in_batches(by_teacher(models.teacher, **settings), BATCH)
    benchmark = Benchmark(cases, CritterScorer(models.scorer))
    ways = {
        "student": benchmark.evaluate(by_reference),
        "student_described": benchmark.evaluate(by_reference, described=True),
        "prompted_teacher": benchmark.evaluate(by_words, described=True),
    }
    samples = {"student": ways["student"].images, "teacher": ways["prompted_teacher"].images}
    (args.out / "student.webp").write_bytes(marked_webp(sample_sheet(cases, samples)))
    figures = {name: card_row(scores.means) for name, scores in ways.items()}
    wanted = [(case.facts.critter, case.facts.target) for case in cases]
    student_looks = looks(ways["student"].images, wanted, models.panel)
    return figures | {"true_render": card_row(benchmark.levels.ceiling), "student_looks": student_looks}


def card_row(means: dict[str, Interval]) -> dict[str, list[float]]:
    """Return the mean and 95 % interval of each score in the card."""
    return {title: [round(value, 4) for value in means[name]] for title, name in SCORES.items()}


def save_grid(images: list[Image.Image], columns: int, path: Path) -> None:
    grid = draw_grid(images, min(columns, len(images)))
    scale = max(1, 1024 // grid.width)
    large = grid.resize((scale * grid.width, scale * grid.height), Image.Resampling.BICUBIC)
    path.write_bytes(marked_webp(large))


def build_parser() -> argparse.ArgumentParser:
    about = "Measure the shipped models and draw the sample grids of pocket's card."
    parser = argparse.ArgumentParser("python -m train.pocket.measure", description=about)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for figures.json and the sample grids")
    add("--assets", type=Path, default=ASSETS, help="folder of the models (assets/pocket)")
    add("--count", type=int, default=500, help="single images; half as many grids are drawn (500)")
    add("--guidance", type=float, default=3.0, help="the teacher's true_cfg_scale (3)")
    add("--image-guidance", type=float, help="the student's image guidance scale (its own)")
    add("--text-guidance", type=float, help="the student's text guidance scale (its own)")
    add("--only-singles", action="store_true", help="measure only the teacher's single images")
    return parser


def main() -> None:
    args = build_parser().parse_args()
    with whole.locked(args.out / "figures"):
        _measure(args)


def _measure(args: argparse.Namespace) -> None:
    """Write and print the figures."""
    scorer = Scorer.from_pretrained(args.assets / "scorer").to(device())
    teacher = FluxPipeline.from_pretrained(args.assets / "teacher", dtype=torch.float32).to(device())
    teacher.set_progress_bar_config(disable=True)
    models = Models(teacher, scorer, teacher.vae.config.sample_size // 2, args.guidance)
    figures: dict[str, object] = {"vae_psnr_db": measure_vae(teacher.vae, models.panel)}
    figures["teacher_singles"] = measure_singles(models, args.count, args.out)
    if not args.only_singles:
        count = max(args.count // 2, 10)
        own = {"guidance": args.guidance, "device": device()}
        drawing = load_teacher(str(args.assets / "teacher"), like="pocket", **own)
        figures["teacher_grids"] = measure_grids(models, count, drawing, args.out)
        figures["grids_ceiling"] = grids_ceiling(models, count)
        if (args.assets / "student").exists():
            figures["held_out"] = measure_student(models, args)
    (args.out / "figures.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    command.run(main)
