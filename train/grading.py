"""What `train.curate --grade` does: judge drawn pairs, and write how often the judge errs."""

import json
from argparse import Namespace
from pathlib import Path

from accelerate import PartialState

from dsd.curation import judge_evaluation, report
from dsd.curation.judge import check_settings
from dsd.curation.judge_evaluation import GradedPair
from dsd.curation.verdict import SAME, Thresholds
from dsd.files import jsonl
from dsd.files.jsonl import Row
from dsd.grids.recipes import CRITTERS
from dsd.vlm.open import VLM
from train.blocks import KEPT, recorded, say, stage


def outcome(row: Row) -> str:
    """Return what becomes of a judged pair, for the progress bar."""
    return KEPT if row["reason"] == SAME else row["reason"]


def grade(args: Namespace, judge: VLM, thresholds: Thresholds) -> None:
    """Judge the drawn pairs that are not judged yet, and write the grades into `args.out`."""
    settings = {"recipe": args.recipe or CRITTERS.name, "seed": judge_evaluation.SEED, "size": args.size}
    path = args.out / "graded.jsonl"
    who = {"judge": judge.name, "judge_hash": judge.weights}
    check_settings(path, thresholds=thresholds, **who, **settings)
    items = {f"{index:06}": index for index in range(args.count)}
    with (
        recorded(judge, args.out) as answering,
        stage(path, items, batch=4 * args.batch, unit="pair", outcome_of=outcome) as share,
    ):
        for block in share.blocks:
            share.write(judge_evaluation.judge_drawn(block, vlm=answering, thresholds=thresholds, **settings))
    if PartialState().is_main_process:
        graded = jsonl.read_records(path, GradedPair)[: args.count]
        print(_write_grades(args.out, judge_evaluation.grades(graded)))
    say("", f"{share.speed:.1f} pairs/s in this process; see {args.out}")


def _write_grades(out: Path, grades: Row) -> str:
    page = report.markdown(grades)
    jsonl.write_atomic(out / "grades.json", json.dumps(grades, indent=1).encode())
    jsonl.write_atomic(out / "grades.md", f"{page}\n\n![How often the judge errs](grades.png)\n".encode())
    jsonl.write_atomic(out / "grades.png", report.chart(grades))
    return page
