"""Rejected panels as preferences: where a prompt's panel was kept with one seed and rejected with another.

The columns are those of Pick-a-Pic, which diffusers' Diffusion-DPO script reads: `caption`, `jpg_0`, `jpg_1`
and `label_0`. The chosen image is always `jpg_0`; `reference` is the image that it was judged beside.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

from huggingface_hub import DatasetCardData

from dsd.curation.captions import GRID, both_orders, grid_words
from dsd.curation.dataset import Cut, Dataset, digest_of_cuts, write_shards
from dsd.curation.dataset_card import PARQUET_FILES, license_metadata
from dsd.curation.judge import Pair
from dsd.curation.licenses import strictest
from dsd.curation.selection import Choice, Run, find_grid, license, part_licenses
from dsd.curation.verdict import DIFFERENT, DROP, KEEP, LOW, TOO_DIFFERENT
from dsd.files import jsonl
from dsd.files.jsonl import RunError
from dsd.files.markdown import table
from dsd.grids.grids import Grid

# Reasons that say that the subject is another one; a near-copy or an unreadable answer says nothing of it.
ANOTHER = (TOO_DIFFERENT, DIFFERENT, LOW)
LABELED = "labeled different"  # the reason if a person rejected the pair
COLUMNS = {
    "id": "string", "reference": "image", "caption": "string", "jpg_0": "binary", "jpg_1": "binary",
    "label_0": "float64", "label_1": "float64", "instruction": "string", "subject": "string",
    "prompt": "string", "grid_0": "string", "grid_1": "string", "seed_0": "int64", "seed_1": "int64",
    "reason": "string", "judge": "string", "generator": "string", "generator_hash": "string",
    "generator_license": "string", "license": "string",
}  # fmt: skip
MEANINGS = {
    "reference": "the image of the subject",
    "caption": "subject and place, in the words of the grids' prompt",
    "jpg_0": "the chosen image, as the bytes of a PNG: it was kept as the subject of `reference`",
    "jpg_1": "the rejected image: the same panel of the same prompt with another seed",
    "label_0, label_1": "1 and 0: `jpg_0` is preferred in every row",
    "instruction": "the place alone, for a model that sees the reference",
    "grid_0, grid_1, seed_0, seed_1": "the grids that the two images are from, and their seeds",
    "reason": "why the pair of `grid_1` that `jpg_1` is from was rejected",
}
CARD = """\
# Preferences between images of one prompt

