"""The work of `train.baselines`: choose, make, draw, score, write."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypedDict

from tqdm import tqdm

from dsd.evaluation import results, validation
from dsd.evaluation.scores import Draw, Scores
from dsd.evaluation.validation import Benchmark
from dsd.files import jsonl, markdown
from train.baselines.entries import OURS, Entry, Made
from train.baselines.per_subject import one_by_one
from train.baselines.workshop import Workshop

COLUMNS = ("", "rate or strength", "chosen among", "trained weights", "training in s", "a subject in s")


def compare(
    shop: Workshop, entries: Iterable[Entry], benchmark: Benchmark, trial: Benchmark, *, batch: int
) -> str:
    """Make, draw and score all entries, write the results after each, and return the page of tables."""
    costs, page = {}, ""
    settings = {"batch": batch, "guidance": shop.guidance, "costs": costs}
    found = results.Comparison(benchmark=benchmark, settings=settings)
    for entry in entries:
        choice = choose(shop, entry, trial, batch)
        made = entry.make(choice, False)
        found.results[entry.name] = _score(shop, entry, made, benchmark, batch)
        found.models[entry.name] = made.key
        if entry.described or entry.names_subject:
            found.described.add(entry.name)
        costs[entry.name] = cost(entry, made, choice)
        page = "\n\n".join([results.tables(found), "Costs:", cost_table(costs)])
        results.write(shop.out, found, page, with_report=False)
    results.write(shop.out, found, page)
    return page


def _score(shop: Workshop, entry: Entry, made: Made, benchmark: Benchmark, batch: int) -> Scores:
    with tqdm(total=len(benchmark.cases), desc=entry.name, unit="image") as bar:
        draw = saved(shop.out, made, batch, bar.update)
        return benchmark.evaluate(draw, described=entry.described)


def saved(out: Path, made: Made, batch: int, on_done: Callable[[int], object] = lambda count: None) -> Draw:
    """Return a `Draw` in batches that keeps its images; a tuned way draws one subject at a time."""
    kept = validation.save_in(out / "images", f"{made.key} batch {batch}", made.draw)
    if made.clock is None:
        return validation.in_batches(kept, batch, on_done=on_done)

    def draw_subject(*requests: list) -> list:
        images = kept(*requests)
        on_done(len(images))
        return images

    return one_by_one(draw_subject)


def choose(shop: Workshop, entry: Entry, trial: Benchmark, batch: int) -> float | None:
    """Return the choice whose images the ranker scores highest, or None for an entry without choices.

    `choices.json` gets the ranker's CP x PF of every choice. An entry that is `like` another takes its
    choice.
    """
    kept = _read(shop.out / "choices.json")
    if not entry.choices:
        return kept[entry.like]["chosen"] if entry.like else None
    products = {}
    for choice in entry.choices:
        made = entry.make(choice, True)
        result = trial.evaluate(saved(shop.out, made, batch), described=entry.described)
        products[choice] = result.means["product"].mean
    chosen = max(products, key=products.get)
    kept[entry.name] = {"chosen": chosen, "products": {f"{k:g}": round(v, 4) for k, v in products.items()}}
    jsonl.write_atomic(shop.out / "choices.json", json.dumps(kept, indent=1).encode())
    return chosen


class Chosen(TypedDict):
    """What is read of an entry of `choices.json`."""

    chosen: float


def _read(file: Path) -> dict[str, Chosen]:
    return jsonl.read_object(file, dict[str, Chosen]) if file.exists() else {}


def cost(entry: Entry, made: Made, choice: float | None) -> dict[str, Any]:
    """Return what a row cost: the trained weights, and seconds in all and for each subject."""
    return {
        "chosen": choice,
        "tried": list(entry.choices),
        "parameters": made.parameters,
        "seconds": round(made.seconds, 1),
        "seconds_per_subject": round(made.clock.mean, 2) if made.clock else None,
    }


def cost_table(costs: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table; a choice at an end of those tried says that a better one may lie beyond."""
    return markdown.table(list(COLUMNS), [[name, *map(_text, row.values())] for name, row in costs.items()])


def _text(value: int | float | list[float] | None) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if value is None:
        return "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def select(entries: list[Entry], names: list[str]) -> list[Entry]:
    """Return the entries with these names, ours first if one of them takes its learning rate."""
    known = [entry.name for entry in entries]
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name!r} is no row: choose among {', '.join(known)}")
    chosen = [entry for entry in entries if entry.name in names]
    if any(entry.like for entry in chosen) and OURS not in {entry.name for entry in chosen}:
        chosen.insert(0, entries[known.index(OURS)])
    return chosen
