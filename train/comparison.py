"""The work of `train.evaluate`: draw the same cases in several ways, and score them with the same scorer."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import PartialState
from diffusers import DiffusionPipeline
from tqdm import tqdm

from dsd.evaluation import benchmarks, judged, results, scores, validation
from dsd.evaluation.results import CHANCE, COPY, MULTIPLIED, TEACHER, TRUTH, VAE, Comparison
from dsd.evaluation.scores import Draw
from dsd.evaluation.tasks import by_multiplying
from dsd.evaluation.validation import Benchmark
from dsd.files import hub, jsonl
from dsd.generate.drawing import public_name
from dsd.grids.recipes import RELIGHT
from dsd.grids.teacher import SETTINGS, load_teacher
from dsd.model import checkpoint, presets
from dsd.model.checkpoint import weights_hash
from dsd.model.pipeline import DSDPipeline
from dsd.model.presets import choose
from dsd.model.sampling import is_stochastic
from dsd.vlm.open import VLM, open_vlm
from dsd.vlm.recorded import Recorded
from train import blocks

RECORDED = "task subjects prompts seed steps teacher_guidance batch base size quantize".split()
RESERVED = (TEACHER, TRUTH, COPY, MULTIPLIED, CHANCE, VAE)  # names of rows that are not checkpoints
FULL = ", full caption"  # ends the name of a row that --described adds
OF_JUDGE = {  # flag -> option of dsd.vlm.open
    "judge_model": "model", "key": "key", "in_flight": "in_flight", "budget": "budget",
    "max_tokens": "max_tokens", "device": "device",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Way:
    """One row of the comparison."""

    name: str
    draw: Draw
    key: str  # identifies weights and settings
    described: bool = False  # whether it is asked with the full caption


def compare(args: argparse.Namespace) -> str:
    """Draw, score and write everything, and return the page of tables, "" in all but the main process."""
    sources = label(args.checkpoints)
    for source in sources.values():
        if not Path(source).is_file():  # anything but a LoRA file must be a complete model
            hub.check_source(checkpoint.resolve(source).base)
    blocks.join()
    args.device = args.device or blocks.own_device()
    with blocks.locked(args.out / "scores"):  # fails before hours of drawing if it cannot be written
        return _compare(args, sources)


def _compare(args: argparse.Namespace, sources: dict[str, str]) -> str:
    sizes = {name: getattr(args, name) for name in ("task", "subjects", "prompts", "seed", "size")}
    networks = {"identity": args.dino, "clip": args.clip, "device": args.device}
    with redirect_stdout(sys.stderr):  # loading prints messages; stdout is for the table
        open_judge = _open_judge(args, sources) if args.judge else None
        what = args.images or validation.CRITTERS
        benchmark = validation.open_benchmark(what, **sizes, **networks, open_judge=open_judge)
    settings = {name: getattr(args, name) for name in RECORDED} | {"photographs": bool(args.images)}
    settings["prompts"] = max(Counter(case.subject for case in benchmark.cases).values())
    found = Comparison(benchmark=benchmark, settings=settings)
    for way in _open_ways(args, sources, benchmark):
        _measure(args, found, way)
        del way  # before the next model is loaded
    if not PartialState().is_main_process:
        return ""
    page = results.tables(found)
    results.write(args.out, found, page)
    return page


def label(checkpoints: list[str]) -> dict[str, str]:
    """Map row names to sources: the labels, as in `judged=runs/judged`, or else the sources themselves."""
    sources: dict[str, str] = {}
    for item in checkpoints:
        name, sign, source = item.partition("=")
        if not sign:
            name, source = public_name(item), item
        if not name or name in RESERVED or name in sources or name.endswith(FULL):
            error = f"two rows cannot both be called {name!r}: write LABEL={source} to name this one"
            raise ValueError(error)
        sources[name] = source
    return sources


# ---------------------------------------------------------------- the judge


def _open_judge(args: argparse.Namespace, sources: dict[str, str]) -> Callable[[], VLM]:
    """Return a function that opens the judge with its recorded answers; its cost is confirmed first."""
    if not args.images:
        raise ValueError("--judge scores photographs, so it needs --images FOLDER: critters have a scorer")
    validation.check_task(args.task, args.images)  # before anybody is asked about the cost
    state, is_remote = PartialState(), "://" in args.judge
    cases = benchmarks.read(args.images, args.prompts, size=args.size).cases
    # beside the students: copies, reconstructions, and other subjects for the level of chance
    ways = len(sources) * (1 + args.described) + bool(args.teacher) + 3
    if state.is_main_process:
        confirm_cost(judged.estimate(cases, ways), args, is_remote=is_remote)
    options = {option: getattr(args, flag) for flag, option in OF_JUDGE.items()}
    if options["budget"]:  # divided, so that all processes together stay within it
        options["budget"] //= state.num_processes
    vlm = open_vlm(args.judge, **options | {"device": None if is_remote else args.device})
    return lambda: Recorded(vlm, args.out, state.process_index)


def confirm_cost(cost: judged.Estimate, args: argparse.Namespace, *, is_remote: bool) -> None:
    """Print what the judge will be asked; raise ValueError unless the user agrees to pay a server for it."""
    price = f", about ${cost.dollars(*args.price):,.2f}" if args.price else ""
    print(f"the judge gets at most {cost}{price}; what was answered before is free", file=sys.stderr)
    if args.yes or not is_remote:
        return
    if PartialState().num_processes > 1 or not sys.stdin.isatty():
        raise ValueError("the server's answers may cost money: add --yes to the command if that is right")
    print("Continue? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("nothing was asked: the cost was not confirmed with y")


# ---------------------------------------------------------------- drawing


def _open_ways(args: argparse.Namespace, sources: dict[str, str], benchmark: Benchmark) -> Iterator[Way]:
    """Yield the rows in order; only one model is in memory at a time."""
    vae = None
    for name, source in sources.items():
        pipe = open_student(source, base=args.base, device=args.device, quantize=args.quantize)
        settings = {"steps": args.steps, **choose(vars(args), pipe.scales)}
        yield (student := _way(args, name, validation.by_student, pipe, **settings))
        if args.described:
            yield replace(student, name=f"{name}{FULL}", described=True)
        vae = vae or _reconstruction(args, pipe)
        del pipe, student
    if teacher := args.teacher or (None if args.images else "pocket"):
        yield _open_teacher(args, teacher)
    yield vae
    yield Way(name=COPY, draw=validation.by_copying, key="none")
    if args.task == RELIGHT.task:
        yield Way(name=MULTIPLIED, draw=by_multiplying(benchmark.cases), key="none")


def _open_teacher(args: argparse.Namespace, source: str) -> Way:
    like = None if source in SETTINGS else args.teacher_like
    way = {"device": args.device, "quantize": args.quantize}
    teacher = load_teacher(source, like=like, guidance=args.teacher_guidance, **way)
    scales = {"steps": args.steps, "guidance": teacher.settings.guidance}
    return replace(_way(args, TEACHER, validation.by_teacher, teacher.pipe, **scales), described=True)


def _way(args: argparse.Namespace, name: str, way: Callable[..., Draw], pipe: Any, **settings: float) -> Way:
    """Return a row that does not draw again what an earlier run of the command left in its folder."""
    own = settings | {"batch": args.batch} | ({"quantize": args.quantize} if args.quantize else {})
    key = f"{way.__name__} {part_hashes(pipe)} {own}"
    return Way(name=name, draw=validation.save_in(args.out / "images", key, way(pipe, **settings)), key=key)


def part_hashes(pipe: DiffusionPipeline) -> dict[str, str]:
    """Return the hash of each part's weights, any of which changes the images, and the kind of solver."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    note = {"scheduler": "stochastic"} if is_stochastic(pipe.scheduler) else {}
    return {name: weights_hash(part) for name, part in sorted(parts.items())} | note


