"""Judging of pairs of panels, by embedding similarity first and a vision-language model second.

Stage 1 compares embeddings. Pairs below the floor cannot show one subject; pairs above the ceiling are
near-copies, which teach a model to copy and paste. Stage 2 asks a vision-language model about the remaining
pairs: it describes before it decides and scores each part of the subject, and its answer is parsed strictly
(`dsd.curation.verdict`). Its words and all numbers stay in the row.

Whether the judge is right is measured by `dsd.curation.judge_evaluation`, on pairs with known ground truth.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dsd.curation.verdict import DROP, KEEP, UNASKED, Thresholds, decide, read_answer, turned_back
from dsd.files import jsonl
from dsd.files.jsonl import Row, RunError
from dsd.grids import grids
from dsd.grids.recipes import RECIPES, Recipe
from dsd.vlm.open import VLM, Request

if TYPE_CHECKING:
    from dsd.vlm.embed import Embedder

# ---------------------------------------------------------------- judging


def judge(
    pairs: list[Row], images: Sequence[tuple[Image.Image, Image.Image]], *, vlm: VLM, thresholds: Thresholds
) -> list[Row]:
    """Return the pairs with the judge's answers about their images, and the verdict.

    A pair has at least `recipe` (a name) and `similarity`. All questions of a vote go to the judge as one
    ordered stream, so that a server can process many at once. Pairs that are already decided get no further
    votes.
    """
    recipes = [recipe_named(pair["recipe"]) for pair in pairs]
    texts: list[list[str]] = [[] for _ in pairs]
    judged = _heard_all(pairs, texts, recipes)
    for vote in range(thresholds.votes):
        asked = [i for i, pair in enumerate(judged) if decide(pair, thresholds)[1] == UNASKED]
        answers = vlm.ask_many(_question(recipes[i], images[i], vote) for i in asked)
        for i, text in zip(asked, answers, strict=True):
            texts[i].append(text)
        judged = _heard_all(pairs, texts, recipes)
    who = {"judge": vlm.name, "judge_hash": vlm.weights}
    return [_decided(pair | who, thresholds) for pair in judged]


def _heard_all(pairs: list[Row], texts: list[list[str]], recipes: list[Recipe]) -> list[Row]:
    return [pair | _heard(said, recipe) for pair, said, recipe in zip(pairs, texts, recipes, strict=True)]


def _question(recipe: Recipe, images: tuple[Image.Image, Image.Image], vote: int) -> Request:
    """Return the question for one vote.

    Every other vote shows the images in the other order, because the answer should not depend on it. The
    first vote in each order is greedy, the best single answer; only the later ones need a seed.
    """
    turned = images[::-1] if vote % 2 else images
    return Request(recipe.compare, tuple(turned), seed=vote // 2 or None)


def _heard(texts: list[str], recipe: Recipe) -> Row:
    """Return all votes as numbers, all raw answers, and the fields of the last readable answer.

    Voting stops once a pair is decided, so the last answer is the decisive one. `turned` is true if the last
    readable answer saw the second image first.
    """
    answers = [read_answer(text, recipe) for text in texts]
    vote, shown = next(((v, answers[v]) for v in reversed(range(len(answers))) if answers[v]), (0, None))
    shown = turned_back(shown) if shown and vote % 2 else shown
    return {
        "answers": texts,
        "subject": shown and shown.subject,
        "descriptions": shown and [shown.first, shown.second],
        "differences": shown and shown.differences,
        "turned": bool(vote % 2),
        "scores": shown and shown.scores,
        "votes": [answer and answer.same for answer in answers],
        "lowest": [answer and min(answer.scores.values()) for answer in answers],
    }


def judge_grids(
    grids: list[Row],
    *,
    run: Path,
    vlm: VLM,
    embedder: "Embedder | None",
    thresholds: Thresholds,
    recipe: str | None = None,
) -> list[Row]:
    """Return every pair of panels of these grids with its judgment; `grids` are rows of `grids.jsonl`.

    All panels are embedded in one call. `embedder` None skips the first stage. `recipe` is the name of the
    recipe to judge by; None means each grid's own.
    """
    cut = [open_panels(run, grid) for grid in grids]
    vectors = embedder.embed([panel for one in cut for panel in one]) if embedder else None  # [panels, c]
    pairs, images, start = [], [], 0
    for grid, one in zip(grids, cut, strict=True):
        for i, j in combinations(range(len(one)), 2):
            similarity = None if vectors is None else float(vectors[start + i] @ vectors[start + j])
            pairs.append(_pair(grid, i, j, recipe) | {"similarity": similarity})
            images.append((one[i], one[j]))
        start += len(one)
    name = embedder.name if embedder else None
    return [{**row, "embedder": name} for row in judge(pairs, images, vlm=vlm, thresholds=thresholds)]


def _pair(grid: Row, first: int, second: int, recipe: str | None) -> Row:
    return {
        "id": f"{grid['id']}-{first}-{second}",
        "grid": grid["id"],
        "first": first,
        "second": second,
        "prompt": grid["prompt"],
        "seed": grid["seed"],
        "recipe": recipe or grid["recipe"],
    }


def open_panels(run: Path, grid: Row) -> list[Image.Image]:
    """Return the panels of a grid in reading order, RGB; raise RunError if its file is missing or damaged."""
    return grids.panels(grids.open_grid(run, grid), grid["rows"], grid["columns"], grid["margin"])


def recipe_named(name: str) -> Recipe:
    """Return a recipe by name; raise RunError, with the known names, for an unknown one."""
    if name not in RECIPES:
        raise RunError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]


# ---------------------------------------------------------------- existing runs


def read_pairs(run: Path) -> list[Row]:
    """Return all pairs of a run; raise RunError if nothing has been judged yet."""
    pairs = jsonl.read_all(run / "pairs.jsonl")
    if not pairs:
        raise RunError(f"{run} has no judged pairs yet: run train.curate with a --judge first")
    return pairs


def check_settings(path: Path, **now: object) -> None:
    """Raise RunError, naming the differences, if the file has rows judged with other settings.

    `now` holds the settings by their names in the row: `judge`, `embedder`, `recipe`, `thresholds` ...
    """
    settings = _flat(now)
    for row in jsonl.read_all(path):
        was = _flat({name: row.get(name) for name in now})
        if other := [
            f"{name} was {was.get(name)}, now {it}" for name, it in settings.items() if was.get(name) != it
        ]:
            raise RunError(
                f"{path} was judged by other settings ({'; '.join(other)}): use those again, or "
                "--redecide where only thresholds differ, or move it and captions.jsonl away to start anew"
            )


def _flat(settings: Row) -> Row:
    """Return the settings with each threshold as an entry of its own."""
    thresholds = settings.get("thresholds", {})
    return {**{name: it for name, it in settings.items() if name != "thresholds"}, **thresholds}


def redecide(run: Path, thresholds: Thresholds) -> list[Row]:
    """Decide all pairs of a run again from their rows and write them, without asking the judge.

    Captions of grids whose kept pairs change are removed, so that the next run writes them again. Raise
    RunError if a pair would need the judge, because it was never judged or lacks votes.
    """
    read_pairs(run)  # raises if there are none
    path, captions = run / "pairs.jsonl", run / "captions.jsonl"
    with jsonl.writing(jsonl.shard(path, 0)):  # lock out a concurrent judging run
        jsonl.merge(path)
        old = jsonl.read(path)
        new = [_decided(pair, thresholds) for pair in old]
        if unasked := sum(pair["reason"] == UNASKED for pair in new):
            raise RunError(
                f"{unasked} of {len(new)} pairs would have to be shown to the judge, who was not asked about "
                "them, or not so often: a lower floor, a higher ceiling or more votes need a run of their own"
            )
        changed = {
            pair["grid"] for pair, now in zip(old, new, strict=True) if pair["verdict"] != now["verdict"]
        }
        # Captions first: if the process is killed in between, they are only written again.
        if captions.exists() or jsonl.shards(captions):
            jsonl.merge(captions, keep=lambda row: grid_of(row) not in changed)
        jsonl.write(path, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in new).encode())
    return new


def _decided(pair: Row, thresholds: Thresholds) -> Row:
    verdict, reason = decide(pair, thresholds)
    return {**pair, "verdict": verdict, "reason": reason, "thresholds": asdict(thresholds)}


def grid_of(row: Row) -> str:
    """Return the grid's id of a pair, ordered or not: `000042` for `000042-0-3`."""
    return row["id"].rsplit("-", 2)[0]


