"""Digests of large data sets, kept on this machine, so that not every start of a run reads all files."""

import os
import re
from collections.abc import Callable

from models.cache import cache_dir

_DIGEST = re.compile(r"[0-9a-f]{64}")


def kept_digest(key: str, compute: Callable[[], str]) -> str:
    """A digest by its key: as it was kept, else computed and kept. Where nothing can be kept, it is computed each time."""
    try:
        path = cache_dir() / "scenes" / "digests" / key
        found = path.read_text(encoding="ascii")
    except (OSError, RuntimeError, ValueError):  # not kept, no home, or not text
        found = ""
    if _DIGEST.fullmatch(found):
        return found
    digest = compute()
    try:
        path = cache_dir() / "scenes" / "digests" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{key}.{os.getpid()}.part")
        part.write_text(digest, encoding="ascii")
        part.replace(path)
    except (OSError, RuntimeError):
        pass  # it costs time alone
    return digest
