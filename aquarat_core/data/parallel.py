"""A function over a stream of parts, on all cores and in order, with few parts in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def mapped(function: Callable[[T], R], parts: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """`function(part)` for each of `parts`, in their order.

    Every thread (default: one a core) works on a part of its own, while this one reads the next and the caller does
    with the last what it likes: none waits until all are done with the same part. What `function` raises is raised
    where its result would come.
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
