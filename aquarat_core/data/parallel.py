"""Applies a function to a stream of parts, on all cores and in order, with few parts in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def mapped(function: Callable[[T], R], parts: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """`function(part)` for each of `parts`, in order.

    Each thread (default: one per core) works on a part of its own while this thread reads the next part and the
    caller uses the previous result; threads do not wait for each other. An error that `function` raises is raised in
    place of its result.
    """
    threads = threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        results: deque[Future[R]] = deque()
        for part in parts:
            results.append(pool.submit(function, part))
            if len(results) > 2 * threads:
                yield results.popleft().result()
        while results:
            yield results.popleft().result()
