"""The grids that a judge kept as a whole, as rows that the teacher is tuned on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any

from dsd.curation.judge import Pair, read_pairs
from dsd.curation.licenses import strictest
from dsd.curation.selection import license
from dsd.files.jsonl import Row, RunError
from dsd.generate.drawing import public_name
from dsd.grids.grids import Grid, open_grid, read_grids
from dsd.model.canvas import MULTIPLE


@dataclass(frozen=True)
class GridRows(Sequence):
    """Grids of one size as rows: the two halves of a grid as `conditioning` and `target`, and its prompt."""

    run: Path
    grids: list[Grid]
    share: float

    def __len__(self) -> int:
        return len(self.grids)

    def __getitem__(self, index: int) -> Row:
        grid = self.grids[index]
        image = open_grid(self.run, grid)
        if image.size != self.size:
            size, first = (f"{width} x {height}" for width, height in (image.size, self.size))
            raise RunError(
                f"grid {grid.id} of {self.run} has {size} pixels, and {self.grids[0].id} has {first}: "
                "tune on a run whose grids have one size"
            )
        half, height = image.width // 2, image.height
        left, right = image.crop((0, 0, half, height)), image.crop((half, 0, image.width, height))
        return {"id": grid.id, "conditioning": left, "target": right, "caption": grid.prompt}

    @cached_property
    def size(self) -> tuple[int, int]:
        """Return width and height of the first grid in pixels; raise RunError if it has no halves."""
        width, height = open_grid(self.run, self.grids[0]).size
        if width % (2 * MULTIPLE) or height % MULTIPLE:
            raise RunError(
                f"a grid's width must be a multiple of {2 * MULTIPLE} pixels and its height of {MULTIPLE}, "
                f"got {width} x {height}: draw with another --panel"
            )
        return width, height

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts about these grids that a LoRA trained on them records."""
        strict = strictest(license(grid) for grid in self.grids)
        about = {"run": public_name(str(self.run)), "generator": self.grids[0].generator, "license": strict}
        return about | {"grids": len(self), "share": self.share}


def open_kept(run: Path, share: float = 1.0) -> GridRows:
    """Return the grids of which the judge kept at least this share of the pairs; raise RunError for none.

    With a share of 1, all panels of a grid show one subject, and no two are near-copies.
    """
    if not 0 < share <= 1:
        raise ValueError(f"--share must be above 0 and at most 1, got {share}")
    pairs, grids = read_pairs(run), read_grids(run)
    kept = kept_shares(pairs, grids)
    chosen = [grid for grid in grids if kept.get(grid.id, 0.0) >= share]
    if not chosen:
        raise RunError(
            f"no grid of {run} has {share:.0%} of its pairs kept, and the best has "
            f"{max(kept.values(), default=0.0):.0%}: lower --share, or draw and judge more grids"
        )
    return GridRows(run, chosen, share)


def kept_shares(pairs: list[Pair], grids: list[Grid]) -> dict[str, float]:
    """Return the share of its pairs that the judge kept, for each grid whose pairs are all judged."""
    judged = Counter(pair.grid for pair in pairs)
    kept = Counter(pair.grid for pair in pairs if pair.is_kept)
    sizes = {grid.id: comb(grid.rows * grid.columns, 2) for grid in grids}
    return {name: kept[name] / size for name, size in sizes.items() if size and judged[name] == size}
