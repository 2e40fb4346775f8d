"""Which rows make a step: functions of the seed and the step's number alone."""

from functools import lru_cache

import numpy as np

BUCKETS, ORDER, CHOICES, TIMES, REFERENCES = range(5)  # independent random streams
BLOCK = 128  # rows that are encoded together
WINDOW = 8  # blocks whose rows are mixed, if a dataset is encoded while it trains


class Order:
    """The rows of each step: all of one frame size, and each row of a size once before any repeats."""

    def __init__(self, buckets: np.ndarray, group: int, seed: int) -> None:
        self.members = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
        self.group, self.seed = group, seed
        self._shares = np.array([len(rows) for rows in self.members]) / len(buckets)

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, [group]; its frame size is drawn in proportion to its rows."""
        lots = random(self.seed, BUCKETS).random(step + 1)  # a longer draw starts with the same values
        buckets = np.searchsorted(self._shares.cumsum()[:-1], lots, side="right")
        bucket, before = int(buckets[step]), int((buckets[:step] == buckets[step]).sum())
        members = self.members[bucket]
        rounds, places = np.divmod(np.arange(self.group) + before * self.group, len(members))
        orders = {turn: _permutation(self.seed, bucket, turn, len(members)) for turn in set(rounds.tolist())}
        return members[[orders[turn][place] for turn, place in zip(rounds.tolist(), places, strict=True)]]


class WindowedOrder:
    """The rows of each step, all of one frame size: blocks in random order, rows mixed within WINDOW blocks.

    So a step reads from a few blocks, and each row comes once before any repeats.
    """

    def __init__(self, count: int, group: int, seed: int) -> None:
        self.count, self.group, self.seed = count, group, seed

    def rows(self, step: int) -> np.ndarray:
        """Return the rows of a step, [group]."""
        turns, places = np.divmod(np.arange(self.group) + step * self.group, self.count)
        orders = {turn: _mix(self.seed, turn, self.count) for turn in set(turns.tolist())}
        return np.array([orders[turn][place] for turn, place in zip(turns.tolist(), places, strict=True)])


@lru_cache(maxsize=32)
def _permutation(seed: int, bucket: int, turn: int, count: int) -> np.ndarray:
    return random(seed, ORDER, bucket, turn).permutation(count)


@lru_cache(maxsize=2)
def _mix(seed: int, turn: int, count: int) -> np.ndarray:
    """Return all rows in the order of a turn, [count]."""
    generator = random(seed, ORDER, turn)
    blocks = [np.array(rows) for rows in split(count)]
    order = generator.permutation(len(blocks))
    windows = [order[start : start + WINDOW] for start in range(0, len(order), WINDOW)]
    return np.concatenate(
        [generator.permutation(np.concatenate([blocks[i] for i in window])) for window in windows]
    )


def random(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng((seed, *place))


def split(count: int) -> list[range]:
    """Return the blocks of a dataset: BLOCK rows each, and what remains in the last one."""
    starts = range(0, max(1, count - BLOCK + 1), BLOCK)
    return [range(start, count if start == starts[-1] else start + BLOCK) for start in starts]


def block_of(row: int, count: int) -> int:
    """Return the number of the block that a row is in."""
    return min(row // BLOCK, max(0, count // BLOCK - 1))
