"""A table of all cells of a bounding volume: the fastest way to find a site, where the volume is small.

A room or a batch of small clouds fills a few percent of its box; a LiDAR scan fills one cell in 20,000, and its table would
take gigabytes. So the table is capped, by the number of sites and absolutely. S sites, Q queries.
"""

import torch

CELLS_PER_SITE = 128  # 512 bytes of table a site: still quicker to fill than the sites are to search
LARGEST = 1 << 24  # cells, 64 MiB ...
ALWAYS_PER_SITE = 16  # ... unless that is little beside the sites themselves: a map of 27 taps takes more


def affordable(cells: int, sites: int) -> bool:
    """Whether a table of so many cells is worth its memory."""
    return cells <= max(min(CELLS_PER_SITE * sites, LARGEST), ALWAYS_PER_SITE * sites)


class DenseTable:
    """Row of every key: keys (S,) in [0, cells), any order. Raises: ValueError on duplicates."""

    def __init__(self, keys: torch.Tensor, cells: int) -> None:
        rows = torch.arange(len(keys), dtype=torch.int32, device=keys.device)
        self._table = torch.full((cells,), -1, dtype=torch.int32, device=keys.device)
        self._table.scatter_(0, keys.long(), rows)
        if not torch.equal(self._table.index_select(0, keys), rows):
            raise ValueError("duplicate coordinates in a sparse tensor")

    def column(self, keys: torch.Tensor, steps: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """For each step: (rows found for keys + step, positions in `keys` they were found for), both int32."""
        found = []
        for step in steps:
            rows = self._table.index_select(0, keys + step)
            positions = places(rows >= 0)
            found.append((rows.index_select(0, positions), positions))
        return found

    def rows(self, wanted: torch.Tensor) -> torch.Tensor:
        """The row of each key, -1 where there is none: (Q,) -> (Q,) int32."""
        return self._table.index_select(0, wanted)


def places(mask: torch.Tensor) -> torch.Tensor:
    """Where a mask (Q,) holds, ascending, int32. On a CPU numpy counts four times as fast as torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(mask.numpy().nonzero()[0]).int()
    return mask.nonzero().squeeze(1).int()
