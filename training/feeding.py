"""Batches prepared while the device computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .task import Batch

Place = tuple[int, int]


class Feeder:
    """Hands out the micro-batches of a run in order, one prepared ahead by a thread of its own.

    A batch is a function of its place alone, so it does not matter who prepares it or when.

    Args:
        prepare: Makes the batch of a (step, micro-batch) pair, on the CPU.
        ahead: Whether to prepare the next one meanwhile; on a CPU the thread would only take the network's cores.
    """

    def __init__(self, prepare: Callable[[int, int], Batch], *, ahead: bool) -> None:
        self._prepare = prepare
        self._pool = ThreadPoolExecutor(1, "batches") if ahead else None
        self._next: tuple[Place, Future[Batch]] | None = None

    def take(self, place: Place, following: Place) -> Batch:
        """The batch of `place`; then the preparation of `following` begins."""
        if self._pool is None:
            return self._prepare(*place)
        waiting, self._next = self._next, None
        batch = waiting[1].result() if waiting is not None and waiting[0] == place else self._prepare(*place)
        self._next = (following, self._pool.submit(self._prepare, *following))
        return batch

    def close(self) -> None:
        """Ends the thread; a batch in preparation is finished first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
