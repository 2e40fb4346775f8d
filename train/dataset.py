"""Convert a run's pairs into a dataset: `python -m train.dataset RUN`.

Writes RUN/dataset: parquet files, and a card with counts, licenses and some pairs. You can stop it at any
time and run the same command again to continue. --only floor and --only all ignore the judge's
verdicts, for comparison.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from dsd.curation.dataset import SHARD_ROWS, Written, push, write_dataset
from dsd.curation.dataset_card import write_card
from dsd.curation.selection import WHICH, WORDS, Choice, Run, counts, read_run
from train import command


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="RUN/dataset; RUN/dataset-floor for --only floor"
    )
    parser.add_argument(
        "--only",
        choices=WHICH,
        default="judge",
        help="pairs kept by the judge, by the cheap floor, or all (judge)",
    )
    parser.add_argument(
        "--words",
        choices=WORDS,
        type=lambda words: "grid" if words == "sheet" else words,  # its old name
        default="written",
        help="captions as written, or always the grid's own words",
    )
    parser.add_argument("--labels", action="store_true", help="a person's verdict overrules the judge's")
    parser.add_argument("--max-rows", type=int, metavar="N", help="at most so many, drawn at random; even")
    parser.add_argument("--shuffle", action="store_true", help="write them in random order")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (0)")
    parser.add_argument(
        "--shard-rows", type=int, default=SHARD_ROWS, metavar="N", help=f"rows a file ({SHARD_ROWS})"
    )
    parser.add_argument(
        "--grades", type=Path, metavar="FILE", help="grades.json of train.curate --grade, for the card"
    )
    parser.add_argument(
        "--push-to-hub", metavar="OWNER/NAME", help="upload it, with the token in HF_TOKEN; private"
    )
    parser.add_argument("--public", action="store_true", help="let everybody see what --push-to-hub creates")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.public and not args.push_to_hub:
        raise ValueError("--public says who sees what --push-to-hub uploads: give that too")
    choice = Choice(
        which=args.only,
        words=args.words,
        labels=args.labels,
        max_rows=args.max_rows,
        shuffle=args.shuffle,
        seed=args.seed,
    )
    run = read_run(args.run)
    out = args.out or args.run / ("dataset" if args.only == "judge" else f"dataset-{args.only}")
    written = _write(run, out, choice, args.shard_rows)
    write_card(run, written, choice, grades=args.grades)
    _report(run, written)
    if args.push_to_hub:
        print(f"uploaded to {push(out, args.push_to_hub, private=not args.public)}")
    return 0


def _write(run: Run, out: Path, choice: Choice, shard_rows: int) -> Written:
    with tqdm(unit="row") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return write_dataset(run, out, choice, shard_rows=shard_rows, on_rows=show)


def _report(run: Run, written: Written) -> None:
    files = f"{len(written.shards)} files ({written.new} of them new)"
    print(f"{len(written.rows)} rows in {files} in {written.folder}")
    for name, found in counts(run).items():
        print(f"{name}: {', '.join(f'{count} {reason}' for reason, count in found.most_common())}")


if __name__ == "__main__":
    command.run(main)
