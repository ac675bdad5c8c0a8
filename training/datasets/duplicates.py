"""Files of equal bytes. F files; a group is named by the row of its first file."""

import numpy as np
import numpy.typing as npt


def group_ids(sha256: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(F, 32) digests -> (F,) the row of the first file with the same digest; its own where a file is the only one."""
    words = np.ascontiguousarray(sha256).view(np.uint64)  # (F, 4)
    order = np.lexsort(words.T)  # equal digests stand together, in the order of their rows
    ordered = words[order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = order[np.flatnonzero(starts)]
    groups = np.empty(len(order), np.int64)
    groups[order] = first[np.cumsum(starts) - 1]
    return groups


def repeated(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Names of the groups with more than one file, ascending."""
    return np.unique(groups[groups != np.arange(len(groups))])


def spanning(groups: npt.NDArray[np.int64], kinds: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Names of the groups whose files are not all of one kind (a class, a split), ascending. groups, kinds (F,)."""
    return np.unique(groups[kinds != kinds[groups]])
