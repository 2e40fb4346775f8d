"""Select and caption pairs of panels that show one subject: `python -m train.curate RUN --judge pocket`.

Compare all panels of each grid in RUN/grids, ask the judge about the pairs that are neither too different
nor too alike, and write RUN/pairs.jsonl, then RUN/captions.jsonl for the pairs that are kept. You can stop
it at any time and run the same command again to continue. `accelerate launch -m train.curate RUN ...` shares
the grids between processes.

--grade measures how good a judge is, --worth measures the effect of curation on a run, --against compares a
run with that of the turn before, and --redecide applies other thresholds to a run that was judged before.
"""

import argparse
import json
import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from dsd.curation import captions, judge_evaluation, report
from dsd.curation import judge as curation
from dsd.curation.captions import Caption
from dsd.curation.judge import Pair
from dsd.curation.judge_evaluation import GradedPair
from dsd.curation.readable import Readable, ask_again
from dsd.curation.verdict import SAME, Thresholds, own_thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.generate.command import quiet
from dsd.generate.flags import flag, refuse_unused
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.recipes import CRITTERS, RANKER, RECIPES
from dsd.vlm.open import VLM, open_vlm
from train import command
from train.blocks import KEPT, join, locked, place, record_answers, say, stage, wait_for_all

if TYPE_CHECKING:
    from dsd.vlm.embed import ImageEmbedder

LIMITS = {  # field of Thresholds -> type and help
    "floor": (float, "minimum similarity of a kept pair (0.5, or its recipe's own)"),
    "ceiling": (float, "maximum similarity of a kept pair (0.98, or its recipe's own)"),
    "minimum_score": (int, "minimum score of each part of a kept pair, 0-4 (3)"),
}
OF_JUDGE = {  # option of dsd.vlm.open -> type and help
    "judge_batch": (int, "questions per batch for a judge on this machine (its preset's, or 8)"),
    "max_tokens": (int, "maximum tokens of an answer (512)"),
    "temperature": (float, "sampling temperature of the votes after the first two (0.7)"),
    "model": (str, "model name, on a server that has several"),
    "key": (str, "environment variable that holds the server's key (DSD_VLM_KEY)"),
    "in_flight": (int, "requests sent to a server at a time (32)"),
    "timeout": (float, "seconds to wait for one answer (120)"),
    "retries": (int, "maximum retries of one request after transient errors (5)"),
    "patience": (float, "seconds to retry while the server is down or limits the rate (1800)"),
    "budget": (int, "maximum requests to a server in total, retries included (no limit)"),
}
ASK = ("judge", "embedder", "recipe", "batch", "no_captions", "tokenizer", *OF_JUDGE)
DECIDE = ("votes", *LIMITS)
UNUSED = {  # mode -> flags without effect
    "grade": ("embedder", "no_captions", "tokenizer"),
    "redecide": ASK,
    "worth": ASK + DECIDE,
    "against": ASK + DECIDE,
}


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, nargs="?", help="folder of the run")
    add("--judge", metavar="MODEL", help="judge: pocket, a folder, a hub id, or a server's http://host/v1")
    text = "similarity model: judge (its vision encoder), ranker (pocket's, which reads traits), none, or an "
    text += "image encoder (folder or hub id); ranker for critters, else judge"
    add("--embedder", metavar="MODEL", help=text)
    add("--recipe", choices=RECIPES, help="recipe of the judge's questions (the grids' own)")
    text = "keep pairs with at least K of N votes for `same` (1 1)"
    add("--votes", type=int, nargs=2, metavar=("K", "N"), help=text)
    add("--batch", type=int, default=16, help="grids judged and written together (16)")
    add("--no-captions", action="store_true", help="judge without writing captions")
    add("--tokenizer", metavar="FOLDER", help="tokenizer that counts caption tokens (the generator's)")
    add_mode = parser.add_mutually_exclusive_group().add_argument
    add_mode("--grade", action="store_true", help="grade the judge on drawn pairs whose truth is known")
    add_mode("--worth", action="store_true", help="compare true pairs before and after curation")
    text = "compare RUN with the judged run of the turn before: keep rate, true pairs, diversity"
    add_mode("--against", type=Path, metavar="RUN", help=text)
    add_mode("--redecide", action="store_true", help="apply other thresholds without the judge")
    add("--count", type=int, default=2000, help="number of pairs for --grade (2000)")
    add("--out", type=Path, metavar="FOLDER", help="folder for the results of --grade")
    add("--size", type=int, help="side of an image for --grade, in pixels (the embedded model's)")
    add("--device", help="cpu, cuda or mps; the best available by default")
    for name, (kind, text) in {**LIMITS, **OF_JUDGE}.items():
        add(f"--{name.replace('_', '-')}", type=kind, help=text)
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; end the command with one line if they are wrong or have no effect."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.grade:
        refuse_unused(parser, args, ("count", "out", "size"), without="--grade")
    for mode, names in UNUSED.items():
        if getattr(args, mode):
            refuse_unused(parser, args, names, beside=flag(mode))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    quiet()
    join()
    logging.getLogger("dsd").setLevel(logging.WARNING)  # for example that a server cannot be reached
    if args.grade:
        return _grade(args)
    if args.run is None:
        raise ValueError("no run given: name its folder, as in python -m train.curate RUN --judge pocket")
    works = {_worth: args.worth, _compare: args.against, _redecide: args.redecide}
    work = next((work for work, is_asked in works.items() if is_asked), _curate)
    with locked(args.run / "pairs") if args.run.is_dir() else nullcontext():
        work(args)
    return 0


