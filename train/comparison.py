"""The work of `train.evaluate`: draw the same cases in several ways, and score them with the same scorer."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from dsd.evaluation import scores, validation
from dsd.evaluation.scores import Case, Draw, Interval, Scorer, Scores
from dsd.files import contact_sheet, hub, jsonl
from dsd.grids.teacher import SETTINGS, load_teacher
from dsd.model import checkpoint, presets
from dsd.model.pipeline import DSDPipeline
from train import drawn
from train.row_names import CHANCE, COPY, TEACHER, TRUTH


@dataclass(frozen=True)
class Ground:
    """The cases, scorer and reference levels that all ways of drawing share."""

    cases: list[Case]
    scorer: Scorer
    levels: scores.Levels


def compare(args: argparse.Namespace, named: dict[str, str]) -> str:
    """Draw, score and write everything, and return the page of tables."""
    for source in named.values():
        if not Path(source).is_file():  # anything but a LoRA file must be a complete model
            hub.check_source(checkpoint.resolve(source).base)
    with jsonl.explained(args.out):  # fail before hours of drawing, not after
        args.out.mkdir(parents=True, exist_ok=True)
    args.device = args.device or checkpoint.best_device()
    ground = stand(args)
    results = draw_all(args, named, ground)
    page = report(results, ground)
    write(args, results, ground, page)
    return page


def stand(args: argparse.Namespace) -> Ground:
    """Return the cases, their scorer, and the scores of chance and of the truth on them."""
    if args.images:
        from dsd.evaluation.photographs import PhotographScorer, read_cases

        cases: list[Case] = read_cases(args.images, args.prompts, size=args.size)
        scorer: Scorer = PhotographScorer(args.dino, args.clip, device=args.device)
    else:
        from dsd.evaluation.critters import CritterScorer, validation_set

        cases = validation_set(args.seed, args.subjects, args.prompts)
        with redirect_stdout(sys.stderr):  # loading prints messages; stdout is for the table
            scorer = CritterScorer()
    return Ground(cases, scorer, scores.measure_levels(cases, scorer))


def draw_all(args: argparse.Namespace, named: dict[str, str], ground: Ground) -> dict[str, Scores]:
    """Return the scores of each row; only one model is in memory at a time."""
    results: dict[str, Scores] = {}
    for name, source in named.items():
        results |= _student_rows(name, _student(source, args), ground, described=args.described)
    if teacher := args.teacher or (None if args.images else "pocket"):
        results[TEACHER] = _score(TEACHER, _teacher(teacher, args), ground, described=True)
    results[COPY] = _score(COPY, lambda on_done: validation.by_copying, ground)
    return results


def _student_rows(
    name: str, way: Callable[..., Draw], ground: Ground, *, described: bool
) -> dict[str, Scores]:
    asked = {name: False, f"{name}, full caption": True} if described else {name: False}
    return {row: _score(row, way, ground, described=told) for row, told in asked.items()}


def _score(name: str, way: Callable[..., Draw], ground: Ground, *, described: bool = False) -> Scores:
    with tqdm(total=len(ground.cases), desc=name, unit="image") as bar:
        draw = way(on_done=bar.update)
        return scores.evaluate(draw, ground.cases, ground.scorer, described=described, levels=ground.levels)


def _student(source: str, args: argparse.Namespace) -> Callable[..., Draw]:
    pipe = open_student(source, base=args.base, device=args.device)
    settings = {name: getattr(args, name) for name in ("steps", "image_guidance", "text_guidance", "batch")}
    return _resumed(validation.by_student, pipe, settings, args.out)


def _teacher(source: str, args: argparse.Namespace) -> Callable[..., Draw]:
    like = None if source in SETTINGS else args.teacher_like
    teacher = load_teacher(source, like=like, guidance=args.teacher_guidance, device=args.device)
    settings = {"steps": args.steps, "guidance": teacher.settings.guidance, "batch": args.batch}
    return _resumed(validation.by_teacher, teacher.pipe, settings, args.out)


def _resumed(
    way: Callable[..., Draw], pipe: DiffusionPipeline, settings: dict[str, Any], out: Path
) -> Callable[..., Draw]:
    """Wrap `way` so that it does not redraw images that an earlier run of the command left in `out`."""
    name = f"{way.__name__} {checkpoint.model_hash(pipe)} {settings}"

    def resumed(on_done: Callable[[int], object]) -> Draw:
        draw = way(pipe, **settings, on_done=on_done)
        return drawn.kept(draw, out / "images", name, batch=settings["batch"], on_done=on_done)

    return resumed


def open_student(source: str, *, base: str, device: str) -> DSDPipeline:
    """Open a complete pipeline, or weights (LoRA file or folder) on `base`.

    On a CPU it runs in float32, because half precision is slow there.
    """
    dtype = torch.float32 if device == "cpu" else None
    whole = (
        source in presets.PRESETS or not Path(source).exists() or Path(source, "model_index.json").exists()
    )
    name, weights = (source, None) if whole else (base, source)
    pipe = checkpoint.load_pipeline(name, weights=weights, dtype=dtype, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---------------------------------------------------------------- report and files


def report(results: dict[str, Scores], ground: Ground) -> str:
    """Return the markdown page: scores, differences from the first checkpoint, and a legend."""
    measures, levels = ground.scorer.measures, ground.levels
    subjects = len({case.subject for case in ground.cases})
    means = {name: result.means for name, result in results.items()}
    if levels.ceiling:
        means[TRUTH] = levels.ceiling
    means[CHANCE] = levels.chance
    first, *others = (name for name in results if name != COPY)
    parts = [
        f"{subjects} subjects, {len(ground.cases)} images each; means, 95 % intervals over subjects",
        scores.table(means, measures),
    ]
    if others:
        differences = {name: scores.difference(results[name], results[first]) for name in others}
        parts += [f"Difference from {first}, case by case:", scores.table(differences, measures)]
    return "\n\n".join([*parts, scores.legend(measures, levels)])


KEPT = "subjects prompts seed steps image_guidance text_guidance teacher_guidance batch base size".split()


def write(args: argparse.Namespace, results: dict[str, Scores], ground: Ground, page: str) -> None:
    """Write scores, tables and samples into the folder, replacing those of earlier runs."""
    whole = {
        "settings": {name: getattr(args, name) for name in KEPT} | {"photographs": bool(args.images)},
        "torch": torch.__version__,
        "measures": [asdict(measure) for measure in ground.scorer.measures],
        "chance": _plain(ground.levels.chance),
        "ceiling": _plain(ground.levels.ceiling),
        "scores": {name: _plain(result.means) for name, result in results.items()},
    }
    jsonl.write(args.out / "scores.json", json.dumps(whole, indent=2).encode())
    jsonl.write(args.out / "scores.md", page.encode() + b"\n")
    jsonl.write(args.out / "images.jsonl", b"".join(_lines(results, ground.cases)))
    shown = {name: result.images for name, result in results.items() if name != COPY}
    jsonl.write(args.out / "samples.png", contact_sheet.png(validation.sample_sheet(ground.cases, shown)))


def _plain(means: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {
        name: {end: round(value, 4) for end, value in mean._asdict().items()} for name, mean in means.items()
    }


def _lines(results: dict[str, Scores], cases: list[Case]) -> Iterator[bytes]:
    """Yield one line of JSON per image, for closer inspection."""
    for name, result in results.items():
        for case, row in zip(cases, result.rows, strict=True):
            about = {"way": name, "subject": case.subject, "prompt": case.prompt, "seed": case.seed}
            yield json.dumps({**about, **row}).encode() + b"\n"
