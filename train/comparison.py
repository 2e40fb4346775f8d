"""The work of `train.evaluate`: draw the same cases in several ways, and score them with the same scorer."""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dsd.evaluation import scores, validation
from dsd.evaluation.scores import Draw, Interval, Scores
from dsd.evaluation.tasks import by_multiplying
from dsd.evaluation.validation import Benchmark
from dsd.files import contact_sheet, hub, jsonl, whole
from dsd.generate.drawing import public_name
from dsd.grids.recipes import RELIGHT
from dsd.grids.teacher import SETTINGS, load_teacher
from dsd.model import checkpoint, presets
from dsd.model.pipeline import DSDPipeline

# The rows that are not checkpoints.
TEACHER, TRUTH, COPY, CHANCE = "teacher, prompted", "truth (ceiling)", "copy of the reference", "chance"
MULTIPLIED = "the reference, its colors multiplied"
RECORDED = (
    "task subjects prompts seed steps image_guidance text_guidance teacher_guidance batch base size".split()
)


def compare(args: argparse.Namespace) -> str:
    """Draw, score and write everything, and return the page of tables."""
    sources = label(args.checkpoints)
    for source in sources.values():
        if not Path(source).is_file():  # anything but a LoRA file must be a complete model
            hub.check_source(checkpoint.resolve(source).base)
    with whole.locked(args.out / "scores"):  # fails before hours of drawing if it cannot be written
        whole.sweep(args.out)
        return _compare(args, sources)


def _compare(args: argparse.Namespace, sources: dict[str, str]) -> str:
    args.device = args.device or checkpoint.best_device()
    what = args.images or validation.CRITTERS
    sizes = {
        "subjects": args.subjects,
        "prompts": args.prompts,
        "seed": args.seed,
        "size": args.size,
        "task": args.task,
    }
    networks = {"identity": args.dino, "clip": args.clip, "device": args.device}
    with redirect_stdout(sys.stderr):  # loading prints messages; stdout is for the table
        benchmark = validation.open_benchmark(what, **sizes, **networks)
    results = _draw_all(args, sources, benchmark)
    page = report(results, benchmark)
    _write(args, results, benchmark, page)
    return page


def label(checkpoints: list[str]) -> dict[str, str]:
    """Map row names to sources: the labels, as in `judged=runs/judged`, or else the sources themselves."""
    sources: dict[str, str] = {}
    for item in checkpoints:
        name, sign, source = item.partition("=")
        if not sign:
            name, source = public_name(item), item
        if not name or name in (TEACHER, TRUTH, COPY, MULTIPLIED, CHANCE) or name in sources:
            error = f"two rows cannot both be called {name!r}: write LABEL={source} to name this one"
            raise ValueError(error)
        sources[name] = source
    return sources


def _draw_all(args: argparse.Namespace, sources: dict[str, str], benchmark: Benchmark) -> dict[str, Scores]:
    """Return the scores of each row; only one model is in memory at a time."""
    results: dict[str, Scores] = {}

    def add(name: str, draw: Draw, *, described: bool = False) -> None:
        with tqdm(total=len(benchmark.cases), desc=name, unit="image") as bar:
            batches = validation.in_batches(draw, args.batch, on_done=bar.update)
            results[name] = benchmark.evaluate(batches, described=described)

    for name, source in sources.items():
        draw = _open_student(source, args)
        add(name, draw)
        if args.described:
            add(f"{name}, full caption", draw, described=True)
        del draw
    if teacher := args.teacher or (None if args.images else "pocket"):
        add(TEACHER, _open_teacher(teacher, args), described=True)
    add(COPY, validation.by_copying)
    if args.task == RELIGHT.task:
        add(MULTIPLIED, by_multiplying(benchmark.cases))
    return results


def _open_student(source: str, args: argparse.Namespace) -> Draw:
    pipe = open_student(source, base=args.base, device=args.device)
    scales = {"image_guidance": args.image_guidance, "text_guidance": args.text_guidance}
    return _keep_images(args, validation.by_student, pipe, steps=args.steps, **scales)


