"""Convert a run's pairs into a dataset: `python -m train.dataset RUN`.

Writes RUN/dataset: parquet files, and a card with counts, licenses and some pairs. You can stop it at any
time and run the same command again to continue. --only floor and --only all ignore the judge's
verdicts, for comparison.
"""

import argparse
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from dsd.curation.dataset import SHARD_ROWS, push, write_dataset
from dsd.curation.dataset_card import write_card
from dsd.curation.selection import WHICH, WORDS, Choice, counts, read_run
from dsd.files import old_names, whole
from dsd.files.errors import printable
from train import command


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the run")
    add("--out", type=Path, metavar="FOLDER", help="RUN/dataset, or RUN/dataset-floor for --only floor")
    text = "pairs kept by the judge, by the floor, or all (judge)"
    add("--only", dest="which", choices=WHICH, default="judge", help=text)
    renew, text = old_names.VALUES.get, "captions as written, or always the grid's own words (written)"
    add("--words", choices=WORDS, type=lambda it: renew(("writer", it), it), default="written", help=text)
    add("--labels", action="store_true", help="a person's verdict overrules the judge's")
    add("--max-rows", type=int, metavar="N", help="maximum number of rows, sampled at random; must be even")
    add("--shuffle", action="store_true", help="write the rows in random order")
    add("--seed", type=int, default=0, help="random seed (0)")
    add("--shard-rows", type=int, default=SHARD_ROWS, metavar="N", help=f"rows per file ({SHARD_ROWS})")
    add("--grades", type=Path, metavar="FILE", help="grades.json of train.curate --grade, for the card")
    add("--push-to-hub", metavar="OWNER/NAME", help="upload it, with the token in HF_TOKEN; private")
    add("--public", action="store_true", help="make the repository that --push-to-hub creates public")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.public and not args.push_to_hub:
        raise ValueError("--public needs --push-to-hub, because it applies to the upload")
    choice = Choice(**{one.name: getattr(args, one.name) for one in fields(Choice)})
    run = read_run(args.run)
    out = args.out or args.run / ("dataset" if args.which == "judge" else f"dataset-{args.which}")
    with tqdm(unit="row") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with whole.locked(out / "dataset"):
            whole.sweep(out)
            written = write_dataset(run, out, choice, shard_rows=args.shard_rows, on_rows=show)
            write_card(run, written, choice, grades=args.grades)
    print(f"{len(written.rows)} rows in {len(written.shards)} files ({written.new} of them new) in {out}")
    for name, numbers in counts(run).items():
        text = ", ".join(f"{count} {reason}" for reason, count in numbers.most_common())
        print(printable(f"{name}: {text}"))
    if args.push_to_hub:
        print(f"uploaded to {push(out, args.push_to_hub, private=not args.public)}")
    return 0


if __name__ == "__main__":
    command.run(main)
