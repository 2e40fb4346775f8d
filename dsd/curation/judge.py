"""Judging of pairs of panels, by embedding similarity first and a vision-language model second.

Stage 1 compares embeddings. Pairs below the floor cannot show one subject; pairs above the ceiling are
near-copies, which teach a model to copy and paste. Stage 2 asks a vision-language model about the remaining
pairs: it describes before it decides and scores each part of the subject (`dsd.curation.verdict`). Its words
and all numbers stay in the row. `dsd.curation.judge_evaluation` measures whether the judge is right.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from PIL import Image

from dsd.curation.verdict import DROP, KEEP, UNASKED, Judged, Thresholds, apply, decide, hear
from dsd.files import jsonl
from dsd.files.jsonl import Record, Row, RunError
from dsd.grids import grids
from dsd.grids.grids import Grid
from dsd.grids.recipes import RECIPES, Recipe
from dsd.vlm import schemas
from dsd.vlm.answers import TOP_SCORE
from dsd.vlm.base import AGAIN
from dsd.vlm.open import VLM, Request

if TYPE_CHECKING:
    from dsd.vlm.embed import ImageEmbedder

Kind = TypeVar("Kind", bound=Judged)


@dataclass(frozen=True, kw_only=True)
class Pair(Judged):
    """A row of `pairs.jsonl`: two panels of a grid."""

    grid: str
    first: int  # panels, counted in reading order
    second: int
    prompt: str  # of the grid, as is the seed
    embedder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Label(Record):
    """A row of `labels.jsonl`: a person's verdict on the pair of that id."""

    label: str


# ---------------------------------------------------------------- judging


def judge(
    pairs: Sequence[Kind],
    images: Sequence[tuple[Image.Image, Image.Image]],
    *,
    vlm: VLM,
    thresholds: Thresholds,
    on_pair: Callable[[Kind], None] = lambda pair: None,
) -> list[Kind]:
    """Return the pairs with the judge's answers about their images, and the verdict.

    All questions are one ordered stream, so that a server can process many at once; a pair that needs another
    vote, or whose answer cannot be read, joins the end of it. `on_pair` gets each pair once it is decided.
    """
    judged, waiting, asked = list(pairs), deque(), deque()  # indices of pairs

    def sort(i: int) -> None:
        if decide(judged[i], thresholds)[1] == UNASKED:
            return waiting.append(i)
        judged[i] = replace(apply(judged[i], thresholds), judge=vlm.name, judge_hash=vlm.weights)
        on_pair(judged[i])

    def ask() -> Iterator[Request]:
        while waiting:
            asked.append(waiting.popleft())
            yield _question(judged[asked[-1]], images[asked[-1]])

    for i in range(len(judged)):
        sort(i)
    while waiting:
        for text in vlm.ask_many(ask()):
            i = asked.popleft()
            judged[i] = hear(judged[i], text, find_recipe(judged[i].recipe))
            sort(i)
    return judged


def _question(pair: Judged, images: tuple[Image.Image, Image.Image]) -> Request:
    """Return the question for the next vote.

    Every other vote shows the images in the other order, because the answer should not depend on it. The
    first vote in each order is greedy; only the later ones, and those asked for again, need a seed.
    """
    recipe, vote = find_recipe(pair.recipe), len(pair.votes)
    turned = images[::-1] if vote % 2 else images
    seed = AGAIN + vote if str(vote) in pair.repeated else vote // 2 or None
    return Request(recipe.question, turned, seed=seed, schema=schemas.judgment(recipe.parts, TOP_SCORE))


def judge_grids(
    rows: Sequence[Grid],
    *,
    run: Path,
    vlm: VLM,
    embedder: "ImageEmbedder | None",
    thresholds: Thresholds,
    recipe: str | None = None,
    on_grid: Callable[[list[Pair]], None] = lambda pairs: None,
) -> list[Pair]:
    """Return every pair of panels of these grids with its judgment.

    `on_grid` gets the pairs of each grid as soon as they are all decided. `embedder` None skips the first
    stage. `recipe` is the name of the recipe to judge by; None means each grid's own.
    """
    panels = [grids.open_panels(run, grid) for grid in rows]
    vectors = embedder.embed([panel for cut in panels for panel in cut]) if embedder else None  # [panels, c]
    pairs, images, start = [], [], 0
    for grid, cut in zip(rows, panels, strict=True):
        for i, j in combinations(range(len(cut)), 2):
            similarity = None if vectors is None else float(vectors[start + i] @ vectors[start + j])
            pair = new_pair(grid, i, j, similarity, recipe)
            pairs.append(replace(pair, embedder=embedder.name if embedder else None))
            images.append((cut[i], cut[j]))
        start += len(cut)
    sizes, decided = Counter(pair.grid for pair in pairs), {grid.id: [] for grid in rows}

    def on_pair(pair: Pair) -> None:
        done = decided[pair.grid]
        done.append(pair)
        if len(done) == sizes[pair.grid]:
            on_grid(sorted(done, key=lambda pair: (pair.first, pair.second)))

    return judge(pairs, images, vlm=vlm, thresholds=thresholds, on_pair=on_pair)


