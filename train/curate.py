"""Find and caption pairs of panels that show one subject: `python -m train.curate RUN --judge pocket`.

Compares all panels of each grid in RUN/grids, asks the judge about the pairs that are neither too different
nor too alike, and writes RUN/pairs.jsonl, then RUN/captions.jsonl for the pairs that are kept. You can stop
it at any time and run the same command again to continue. `accelerate launch -m train.curate RUN ...` shares
the grids between processes.

--grade measures how good a judge is, --worth measures what the curation of a run is worth, and --redecide
applies other thresholds to a run that has already been judged.
"""

import argparse
import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState
from tqdm import tqdm

from dsd.curation import captions, judge_evaluation
from dsd.curation import judge as curation
from dsd.curation import report as grading_page
from dsd.curation.verdict import KEEP, SAME, UNREADABLE, Thresholds
from dsd.files import contact_sheet, jsonl
from dsd.files.jsonl import Row, RunError
from dsd.generate.command import quiet
from dsd.grids import grids
from dsd.grids.recipes import CRITTERS, RECIPES
from dsd.vlm.open import VLM, Request, open_vlm
from train import command
from train.blocks import Stage, join, say

if TYPE_CHECKING:
    from dsd.vlm.embed import Embedder

JUDGES_EYES, NO_EMBEDDER = "judge", "none"
LIMITS = {
    "floor": (float, "least similarity"),
    "ceiling": (float, "greatest similarity"),
    "minimum_score": (int, "least score of every part, 0-4"),
}
OF_JUDGE = {  # option of dsd.vlm.open -> type and help
    "judge_batch": (int, "pairs that a judge on this machine sees at a time"),
    "device": (str, "of a judge on this machine: cpu, cuda, mps; the best there is when left out"),
    "max_tokens": (int, "longest answer (512)"),
    "temperature": (
        float,
        "of the votes after the first two, which are the likeliest answers, one in each order (0.7)",
    ),
    "model": (str, "name of the model, on a server that has several"),
    "key": (str, "name of the environment variable that holds a server's key (DSD_VLM_KEY)"),
    "in_flight": (int, "requests that a server gets at a time (32)"),
    "timeout": (float, "seconds to wait for one answer (120)"),
    "retries": (int, "of one request, on errors that may pass (5)"),
    "patience": (float, "seconds without any answer before giving up (1800)"),
    "budget": (int, "requests to a server in all, retries included"),
}


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, nargs="?", help="folder of the run")
    add("--judge", metavar="MODEL", help="pocket, a folder, a hub id, or a server's http://host/v1")
    looks = "who takes the first look: the judge's own eyes, an image encoder (folder or hub id), or none"
    add("--embedder", default=JUDGES_EYES, metavar="MODEL", help=looks)
    add("--recipe", choices=RECIPES, help="what the judge is asked; the grids' own when left out")
    add("--votes", type=int, nargs=2, metavar=("K", "N"), help="keep what K of N answers call the same (1 1)")
    add("--batch", type=int, default=16, help="grids that are done and written together (16)")
    add("--no-captions", action="store_true", help="only judge")
    add("--tokenizer", metavar="FOLDER", help="counts the captions' tokens; the generator's when left out")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--grade", action="store_true", help="grade the judge on drawn pairs of known truth")
    others.add_argument("--worth", action="store_true", help="true pairs before and after, by the scorer")
    others.add_argument("--redecide", action="store_true", help="apply other thresholds without the judge")
    add("--count", type=int, default=2000, help="pairs to grade on (2000)")
    add("--out", type=Path, metavar="FOLDER", help="where the grades go")
    add("--size", type=int, help="pixels a side of a graded image; default: as the embedded model draws")
    for name, (kind, text) in {**LIMITS, **OF_JUDGE}.items():
        default = f" ({getattr(Thresholds, name)})" if name in LIMITS else ""
        add(f"--{name.replace('_', '-')}", type=kind, help=text + default)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    quiet()
    join()
    logging.getLogger("dsd").setLevel(logging.WARNING)  # show warnings, such as an unreachable server
    if args.grade:
        _grade(args)
    elif args.run is None:
        raise ValueError("which run? give its folder: python -m train.curate RUN --judge pocket")
    elif args.worth:
        _worth(args.run)
    elif args.redecide:
        _redecide(args)
    else:
        _curate(args)
    return 0


