"""What a registry may be opened by. Nothing is imported or asked here, so that a command line can check it at once."""

from pathlib import Path


def is_url(address: str) -> bool:
    """Whether it names a server."""
    return address.startswith(("http://", "https://"))


def is_address(text: str) -> bool:
    """Whether it is a folder that exists, or names a server."""
    return is_url(text) or (text != "" and Path(text).is_dir())