def new_pair(
    grid: Grid, first: int, second: int, similarity: float | None = None, recipe: str | None = None
) -> Pair:
    """Return a pair that is not judged yet; `recipe` None means the grid's own."""
    settings = {"prompt": grid.prompt, "seed": grid.seed, "recipe": recipe or grid.recipe}
    name = f"{grid.id}-{first}-{second}"
    return Pair(id=name, grid=grid.id, first=first, second=second, similarity=similarity, **settings)


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name; raise RunError, with the known names, for an unknown one."""
    if name not in RECIPES:
        raise RunError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def find_one_task(names: Collection[str]) -> Recipe:
    """Return the first of these recipes; raise RunError for an unknown one or for several tasks."""
    recipes = [find_recipe(name) for name in sorted(names)]
    if len(tasks := {recipe.task for recipe in recipes}) > 1:
        raise RunError(
            f"a run has grids of one task, got {' and '.join(sorted(tasks))} ({', '.join(sorted(names))}): "
            "give each task a run of its own and judge it by its own recipe; train.train takes several runs"
        )
    return recipes[0]


def grid_of(row: Row) -> str:
    """Return the grid's id of a row of pairs or captions: `000042` for `000042-0-3`."""
    return row["id"].rsplit("-", 2)[0]


# ---------------------------------------------------------------- existing runs


def read_pairs(run: Path) -> list[Pair]:
    """Return all pairs of a run; raise RunError if nothing has been judged yet."""
    pairs = jsonl.read_records(run / "pairs.jsonl", Pair)
    if not pairs:
        raise RunError(f"{run} has no judged pairs yet: run train.curate with a --judge first")
    return pairs


def check_settings(path: Path, *, thresholds: Thresholds, **settings: object) -> None:
    """Raise RunError, naming the differences, if the file has rows with other values of these fields."""
    settings |= asdict(thresholds)
    remedy = "use those again, --redecide if only thresholds differ"
    jsonl.read_records(path, Judged)  # raises for rows that are none
    for row in jsonl.read_all(path):
        jsonl.check_same(path, row | row.get("thresholds", {}), settings, remedy)


def redecide(run: Path, thresholds: Thresholds) -> list[Pair]:
    """Decide all pairs of a run again and write them; raise RunError if one would need the judge.

    Captions of grids whose kept pairs change are removed, so that the next run writes them again.
    """
    path, captions = run / "pairs.jsonl", run / "captions.jsonl"
    read_pairs(run)  # raises if there are none
    with jsonl.writing(jsonl.shard(path, 0)):  # lock out a concurrent judging run
        jsonl.merge(path)
        old = read_pairs(run)
        new = [apply(pair, thresholds) for pair in old]
        if unasked := sum(pair.reason == UNASKED for pair in new):
            raise RunError(
                f"{unasked} of {len(new)} pairs need answers that the judge has not given: a lower floor, a "
                "higher ceiling or more votes need a new run"
            )
        changed = {pair.grid for pair, now in zip(old, new, strict=True) if pair.verdict != now.verdict}
        # Captions first: if the process is killed in between, they are only written again.
        if captions.exists() or jsonl.shards(captions):
            jsonl.merge(captions, keep=lambda row: grid_of(row) not in changed)
        jsonl.write_rows(path, [pair.to_json() for pair in new])
    return new


# ---------------------------------------------------------------- human labels


def new_label(pair_id: str, verdict: str) -> Row:
    """Return a person's verdict on a pair as a row of `labels.jsonl`."""
    if verdict not in (KEEP, DROP):
        raise ValueError(f"a label must be {KEEP!r} or {DROP!r}, got {verdict!r}")
    return {"id": pair_id, "label": verdict, "time": datetime.now(UTC).isoformat(timespec="seconds")}


def label(run: Path, pair_id: str, verdict: str) -> None:
    """Append a person's verdict on a pair to `labels.jsonl`; the last one on a pair counts."""
    rows = [new_label(pair_id, verdict)]
    with jsonl.writing(run / "labels.jsonl") as append:
        append(rows)


def labels(run: Path) -> dict[str, str]:
    """Return the last human label, `keep` or `drop`, by pair id."""
    return {row.id: row.label for row in jsonl.read_records(run / "labels.jsonl", Label)}


class Agreement(NamedTuple):
    """How often a person and the judge decide alike, in numbers of pairs."""

    both_keep: int = 0
    both_drop: int = 0
    only_judge: int = 0  # only the judge keeps these
    only_person: int = 0

    @property
    def pairs(self) -> int:
        return self.both_keep + self.both_drop + self.only_judge + self.only_person

    @property
    def share(self) -> float | None:
        """Return the share of pairs that are decided alike, or None if there are no pairs."""
        return (self.both_keep + self.both_drop) / self.pairs if self.pairs else None

    @property
    def kappa(self) -> float | None:
        """Return Cohen's kappa, the agreement beyond chance, or None where it tells nothing.

        If one of the two decides all pairs alike, it is 0 however often they agree, or undefined.
        """
        if not self.pairs:
            return None
        judge = (self.both_keep + self.only_judge) / self.pairs
        person = (self.both_keep + self.only_person) / self.pairs
        chance = judge * person + (1 - judge) * (1 - person)
        return (self.share - chance) / (1 - chance) if 0 < judge < 1 and 0 < person < 1 else None


def agreement(verdicts: Iterable[tuple[str, str]], labels: dict[str, str]) -> Agreement:
    """Compare the judge's verdicts, as (pair id, verdict), with a person's labels."""
    cells = Counter((verdict, labels[pair_id]) for pair_id, verdict in verdicts if pair_id in labels)
    both_keep, both_drop = cells[KEEP, KEEP], cells[DROP, DROP]
    return Agreement(both_keep, both_drop, only_judge=cells[KEEP, DROP], only_person=cells[DROP, KEEP])
