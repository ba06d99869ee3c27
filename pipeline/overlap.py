"""Work that goes on in threads beside its producer or its user: order kept, and never more than so many at a time."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar, cast

import torch

Key = TypeVar("Key")
Result = TypeVar("Result")
Item = TypeVar("Item")

# Compressing an exam of 256x256x128 takes about four seconds of one core; a fast GPU makes one in a second.
MOST_THREADS = 8


def choose_writers(device: torch.device) -> int:
    """Threads that write while a device computes: none on the CPU, whose cores the networks themselves keep busy."""
    if device.type != "cuda":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores - 1))


def run_ahead(items: Iterable[Item], threaded: bool) -> Generator[Item, None, None]:
    """Produces items in a thread, one ahead of whoever takes them; in the caller's thread where not `threaded`.

    Order is kept, and what producing an item raises is raised where that item is asked for.
    """
    producer = iter(items)
    if not threaded:
        yield from producer
        return
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        following = pool.submit(next, producer, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, producer, end)
            yield cast("Item", item)


def run_behind(
    tasks: Iterable[tuple[Key, Callable[[], Result]]], threads: int
) -> Generator[tuple[Key, Callable[[], Result]], None, None]:
    """Runs tasks in threads while `tasks` goes on producing, and hands their results out in the tasks' order.

    Args:
        tasks: Pairs of a key and what to do; produced in the caller's thread.
        threads: How many run at a time, and how many may be under way or waiting to be handed out while `tasks`
            produces the next; with 0 each task runs in the caller's thread when its result is asked for.

    Yields:
        Each key and a function that gives the task's result, or raises what it raised.
    """
    if threads == 0:
        yield from tasks
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        waiting: deque[tuple[Key, Future[Result]]] = deque()
        try:
            for key, task in tasks:
                waiting.append((key, pool.submit(task)))
                while waiting and (len(waiting) > threads or waiting[0][1].done()):
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            # After an error or an interruption: what has begun is finished, what has not is left to `--resume`.
            pool.shutdown(cancel_futures=True)


def _finished(key: Key, future: Future[Result]) -> tuple[Key, Callable[[], Result]]:
    wait([future])
    return key, future.result
