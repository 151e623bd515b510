"""Read the next block while the last one is in use."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(blocks: Iterable[T]) -> Iterator[T]:
    """Take each block in a thread of its own while the one before it is in use; order and errors are as without it.

    Examples
    --------
    >>> list(ahead(range(3)))
    [0, 1, 2]
    """
    source, end = iter(blocks), object()
    with ThreadPoolExecutor(1, thread_name_prefix="read ahead") as reader:
        coming = reader.submit(next, source, end)
        while (block := coming.result()) is not end:
            coming = reader.submit(next, source, end)
            yield block  # type: ignore[misc]