# ---------------------------------------------------------------- human labels


def label(run: Path, pair_id: str, verdict: str) -> None:
    """Append a person's verdict on a pair to `labels.jsonl`; the last one on a pair counts."""
    if verdict not in (KEEP, DROP):
        raise ValueError(f"a label is {KEEP!r} or {DROP!r}, got {verdict!r}")
    time = datetime.now(UTC).isoformat(timespec="seconds")
    with jsonl.writing(run / "labels.jsonl") as append:
        append([{"id": pair_id, "label": verdict, "time": time}])


def labels(run: Path) -> dict[str, str]:
    """Return the last human label, `keep` or `drop`, by pair id."""
    return {row["id"]: row["label"] for row in jsonl.read(run / "labels.jsonl")}


def agreement(pairs: Iterable[Row], labels: dict[str, str]) -> dict[str, float | int | None]:
    """Compare the judge with a person on the labeled pairs: counts, share of agreement and Cohen's kappa.

    Kappa is the agreement beyond the chance level of the two keep rates; it is None where it is undefined.
    """
    both = [(pair["verdict"] == KEEP, labels[pair["id"]] == KEEP) for pair in pairs if pair["id"] in labels]
    count = len(both)
    if not count:
        return {
            "pairs": 0,
            "both_keep": 0,
            "both_drop": 0,
            "only_machine": 0,
            "only_person": 0,
            "share": None,
            "kappa": None,
        }
    machine, person = (sum(side) / count for side in zip(*both, strict=True))
    share = sum(m == p for m, p in both) / count
    chance = machine * person + (1 - machine) * (1 - person)
    return {
        "pairs": count,
        "both_keep": both.count((True, True)),
        "both_drop": both.count((False, False)),
        "only_machine": both.count((True, False)),
        "only_person": both.count((False, True)),
        "share": share,
        "kappa": (share - chance) / (1 - chance) if chance < 1 else None,
    }
