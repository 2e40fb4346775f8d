"""Write prompts for grids from reference captions: `python -m train.prompts RUN --count N`.

Writes RUN/prompts.jsonl. You can stop it at any time and run the same command again to continue; a larger
--count adds more prompts.
"""

import argparse
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from dsd.files import jsonl
from dsd.generate.flags import refuse_unused
from dsd.grids import references
from dsd.grids.prompts import Prompt, PromptOptions, describe, diversity, write_prompts
from dsd.grids.recipes import RECIPES, TASKS, recipe_for
from dsd.vlm.open import open_vlm
from train import command


def _parser() -> argparse.ArgumentParser:
    parser = command.Parser(description=__doc__)
    add = parser.add_argument
    add("run", metavar="RUN", type=Path, help="folder of the run")
    add("--count", type=int, required=True, help="total number of prompts, including existing ones")
    add("--recipe", choices=RECIPES, default="critters", help="critters for pocket, identity for FLUX")
    text = "what the pairs teach, in the words of the recipe's models (the recipe's own task)"
    add("--task", choices=TASKS, help=text)
    add("--layout", choices=("1x2", "2x2", "3x3"), default="2x2", help="rows x columns of a grid (2x2)")
    add("--captions", type=Path, metavar="FILE", help=".txt, .jsonl or .parquet file (built in for critters)")
    add("--column", help="column of a .jsonl or .parquet file (caption or text)")
    add("--writer", metavar="MODEL", help="language model that writes: hub id, folder or http://host/v1")
    add("--writer-model", metavar="NAME", help="model name, on a server that has several")
    add("--writer-key", metavar="VARIABLE", help="environment variable that holds the server's key")
    add("--seed", type=int, default=0, help="random seed (0)")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the flags; end the command with one line if they are wrong or have no effect."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.captions:
        refuse_unused(parser, args, ("column",), without="--captions")
        if not RECIPES[args.recipe].in_world:
            parser.error(f"--recipe {args.recipe} needs --captions: the built-in ones are about critters")
    if not args.writer:
        refuse_unused(parser, args, ("writer_model", "writer_key"), without="--writer")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    rows, columns = map(int, args.layout.split("x"))
    recipe = RECIPES[args.recipe]
    recipe = recipe_for(args.task, recipe) if args.task else recipe
    options = PromptOptions(count=args.count, recipe=recipe.name, rows=rows, columns=columns, seed=args.seed)
    captions = references.read(args.captions, args.column) if args.captions else None
    vlm = open_vlm(args.writer, model=args.writer_model, key=args.writer_key) if args.writer else None
    with tqdm(total=options.count, unit="prompt") as bar:

        def show(done: int, dropped: Counter) -> None:
            bar.set_postfix_str(describe(dropped), refresh=False)
            bar.update(done - bar.n)

        dropped = write_prompts(args.run, options, captions=captions, vlm=vlm, on_row=show)
    _report(args.run / "prompts.jsonl", options, dropped)
    return 0


def _report(path: Path, options: PromptOptions, dropped: Counter) -> None:
    prompts = jsonl.read_records(path, Prompt)
    print(f"{len(prompts)} prompts in {path}")
    if len(prompts) < options.count:
        print(f"there are too few usable captions for {options.count} prompts: add captions and rerun")
    print(f"dropped: {describe(dropped) or 'none'}")
    shares = diversity(prompts)
    print(f"diversity: {shares['subjects']} subjects, {shares['places']} places")
    for n, name in ((1, "words"), (2, "pairs of words"), (3, "triples of words")):
        print(f"  {shares[f'ngrams_{n}']} different {name}, {shares[f'distinct_{n}']:.2%} of all")


if __name__ == "__main__":
    command.run(main)
