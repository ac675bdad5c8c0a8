"""What a service in this process writes to its log."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from service.logs import JsonLines


@contextmanager
def logged(level: int) -> Iterator[io.StringIO]:
    """JSON lines from this level on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("fip.service")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield stream
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
