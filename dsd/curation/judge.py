"""Panels in, judged pairs out: a cheap look at how alike two pictures are, then a judge who gives its
reasons.

Stage 1 compares embeddings. Pairs below the floor cannot be one subject; pairs above the ceiling are
near-copies, which teach copy-paste. Stage 2 asks a vision-language model about the rest: it describes
before it decides, scores each part of the subject, and is read strictly (`dsd.curation.verdict`). Its words
and all numbers stay in the row.

What this does not know: whether the judge is right. `dsd.curation.judge_evaluation` measures that where the
truth is known.
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
    pairs: list[Row], pictures: Sequence[tuple[Image.Image, Image.Image]], *, vlm: VLM, thresholds: Thresholds
) -> list[Row]:
    """The pairs with what the judge said of their pictures, and the verdict.

    A pair has at least `recipe` (a name) and `similarity`. All questions of a vote go to the judge as one
    ordered stream, so that a server has many of them in flight. Nobody votes where all is decided already.
    """
    recipes = [recipe_named(pair["recipe"]) for pair in pairs]
    texts: list[list[str]] = [[] for _ in pairs]
    judged = _heard_all(pairs, texts, recipes)
    for vote in range(thresholds.votes):
        asked = [i for i, pair in enumerate(judged) if decide(pair, thresholds)[1] == UNASKED]
        answers = vlm.ask_many(_question(recipes[i], pictures[i], vote) for i in asked)
        for i, text in zip(asked, answers, strict=True):
            texts[i].append(text)
        judged = _heard_all(pairs, texts, recipes)
    who = {"judge": vlm.name, "judge_hash": vlm.weights}
    return [_decided(pair | who, thresholds) for pair in judged]


def _heard_all(pairs: list[Row], texts: list[list[str]], recipes: list[Recipe]) -> list[Row]:
    return [pair | _heard(said, recipe) for pair, said, recipe in zip(pairs, texts, recipes, strict=True)]


def _question(recipe: Recipe, pictures: tuple[Image.Image, Image.Image], vote: int) -> Request:
    """Every other vote sees the pictures in the other order, which a judge's mind should not depend on.

    The first of either order is greedy, the best single answer; only the others need a seed.
    """
    turned = pictures[::-1] if vote % 2 else pictures
    return Request(recipe.compare, tuple(turned), seed=vote // 2 or None)


def _heard(texts: list[str], recipe: Recipe) -> Row:
    """All votes as numbers, all texts as they came, and the parts of the last answer that can be read.

    Nobody votes where all is decided, so the last one decided; `turned` says whether it saw the second
    picture first.
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


def judge_sheets(
    sheets: list[Row],
    *,
    run: Path,
    vlm: VLM,
    embedder: "Embedder | None",
    thresholds: Thresholds,
    recipe: str | None = None,
) -> list[Row]:
    """Every pair of panels of these sheets, judged; `sheets` are rows of `grids.jsonl`.

    All panels are embedded once, in one call. `embedder` None leaves out the first stage. `recipe` is the
    name of the one to judge by; None is each sheet's own.
    """
    cut = [open_panels(run, sheet) for sheet in sheets]
    vectors = embedder.embed([panel for one in cut for panel in one]) if embedder else None  # [panels, c]
    pairs, pictures, start = [], [], 0
    for sheet, one in zip(sheets, cut, strict=True):
        for i, j in combinations(range(len(one)), 2):
            similarity = None if vectors is None else float(vectors[start + i] @ vectors[start + j])
            pairs.append(_pair(sheet, i, j, recipe) | {"similarity": similarity})
            pictures.append((one[i], one[j]))
        start += len(one)
    name = embedder.name if embedder else None
    return [{**row, "embedder": name} for row in judge(pairs, pictures, vlm=vlm, thresholds=thresholds)]


def _pair(sheet: Row, first: int, second: int, recipe: str | None) -> Row:
    return {
        "id": f"{sheet['id']}-{first}-{second}",
        "grid": sheet["id"],
        "first": first,
        "second": second,
        "prompt": sheet["prompt"],
        "seed": sheet["seed"],
        "recipe": recipe or sheet["recipe"],
    }


def open_panels(run: Path, sheet: Row) -> list[Image.Image]:
    """The panels of a sheet in reading order, RGB. RunError if its file is gone or damaged."""
    return grids.panels(grids.open_sheet(run, sheet), sheet["rows"], sheet["columns"], sheet["margin"])


def recipe_named(name: str) -> Recipe:
    """RunError, with the names there are, for one that is not."""
    if name not in RECIPES:
        raise RunError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    return RECIPES[name]


# ---------------------------------------------------------------- a run that is there already


def read_pairs(run: Path) -> list[Row]:
    """All pairs of a run; RunError if nothing has been judged yet."""
    pairs = jsonl.read_all(run / "pairs.jsonl")
    if not pairs:
        raise RunError(f"{run} has no judged pairs yet: run train.curate with a --judge first")
    return pairs


def check_settings(path: Path, **now: object) -> None:
    """RunError, naming what differs, if the file has rows that were judged by other settings.

    `now` is by the name in the row: `judge`, `embedder`, `recipe`, `thresholds` ...
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
    """With the thresholds one by one."""
    thresholds = settings.get("thresholds", {})
    return {**{name: it for name, it in settings.items() if name != "thresholds"}, **thresholds}


def redecide(run: Path, thresholds: Thresholds) -> list[Row]:
    """Decide all pairs of a run again from their rows, and write them; the judge is not asked.

    Captions of sheets whose kept pairs change are removed, so that the next run writes them anew. RunError
    where a pair would need the judge: what it was never shown, or votes that were never cast.
    """
    read_pairs(run)  # there are some
    path, captions = run / "pairs.jsonl", run / "captions.jsonl"
    with jsonl.writing(jsonl.shard(path, 0)):  # so nobody is judging meanwhile
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
        # Captions first: killed in between, they are merely written again.
        if captions.exists() or jsonl.shards(captions):
            jsonl.merge(captions, keep=lambda row: grid_of(row) not in changed)
        jsonl.write(path, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in new).encode())
    return new


def _decided(pair: Row, thresholds: Thresholds) -> Row:
    verdict, reason = decide(pair, thresholds)
    return {**pair, "verdict": verdict, "reason": reason, "thresholds": asdict(thresholds)}


def grid_of(row: Row) -> str:
    """The sheet of a pair, ordered or not: `000042` of `000042-0-3`."""
    return row["id"].rsplit("-", 2)[0]


# ---------------------------------------------------------------- what people say


def label(run: Path, pair_id: str, verdict: str) -> None:
    """Note a person's verdict beside the machine's; of several on one pair the last counts."""
    if verdict not in (KEEP, DROP):
        raise ValueError(f"a label is {KEEP!r} or {DROP!r}, got {verdict!r}")
    time = datetime.now(UTC).isoformat(timespec="seconds")
    with jsonl.writing(run / "labels.jsonl") as append:
        append([{"id": pair_id, "label": verdict, "time": time}])


def labels(run: Path) -> dict[str, str]:
    """Pair id -> `keep` or `drop`, as people last said."""
    return {row["id"]: row["label"] for row in jsonl.read(run / "labels.jsonl")}


def agreement(pairs: Iterable[Row], labels: dict[str, str]) -> dict[str, float | int | None]:
    """How far machine and person agree on the pairs that have a label: counts, share, and Cohen's kappa.

    Kappa is the agreement beyond what the two keep rates give by chance; None where that is not defined.
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
