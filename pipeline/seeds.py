"""Lists of seeds and shards as a user writes them."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..imaging.errors import InputError

Item = TypeVar("Item")

MAX_SEED = 2**63 - 1
MAX_SEEDS = 1_000_000


def parse_seeds(text: str) -> tuple[int, ...]:
    """Reads a list of seeds and ranges, both ends included.

    Args:
        text: For example `0-15,40`.

    Returns:
        The seeds in the order written.

    Raises:
        InputError: Not such a list, a range that runs backwards, a seed twice, or more than a million of them.
    """
    remedy = "Give seeds and ranges separated by commas, such as 0-15,40."
    seeds: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)(?:\s*-\s*([0-9]+))?\s*", entry)
        if match is None:
            raise InputError(f"Seed {entry.strip()!r} in {text!r} is neither a whole number nor a range.", remedy)
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first:
            raise InputError(f"Seed range {entry.strip()!r} runs backwards.", f"Write {last}-{first}.")
        if last > MAX_SEED:
            raise InputError(f"Seed {last} is above {MAX_SEED}.", "Choose a smaller seed.")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise InputError(f"{text!r} names more than {MAX_SEEDS} seeds.", "Split the run into several.")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) != len(seeds):
        twice = min(seed for seed, count in Counter(seeds).items() if count > 1)
        raise InputError(f"Seed {twice} occurs twice in {text!r}.", "Name each seed once.")
    return tuple(seeds)


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a run.

    Attributes:
        index: Which share, from 1 to `count`.
        count: Number of shares.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(
                f"Shard {self.index}/{self.count} does not exist.", f"Count shards from 1 to {max(self.count, 1)}."
            )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """What this shard's own files carry in their name, such as `-2-of-3`."""
        return f"-{self.index}-of-{self.count}"

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        """The shard's items: one contiguous block.

        Blocks differ in length by one at most, and the shards one after another are the input in its order, so that
        their manifests can simply be joined.
        """
        start = len(items) * (self.index - 1) // self.count
        stop = len(items) * self.index // self.count
        return items[start:stop]


def parse_shard(text: str) -> Shard:
    """Reads `i/n`, such as `2/3`; InputError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", text)
    if match is None:
        raise InputError(f"Shard {text!r} is not of the form i/n.", "Write for example --shard 2/3.")
    return Shard(int(match[1]), int(match[2]))
