"""Names that are given once: what a column is called where its name is taken."""

from collections.abc import Callable, Container


def numbered(name: str, taken: Container[str], key: Callable[[str], str] = str) -> str:
    """The name, or where that is taken the first of `name_2`, `name_3`, ... that is free. key: as what names are in `taken`."""
    number, free = 1, name
    while key(free) in taken:
        number += 1
        free = f"{name}_{number}"
    return free
