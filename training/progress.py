"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere; on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click
from tqdm import tqdm

T = TypeVar("T")
LINE_EVERY_S = 30.0


def progress(items: Iterable[T], what: str, total: int, *, start: int = 0, quiet: bool = False) -> Iterator[T]:
    """The items, while saying how many of `total` are done; `start` were done before. quiet: another process says it."""
    if quiet:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, what, total=total, initial=start, leave=False)
        return
    said = time.monotonic()
    for done, item in enumerate(items, start):
        if time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            click.echo(f"{what}: {done} of {total}", err=True)
        yield item