def _read_thresholds(args: argparse.Namespace, default: Thresholds) -> Thresholds:
    changes = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if args.votes:
        changes["needed"], changes["votes"] = args.votes
    return Thresholds(**{**vars(default), **changes})


def _open_judge(args: argparse.Namespace) -> VLM:
    if not args.judge:
        raise ValueError("no judge given: use --judge pocket, a folder, a hub id, or http://host/v1")
    options = {name: getattr(args, name) for name in (*OF_JUDGE, "device")}
    options["batch"] = options.pop("judge_batch")
    if options["budget"]:  # divided, so that all processes together stay within it
        options["budget"] //= place().num_processes
    return open_vlm(args.judge, **options)


def _open_embedder(name: str, vlm: VLM, device: str | None) -> "ImageEmbedder | None":
    if name == "none":
        return None
    if name == RANKER:
        from dsd.pocket.embedding import open_critter_embedder

        return open_critter_embedder(device)
    from dsd.vlm.embed import open_embedder

    return open_embedder(name, vlm=vlm, device=device)


def _curate(args: argparse.Namespace) -> None:
    usable, judge = _read_grids(args.run), _open_judge(args)
    with record_answers(judge, args.run) as answering:
        pairs = _judge_run(args, usable, judge, answering)
        if not args.no_captions:
            _caption(args, answering, usable, pairs)


def _judge_run(args: argparse.Namespace, usable: dict[str, Grid], judge: VLM, answering: VLM) -> list[Pair]:
    """Judge all pairs of a run and return them; `answering` is the judge, with its answers recorded."""
    path, readable = args.run / "pairs.jsonl", Readable()
    drawn = {grid.recipe for grid in usable.values()}
    recipes = {args.recipe} if args.recipe else drawn
    curation.find_one_task(recipes | drawn & RECIPES.keys())  # raises for several tasks
    recipe = curation.find_one_task(drawn & RECIPES.keys() or recipes)  # says what kind of images these are
    thresholds = _read_thresholds(args, own_thresholds(recipe, args.embedder))
    embedder = _open_embedder(args.embedder or recipe.embedder, judge, args.device)
    _check_settings(path, judge, recipes, thresholds, embedder.name if embedder else None)
    options = {"thresholds": thresholds, "embedder": embedder, "run": args.run, "recipe": args.recipe}

    def write(new: list[Pair]) -> None:
        share.write(new)
        readable.add(new)
        readable.check()

    about = {"batch": args.batch, "unit": "pair", "item_of": curation.grid_of, "outcome_of": _outcome}
    with stage(path, usable, rows_of=lambda grid: math.comb(grid.rows * grid.columns, 2), **about) as share:
        for block in share.blocks:
            curation.judge_grids(block, vlm=answering, on_grid=write, **options)
        readable.check(at_end=True)
    pairs = curation.read_pairs(args.run)
    asked = f"this process asked {readable.questions} questions"
    say(*report.summary(pairs), f"{asked}, {share.speed:.1f} pairs/s")
    return pairs


def _outcome(row: Row) -> str:
    """Return what becomes of a judged pair, for the progress bar."""
    return KEPT if row["reason"] == SAME else row["reason"]


def _check_settings(
    path: Path, judge: VLM, recipes: set[str], thresholds: Thresholds, embedder: str | None
) -> None:
    """Let a run that was stopped ask again; check that all other rows were made with these settings."""
    if place().is_main_process and (count := ask_again(path)):
        say(f"asking again about {count} pairs whose answers were refused or could not be read")
    wait_for_all()
    settings = {"judge": judge.name, "judge_hash": judge.weights, "embedder": embedder}
    if len(recipes) == 1:  # with several recipes, each grid is judged by its own
        settings["recipe"] = recipes.pop()
    curation.check_settings(path, thresholds=thresholds, **settings)


