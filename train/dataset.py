"""Convert a run's pairs into a dataset: `python -m train.dataset RUN`.

Writes RUN/dataset: parquet files, and a card with counts, licenses and some pairs. You can stop it at any
time and run the same command again to continue. --only floor and --only all ignore the judge's
verdicts, for comparison. --format writes folders of images for other trainers instead. --preferences FOLDER
writes chosen and rejected images of one prompt, for trainers of preferences (DPO).
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from tqdm import tqdm

from dsd.curation.dataset import SHARD_ROWS, push, write_dataset
from dsd.curation.dataset_card import write_card
from dsd.curation.folders import FORMATS, write_folder
from dsd.curation.preferences import write_preferences
from dsd.curation.selection import WHICH, WORDS, Choice, Run, counts, read_run
from dsd.files import old_names, whole
from dsd.generate.flags import refuse_unused
from train import command

# Flags without an effect on preferences, which have the grids' own words and are sorted by id.
UNUSED = (
    "out", "format", "which", "words", "max_rows", "shuffle", "seed", "shard_rows", "grades", "push_to_hub",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the run")
    add("--out", type=Path, metavar="FOLDER", help="RUN/dataset, with -floor for --only floor and so on")
    text = "parquet files, or folders of images for that trainer (parquet)"
    add("--format", choices=("parquet", *FORMATS), default="parquet", help=text)
    text = "write preferences instead: panels that were kept with one seed and rejected with another"
    add("--preferences", type=Path, metavar="FOLDER", help=text)
    add("--trigger", default="", metavar="WORD", help="begin every caption with this, if it is not there")
    text = "pairs kept by the judge, by the floor, or all (judge)"
    add("--only", dest="which", choices=WHICH, default="judge", help=text)
    renew, text = old_names.VALUES.get, "captions as written, or always the grid's own words (written)"
    add("--words", choices=WORDS, type=lambda it: renew(("writer", it), it), default="written", help=text)
    add("--labels", action="store_true", help="a person's verdict overrules the judge's")
    add("--max-rows", type=int, metavar="N", help="maximum number of rows, sampled at random; must be even")
    add("--shuffle", action="store_true", help="write the rows in random order")
    add("--seed", type=int, default=0, help="random seed (0)")
    add("--shard-rows", type=int, metavar="N", help=f"rows per parquet file ({SHARD_ROWS})")
    add("--grades", type=Path, metavar="FILE", help="grades.json of train.curate --grade, for the card")
    add("--push-to-hub", metavar="OWNER/NAME", help="upload it, with the token in HF_TOKEN; private")
    add("--public", action="store_true", help="make the repository that --push-to-hub creates public")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; end the command with one line if they are wrong or have no effect."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.preferences:
        refuse_unused(parser, args, UNUSED, beside="--preferences")
    if not args.push_to_hub:
        refuse_unused(parser, args, ("public",), without="--push-to-hub")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.shard_rows is not None and args.format != "parquet":
        raise ValueError(
            f"--shard-rows is for --format parquet, got --format {args.format}: drop one of them"
        )
    choice = Choice(**{one.name: getattr(args, one.name) for one in fields(Choice)})
    run = read_run(args.run)
    if args.preferences:
        _write_preferences(args, run, choice)
    else:
        _write_dataset(args, run, choice)
    return 0


def _write_dataset(args: argparse.Namespace, run: Run, choice: Choice) -> None:
    kinds = ["dataset", *([] if args.which == "judge" else [args.which])]
    kinds += [] if args.format == "parquet" else [args.format]
    out = args.out or args.run / "-".join(kinds)
    with _writing(out) as show:
        if args.format == "parquet":
            rows = SHARD_ROWS if args.shard_rows is None else args.shard_rows
            written = write_dataset(run, out, choice, shard_rows=rows, on_rows=show)
        else:
            written = write_folder(run, out, choice, format=args.format, on_rows=show)
        write_card(run, written, choice, grades=args.grades)
    shards = _count(len(written.shards), "file")
    print(f"{_count(len(written.rows), 'row')} in {shards} ({written.new} new) in {out}")
    for name, numbers in counts(run).items():
        text = ", ".join(f"{count} {reason}" for reason, count in numbers.most_common())
        print(f"{name}: {text}")
    if args.push_to_hub:
        address = push(out, args.push_to_hub, private=not args.public, patterns=written.patterns)
        print(f"uploaded to {address}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


@contextmanager
def _writing(out: Path) -> Iterator[Callable[[int, int], None]]:
    """Lock a folder and tidy it after the block; yield a function that shows how many rows are done.

    Before the block has found that the folder is a dataset's own, nothing in it is removed.
    """
    with tqdm(unit="row") as bar, whole.locked(out / "dataset"):

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
        whole.sweep(out)


def _write_preferences(args: argparse.Namespace, run: Run, choice: Choice) -> None:
    with _writing(args.preferences) as show:
        written = write_preferences(run, args.preferences, choice, on_rows=show)
    rows, files = _count(len(written.rows), "preference"), _count(written.new, "new file")
    print(f"{rows} in {args.preferences} ({files})")


if __name__ == "__main__":
    command.run(main)