{rows:,} rows for Diffusion-DPO, from {prompts:,} prompts, each drawn with several seeds by {generators}. The
columns are those of [Pick-a-Pic](https://huggingface.co/datasets/yuvalkirstain/pickapic_v2), which the script
`train_diffusion_dpo.py` of diffusers reads, and `reference` besides.

{columns}

## Rejected for

{reasons}

## Limits

- `jpg_1` was compared with a panel of its own grid, not with `reference`, and either of the two may be wrong.
- `reference` and `jpg_0` are of one grid; `jpg_1` shows a subject that was drawn anew from the same words.
- The judge errs, and an image can be in several rows.

## License

{licenses}
"""


def select_preferences(run: Run, choice: Choice) -> list[Cut]:
    """Return a row for every panel that was kept with one seed and rejected with another.

    Raise RunError if there is none, or for a pair without its grid or panels.
    """
    prompts: dict[tuple, list[Grid]] = defaultdict(list)
    for grid in run.grids.values():
        prompts[grid.prompt, grid.rows, grid.columns].append(grid)
    pairs: dict[str, dict[tuple[int, int], Pair]] = defaultdict(dict)
    for pair in run.pairs:
        pairs[find_grid(pair, run).id][pair.first, pair.second] = pair
    cuts = [
        cut
        for grids in prompts.values()
        for chosen, rejected in permutations(grids, 2)
        for cut in _compare(run, choice, (chosen, rejected), pairs)
    ]
    if not cuts:
        several = sum(len(grids) > 1 for grids in prompts.values())
        raise RunError(
            f"{run.folder} has no preferences: {several} prompts were drawn with several seeds, and no panel "
            "was kept with one and rejected with another; draw more with train.grids --seeds 2 and judge them"
        )
    return sorted(cuts, key=lambda cut: cut.row["id"])


def _compare(
    run: Run, choice: Choice, grids: tuple[Grid, Grid], pairs: dict[str, dict[tuple[int, int], Pair]]
) -> Iterator[Cut]:
    """Yield the rows of two grids of one prompt, of which the panels of the first are the chosen ones."""
    labels = run.labels if choice.labels else {}
    chosen, rejected = grids
    for panels, kept in pairs[chosen.id].items():
        dropped = pairs[rejected.id].get(panels)
        if dropped and _verdict(kept, labels) == KEEP and _verdict(dropped, labels) == DROP:
            reason = LABELED if dropped.id in labels else dropped.reason
            for reference, target in both_orders([panels]):
                row = _row(run, choice, grids, (kept, dropped), (reference, target)) | {"reason": reason}
                images = {
                    "reference": (chosen, reference),
                    "jpg_0": (chosen, target),
                    "jpg_1": (rejected, target),
                }
                yield Cut(row, images)


def _verdict(pair: Pair, labels: dict[str, str]) -> str | None:
    """Return whether a pair shows one subject (KEEP) or two (DROP), or None if that is not known."""
    if pair.id in labels or pair.is_kept:
        return labels.get(pair.id, KEEP)
    return DROP if pair.reason in ANOTHER else None


def _row(
    run: Run, choice: Choice, grids: tuple[Grid, Grid], pairs: tuple[Pair, Pair], order: tuple[int, int]
) -> jsonl.Row:
    (chosen, rejected), (kept, _), (reference, target) = grids, pairs, order
    caption, instruction = map(choice.mark, grid_words(chosen, target))
    about = {name: getattr(chosen, name) for name in ("subject", "prompt", "generator", "generator_hash")}
    licenses = [part_licenses(pair, grid, GRID, run) for pair, grid in zip(pairs, grids, strict=True)]
    return about | {
        "id": f"{chosen.id}-{reference}-{target}-{rejected.id}",
        "caption": caption, "instruction": instruction, "label_0": 1.0, "label_1": 0.0,
        "grid_0": chosen.id, "grid_1": rejected.id, "seed_0": chosen.seed, "seed_1": rejected.seed,
        "judge": kept.judge,
        "generator_license": strictest(map(license, grids)),
        "license": strictest(it for one in licenses for it in one.values()),
    }  # fmt: skip


def write_preferences(
    run: Run, out: Path, choice: Choice, *, on_rows: Callable[[int, int], None] = lambda done, total: None
) -> Dataset:
    """Write the preferences of a run and their card to `out`; files that are up to date stay as they are."""
    cuts = select_preferences(run, choice)
    written = write_shards(out, run, cuts, COLUMNS, digest_of_cuts(cuts).encode(), on_rows=on_rows)
    text = _card(written.rows).encode()
    if not (out / "README.md").exists() or (out / "README.md").read_bytes() != text:
        jsonl.write_atomic(out / "README.md", text)
    return written


def _card(rows: list[jsonl.Row]) -> str:
    reasons, licenses = (Counter(row[name] for row in rows) for name in ("reason", "license"))
    metadata = DatasetCardData(
        **license_metadata(set(licenses)),
        configs=[{"config_name": "default", "data_files": PARQUET_FILES}],
        tags=["dpo", "diffusion-self-distillation", "synthetic"],
    )
    page = CARD.format(
        rows=len(rows),
        prompts=len({row["prompt"] for row in rows}),
        generators=", ".join(sorted({row["generator"] for row in rows})),
        columns=table(("column", "content"), MEANINGS.items()),
        reasons=table(("reason", "rows"), reasons.most_common()),
        licenses=table(("strictest license of all parts", "rows"), licenses.most_common()),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{page}"
