"""Where downloads are kept on this machine."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$FIP_CACHE, else $XDG_CACHE_HOME/fip, else ~/.cache/fip."""
    base = os.environ.get("FIP_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fip"
