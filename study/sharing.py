"""Several processes on one study folder: who makes what, and who waits for whom."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..imaging.locks import FileLock, LockUnsupportedError
from ..pipeline.seeds import Shard
from .plan import Run

# A wait is interrupted this often, so that the process can be stopped meanwhile.
WAIT_S = 60.0
Say = Callable[[str], None]


def chain_of(run: Run) -> tuple[int, str, str]:
    """What a run belongs to: a pretraining and everything that starts from it, or the runs from scratch of a trial."""
    return run.trial, run.sequences, run.pretraining


def share_runs(runs: Sequence[Run], shard: Shard | None) -> list[Run]:
    """The runs of a shard: every n-th chain, so that no shard needs another one's weights.

    Args:
        runs: All runs, in the order of the plan.
        shard: None for all of them.

    Returns:
        The shard's runs in their order; the shards together are `runs`, and no run is in two of them.
    """
    if shard is None:
        return list(runs)
    chains = {chain: number for number, chain in enumerate(dict.fromkeys(map(chain_of, runs)))}
    return [run for run in runs if chains[chain_of(run)] % shard.count == shard.index - 1]


@contextmanager
def hold(folder: Path, name: str, say: Say) -> Iterator[None]:
    """Holds a lock of a study folder, waiting while another process has it.

    Args:
        folder: The study folder.
        name: What is locked, such as `exams`.
        say: Told when it has to wait.
    """
    (folder / ".ccella").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".ccella" / f"{name}.lock")
    try:
        # Without locks there is nothing to wait for; the study's own lock has said so.
        with suppress(LockUnsupportedError):
            if not lock.acquire():
                say(f"Waiting for another process that is at {name} in {folder}.")
                while not lock.acquire(wait_s=WAIT_S):
                    pass
        yield
    finally:
        lock.release()