# ---------------------------------------------------------------- options


def _thresholds(args: argparse.Namespace, **usual: float) -> Thresholds:
    given = {name: getattr(args, name) for name in LIMITS if getattr(args, name) is not None}
    if args.votes:
        given |= dict(zip(("needed", "votes"), args.votes, strict=True))
    return Thresholds(**{**usual, **given})


class Counted(VLM):
    """A judge that counts the questions it is asked."""

    def __init__(self, vlm: VLM):
        self.vlm, self.name, self.weights = vlm, vlm.name, vlm.weights
        self.batch, self.asked = vlm.batch, 0

    def ask_many(self, requests: Iterable[Request]) -> Iterator[str]:
        return self.vlm.ask_many(self._counted(requests))

    def _counted(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.asked += 1
            yield request


def _judge(args: argparse.Namespace) -> Counted:
    if not args.judge:
        raise ValueError("who judges? give --judge pocket, a folder or hub id, or a server's http://host/v1")
    options = {name: getattr(args, name) for name in OF_JUDGE}
    options["batch"] = options.pop("judge_batch")
    if options["budget"]:  # divided, so that all processes together stay within it
        options["budget"] //= PartialState().num_processes
    return Counted(open_vlm(args.judge, **options))


def _embedder(args: argparse.Namespace, vlm: VLM) -> "Embedder | None":
    if args.embedder == NO_EMBEDDER:
        return None
    from dsd.vlm.embed import open_embedder

    return open_embedder(args.embedder, vlm=vlm, device=args.device)


def _curate(args: argparse.Namespace) -> None:
    grids, thresholds = _grids(args.run), _thresholds(args)
    judge = _judge(args)
    embedder = _embedder(args, judge.vlm)
    who = {"judge": judge.name, "judge_hash": judge.weights, "embedder": embedder and embedder.name}
    _check(args, grids, **who, thresholds=asdict(thresholds))
    do = partial(curation.judge_grids, embedder=embedder, thresholds=thresholds)
    stage = Stage(
        path=args.run / "pairs.jsonl",
        items=grids,
        do=partial(do, run=args.run, vlm=judge, recipe=args.recipe),
        batch=args.batch,
        unit="pair",
        item_of=curation.grid_of,
        rows_of=lambda grid: math.comb(grid["rows"] * grid["columns"], 2),
        tell=_kept_and_why_not,
    )
    speed = stage.run()
    pairs = jsonl.read_all(stage.path)
    say(*_summary(pairs), f"this process asked {judge.asked} questions, {speed:.1f} pairs/s")
    if not args.no_captions:
        _caption(args, judge, grids, pairs)


def _grids(run: Path) -> list[Row]:
    found = jsonl.read_all(grids.table(run))
    usable = [grid for grid in found if not grid["rejected"]]
    if not usable:
        why = f"all {len(found)} grids were rejected" if found else "there are no grids"
        raise RunError(f"nothing to judge in {run}: {why}; train.grids draws them")
    return usable


def _check(args: argparse.Namespace, grids: list[Row], **settings: object) -> None:
    """Refuse to continue a run with different settings."""
    asked = {args.recipe or grid["recipe"] for grid in grids}
    if len(asked) == 1:  # with several recipes, each grid is judged by its own
        settings["recipe"] = asked.pop()
    curation.check_settings(args.run / "pairs.jsonl", **settings)


def _caption(args: argparse.Namespace, judge: Counted, grids: list[Row], pairs: list[Row]) -> None:
    items = _kept(grids, pairs)
    if not items:
        return say("no pair was kept, so there is nothing to caption")
    asked, tokenizer = judge.asked, args.tokenizer or _tokenizer(items[0]["generator"])
    do = partial(captions.caption_grids, count=captions.counter(tokenizer), recipe=args.recipe)
    stage = Stage(
        path=args.run / "captions.jsonl",
        items=items,
        do=partial(do, run=args.run, vlm=judge),
        batch=args.batch,
        unit="caption",
        item_of=curation.grid_of,
        rows_of=lambda grid: 2 * len(grid["kept"]),
    )
    speed = stage.run()
    written = jsonl.read_all(stage.path)
    say(
        f"{len(written)} captions, {sum(row['cut'] for row in written)} of them cut to 77 tokens "
        f"({'counted' if tokenizer else 'estimated: the tokenizer of the generator is not here'}), "
        f"{sum(row['writer'] == captions.GRID for row in written)} in the grid's words for want of any",
        f"this process asked {judge.asked - asked} questions, {speed:.1f} captions/s",
    )


def _kept(grids: list[Row], pairs: list[Row]) -> list[Row]:
    """Return the grids that have kept pairs, with those pairs."""
    kept: dict[str, list] = {}
    for pair in pairs:
        if pair["verdict"] == KEEP:
            kept.setdefault(pair["grid"], []).append((pair["first"], pair["second"]))
    return [{**grid, "kept": kept[grid["id"]]} for grid in grids if grid["id"] in kept]


def _tokenizer(generator: str) -> Path | None:
    from dsd.model.checkpoint import LoadError, resolve

    try:
        return captions.tokenizer_of(resolve(generator).base)
    except LoadError:  # the grids were drawn elsewhere, by a model that is not available here
        return None


def _kept_and_why_not(seen: Counter) -> str:
    return ", ".join([f"{seen[SAME]} kept", *_dropped(seen)])


def _dropped(seen: Counter) -> list[str]:
    return [f"{count} {reason}" for reason, count in seen.most_common() if reason != SAME]


def _summary(pairs: list[Row]) -> list[str]:
    seen, grids = Counter(pair["reason"] for pair in pairs), len({pair["grid"] for pair in pairs})
    lines = [f"{len(pairs)} pairs of {grids} grids, {seen[SAME]} kept ({seen[SAME] / len(pairs):.1%})"]
    lines += [f"  {line}" for line in _dropped(seen)]
    if one := next((pair for pair in pairs if pair["reason"] == UNREADABLE), None):
        lines.append(f"  unreadable is, for one, {one['id']}: {one['answers'][0][:200]!r}")
    return lines


def _redecide(args: argparse.Namespace) -> None:
    now = curation.read_pairs(args.run)[0]["thresholds"]
    pairs = curation.redecide(args.run, _thresholds(args, **now))
    say(*_summary(pairs), "run train.curate with these thresholds, without --redecide, to caption them")


def _worth(run: Path) -> None:
    from dsd.evaluation.benefit import measure_benefit
    from dsd.pocket import scorer

    with tqdm(unit="grid") as bar:
        found = measure_benefit(run, scorer.load(), on_grids=bar.update)
    jsonl.write(run / "worth.json", json.dumps(found, indent=1).encode())
    say(grading_page.worth_page(found))


def _grade(args: argparse.Namespace) -> None:
    if args.out is None or args.run is not None:
        raise ValueError("grades are of a judge, not of a run: leave out RUN, and give --out FOLDER")
    if args.count < 16 or args.count % 2:
        raise ValueError(f"--count must be even and at least 16, a turn for every trait, got {args.count}")
    thresholds, judge = _thresholds(args), _judge(args)
    settings = {"recipe": args.recipe or CRITTERS.name, "seed": judge_evaluation.SEED, "size": args.size}
    stage = Stage(
        path=args.out / "graded.jsonl",
        items=[{"id": f"{index:06}", "index": index} for index in range(args.count)],
        do=partial(judge_evaluation.judge_drawn, vlm=judge, thresholds=thresholds, **settings),
        batch=4 * args.batch,
        unit="pair",
        tell=_kept_and_why_not,
    )
    curation.check_settings(
        stage.path, judge=judge.name, judge_hash=judge.weights, thresholds=asdict(thresholds), **settings
    )
    speed = stage.run()
    if PartialState().is_main_process:
        page = _write_grades(args.out, judge_evaluation.grades(jsonl.read_all(stage.path)[: args.count]))
        print(
            page,
            f"this process asked {judge.asked} questions, {speed:.1f} pairs/s; see {args.out}",
            sep="\n\n",
        )


def _write_grades(out: Path, grades: Row) -> str:
    page = grading_page.markdown(grades)
    jsonl.write(out / "grades.json", json.dumps(grades, indent=1).encode())
    jsonl.write(out / "grades.png", contact_sheet.png(grading_page.chart(grades)))
    jsonl.write(out / "grades.md", f"{page}\n\n![How often the judge errs](grades.png)\n".encode())
    return page


if __name__ == "__main__":
    command.run(main)
