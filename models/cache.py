"""Where downloads and compiled code are kept on this machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$FIP_CACHE, else $XDG_CACHE_HOME/fip, else ~/.cache/fip. Raises: RuntimeError (neither is set, and there is no home)."""
    if base := os.environ.get("FIP_CACHE"):
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fip"


def file_name(text: str) -> str:
    """The text with letters, digits, dots and dashes alone."""
    return "".join(each if each.isalnum() or each in ".-" else "_" for each in text)
