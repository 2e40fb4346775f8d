"""Write prompts for grids from reference captions: `python -m train.prompts RUN --count N`.

Writes RUN/prompts.jsonl. You can stop it at any time and run the same command again to continue; a larger
--count adds more prompts.
"""

import argparse
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from dsd.files import jsonl
from dsd.grids import references
from dsd.grids.prompts import Options, diversity, tell, write_prompts
from dsd.grids.recipes import RECIPES
from dsd.vlm.base import VLM
from train import command


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of the run")
    parser.add_argument(
        "--count", type=int, required=True, help="prompts that there shall be, with those there are"
    )
    parser.add_argument(
        "--recipe", choices=RECIPES, default="critters", help="critters for pocket, identity for FLUX"
    )
    parser.add_argument(
        "--layout", choices=("1x2", "2x2", "3x3"), default="2x2", help="rows x columns of a grid"
    )
    parser.add_argument(
        "--captions", type=Path, metavar="FILE", help=".txt, .jsonl or .parquet; pocket's own if left out"
    )
    parser.add_argument("--column", help="of a table: caption or text if left out")
    parser.add_argument(
        "--writer", metavar="MODEL", help="language model that writes: hub id, folder or http://host/v1"
    )
    parser.add_argument("--writer-model", metavar="NAME", help="which one, if the server has several")
    parser.add_argument("--writer-key", metavar="VARIABLE", help="environment variable that holds its key")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    lines, columns = map(int, args.layout.split("x"))
    options = Options(count=args.count, recipe=args.recipe, rows=lines, columns=columns, seed=args.seed)
    if args.column and not args.captions:
        raise ValueError("--column names a column of the file given by --captions, and there is none")
    captions = references.read(args.captions, args.column) if args.captions else None
    vlm = _open(args) if args.writer else None
    dropped = _write(args.run, options, captions, vlm)
    _report(args.run / "prompts.jsonl", options, dropped)
    return 0


def _open(args: argparse.Namespace) -> VLM:
    from dsd.vlm.open import open_vlm

    return open_vlm(args.writer, model=args.writer_model, key=args.writer_key)


def _write(run: Path, options: Options, captions: object, vlm: VLM | None) -> Counter:
    with tqdm(total=options.count, unit="prompt") as bar:

        def show(done: int, dropped: Counter) -> None:
            bar.set_postfix_str(tell(dropped), refresh=False)
            bar.update(done - bar.n)

        return write_prompts(run, options, captions=captions, vlm=vlm, on_row=show)


def _report(path: Path, options: Options, dropped: Counter) -> None:
    found = jsonl.read(path)
    print(f"{len(found)} prompts in {path}")
    if len(found) < options.count:
        print(f"the captions gave no more; give more of them for the {options.count} that were asked for")
    print(f"dropped: {tell(dropped) or 'none'}")
    seen = diversity(found)
    print(f"diversity: {seen['subjects']} subjects, {seen['places']} places")
    for n, name in ((1, "words"), (2, "pairs of words"), (3, "triples of words")):
        print(f"  {seen[f'ngrams_{n}']} different {name}, {seen[f'distinct_{n}']:.2%} of all")


if __name__ == "__main__":
    command.run(main)