def _open_teacher(source: str, args: argparse.Namespace) -> Draw:
    like = None if source in SETTINGS else args.teacher_like
    teacher = load_teacher(source, like=like, guidance=args.teacher_guidance, device=args.device)
    scales = {"guidance": teacher.settings.guidance}
    return _keep_images(args, validation.by_teacher, teacher.pipe, steps=args.steps, **scales)


def _keep_images(args: argparse.Namespace, way: Callable[..., Draw], pipe, **settings: float) -> Draw:
    """Return a `Draw` that does not draw again what an earlier run of the command left in its folder."""
    name = f"{way.__name__} {checkpoint.model_hash(pipe)} {settings | {'batch': args.batch}}"
    return validation.save_in(args.out / "images", name, way(pipe, **settings))


def open_student(source: str, *, base: str, device: str) -> DSDPipeline:
    """Open a complete pipeline, or weights (LoRA file or folder) on `base`."""
    is_local = source not in presets.PRESETS and Path(source).exists()
    is_whole = not is_local or Path(source, "model_index.json").exists()
    name, weights = (source, None) if is_whole else (base, source)
    dtype = torch.float32 if device == "cpu" else None  # half precision is slow on a CPU
    pipe = checkpoint.load_pipeline(name, weights=weights, dtype=dtype, device=device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def report(results: dict[str, Scores], benchmark: Benchmark) -> str:
    """Return the Markdown page: scores, differences from the first checkpoint, and a legend."""
    measures, levels = benchmark.scorer.measures, benchmark.levels
    subjects = len({case.subject for case in benchmark.cases})
    means = {name: result.means for name, result in results.items()}
    if levels.ceiling:
        means[TRUTH] = levels.ceiling
    means[CHANCE] = levels.chance
    first, *others = (name for name in results if name != COPY)
    parts = [
        f"{subjects} subjects, {len(benchmark.cases)} images each; means, 95 % intervals over subjects",
        scores.table(means, measures),
    ]
    if others:
        differences = {name: scores.difference(results[name], results[first]) for name in others}
        parts += [f"Difference from {first}, case by case:", scores.table(differences, measures)]
    return "\n\n".join([*parts, benchmark.legend])


def _write(args: argparse.Namespace, results: dict[str, Scores], benchmark: Benchmark, page: str) -> None:
    settings = {name: getattr(args, name) for name in RECORDED} | {"photographs": bool(args.images)}
    write_results(args.out, settings, results, benchmark, page)


def write_results(
    out: Path, settings: dict[str, Any], results: dict[str, Scores], benchmark: Benchmark, page: str
) -> None:
    """Write scores, tables and samples into the folder, replacing those of earlier runs."""
    about = {
        "settings": settings,
        "torch": torch.__version__,
        "measures": [asdict(measure) for measure in benchmark.scorer.measures],
        "chance": _round(benchmark.levels.chance),
        "ceiling": _round(benchmark.levels.ceiling),
        "scores": {name: _round(result.means) for name, result in results.items()},
    }
    lines = []
    for name, result in results.items():
        for case, row in zip(benchmark.cases, result.rows, strict=True):
            image = {"way": name, "subject": case.subject, "prompt": case.prompt, "seed": case.seed}
            lines.append(json.dumps(image | row).encode() + b"\n")
    images = {name: result.images for name, result in results.items() if name != COPY}
    samples = validation.sample_sheet(benchmark.cases, images)
    jsonl.write_atomic(out / "scores.json", json.dumps(about, indent=2).encode())
    jsonl.write_atomic(out / "scores.md", page.encode() + b"\n")
    jsonl.write_atomic(out / "images.jsonl", b"".join(lines))
    jsonl.write_atomic(out / "samples.png", contact_sheet.png(samples))


def _round(means: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {
        name: {end: round(value, 4) for end, value in mean._asdict().items()} for name, mean in means.items()
    }