def _reconstruction(args: argparse.Namespace, pipe: DSDPipeline) -> Way:
    """Return the row of the references as the first student's VAE decodes them."""
    key = f"vae {weights_hash(pipe.vae)} {pipe.frame} {args.batch}"
    draw = validation.by_reconstructing(
        SimpleNamespace(vae=pipe.vae, image_processor=pipe.image_processor), *pipe.frame
    )
    return Way(name=VAE, draw=validation.save_in(args.out / "images", key, draw), key=key)


def _measure(args: argparse.Namespace, found: Comparison, way: Way) -> None:
    """Draw a row, shared between all processes, and score it in the main process."""
    benchmark, state = found.benchmark, PartialState()
    if state.num_processes > 1:
        _draw_share(args, benchmark, way)
        blocks.wait_for_all()
    if not state.is_main_process:
        return
    with tqdm(total=len(benchmark.cases), desc=way.name, unit="image") as bar:
        batches = validation.in_batches(way.draw, args.batch, on_done=bar.update)
        found.results[way.name] = benchmark.evaluate(batches, described=way.described)
    found.models[way.name] = way.key
    if way.described:
        found.described.add(way.name)


def _draw_share(args: argparse.Namespace, benchmark: Benchmark, way: Way) -> None:
    """Draw this process's batches to disk, and have the judge, if any, score them there."""
    state = PartialState()
    place = {"process": state.process_index, "processes": state.num_processes}
    for block in jsonl.split_blocks([*range(len(benchmark.cases))], batch=args.batch, **place):
        cases = [benchmark.cases[index] for index in block]
        images = way.draw(*scores.requests(cases, described=way.described))
        if args.judge:
            benchmark.scorer.score(cases, images)  # the answers are recorded


def open_student(source: str, *, base: str, device: str, quantize: str | None = None) -> DSDPipeline:
    """Open a complete pipeline, or weights (LoRA file or folder) on `base`."""
    is_local = source not in presets.PRESETS and Path(source).exists()
    is_whole = not is_local or Path(source, "model_index.json").exists()
    name, weights = (source, None) if is_whole else (base, source)
    dtype = torch.float32 if device == "cpu" else None  # half precision is slow on a CPU
    pipe = checkpoint.load_pipeline(name, weights=weights, dtype=dtype, device=device, quantize=quantize)
    pipe.set_progress_bar_config(disable=True)
    return pipe