def _read_grids(run: Path) -> dict[str, Grid]:
    all_grids = grids.read_grids(run)
    usable = {grid.id: grid for grid in all_grids if not grid.rejected}
    if not usable:
        reason = f"all {len(all_grids)} grids were rejected" if all_grids else "there are no grids"
        raise RunError(f"nothing to judge in {run}: {reason}; run train.grids to draw some")
    return usable


def _caption(args: argparse.Namespace, judge: VLM, usable: dict[str, Grid], pairs: list[Pair]) -> None:
    kept: dict[str, list[tuple[int, int]]] = {}
    for pair in pairs:
        if pair.is_kept and pair.grid in usable:
            kept.setdefault(pair.grid, []).append((pair.first, pair.second))
    if not kept:
        return say("no pair was kept, so there is nothing to caption")
    items = {name: grid for name, grid in usable.items() if name in kept}
    tokenizer = args.tokenizer or captions.tokenizer_of_model(next(iter(items.values())).generator)
    options = {"run": args.run, "vlm": judge, "count": captions.counter(tokenizer), "recipe": args.recipe}
    path, about = args.run / "captions.jsonl", {"batch": args.batch, "unit": "caption"}
    about |= {"item_of": curation.grid_of, "rows_of": lambda grid: 2 * len(kept[grid.id])}
    with stage(path, items, **about) as share:
        for block in share.blocks:
            share.write(captions.caption_grids(block, kept, **options))
    rows = jsonl.read_records(path, Caption)
    method = "counted" if tokenizer else "estimated, because the generator's tokenizer is not on this machine"
    cut = sum(caption.cut for caption in rows)
    own = sum(caption.writer == captions.GRID for caption in rows)
    say(
        f"{len(rows)} captions, {cut} of them cut to 77 tokens ({method}), {own} in the grid's own words",
        f"{share.speed:.1f} captions/s in this process",
    )


def _redecide(args: argparse.Namespace) -> None:
    old = curation.read_pairs(args.run)[0].thresholds
    pairs = curation.redecide(args.run, _read_thresholds(args, old))
    say(*report.summary(pairs), "run train.curate with these thresholds, without --redecide, to caption them")


def _worth(args: argparse.Namespace) -> None:
    from dsd.evaluation.benefit import measure_benefit
    from dsd.pocket import scorer

    with tqdm(unit="grid") as bar:
        shares = measure_benefit(args.run, scorer.load(), on_grids=bar.update)
    jsonl.write_atomic(args.run / "worth.json", json.dumps(shares, indent=1).encode())
    say(report.worth_page(shares))


def _compare(args: argparse.Namespace) -> None:
    from dsd.evaluation import turns
    from dsd.pocket import scorer

    with tqdm(unit="grid") as bar:
        found = turns.compare(args.against, args.run, scorer.load(), on_grids=bar.update)
    jsonl.write_atomic(args.run / "turns.json", json.dumps(found, indent=1).encode())
    say(turns.page(found))


def _grade(args: argparse.Namespace) -> int:
    """Judge the drawn pairs that are not judged yet, and write how often the judge errs into `args.out`."""
    if args.out is None or args.run is not None:
        raise ValueError("--grade grades a judge, not a run: leave out RUN, and give --out FOLDER")
    if args.count < 16 or args.count % 2:
        raise ValueError(f"--count must be even and at least 16, got {args.count}")
    if args.recipe and curation.find_recipe(args.recipe).changes:
        raise ValueError(f"--grade has no drawn pairs for the changes of {args.recipe}: use --worth on a run")
    path, items = args.out / "graded.jsonl", {f"{index:06}": index for index in range(args.count)}
    settings = {"recipe": args.recipe or CRITTERS.name, "seed": judge_evaluation.SEED, "size": args.size}
    settings["thresholds"] = _read_thresholds(args, Thresholds())
    with locked(args.out / "grades"), record_answers(judge := _open_judge(args), args.out) as answering:
        curation.check_settings(path, judge=judge.name, judge_hash=judge.weights, **settings)
        with stage(path, items, batch=4 * args.batch, unit="pair", outcome_of=_outcome) as share:
            for block in share.blocks:
                share.write(judge_evaluation.judge_drawn(block, vlm=answering, **settings))
    if place().is_main_process:
        _write_grades(args.out, jsonl.read_records(path, GradedPair)[: args.count])
    say("", f"{share.speed:.1f} pairs/s in this process; see {args.out}")
    return 0


def _write_grades(out: Path, pairs: list[GradedPair]) -> None:
    grades = judge_evaluation.grades(pairs)
    page = report.markdown(grades)
    jsonl.write_atomic(out / "grades.json", json.dumps(grades, indent=1).encode())
    jsonl.write_atomic(out / "grades.md", f"{page}\n\n![How often the judge errs](grades.png)\n".encode())
    jsonl.write_atomic(out / "grades.png", report.chart(grades))
    print(page)


if __name__ == "__main__":
    command.run(main)
