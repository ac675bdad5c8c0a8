"""A uniform sample of a stream that is too long to keep."""

import numpy as np
import numpy.typing as npt


class Reservoir:
    """Up to `size` of all values offered, each set of that many as likely as any other, drawn without replacement.

    Every value has a key, uniform in [0, 1), and those with the smallest keys are kept. Of a block only the values whose key is below
    the largest kept one are drawn at all, so a long stream costs little more than its start.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.seen = 0
        self._size, self._rng = size, rng
        self._keys = np.empty(0, np.float64)
        self._values = np.empty(0, np.float32)

    def offer(self, values: npt.NDArray[np.floating]) -> None:
        """A block (n,) of the stream."""
        bound = float(self._keys.max()) if len(self._keys) == self._size else 1.0
        count = int(self._rng.binomial(len(values), bound))
        rows = self._rng.choice(len(values), count, replace=False, shuffle=False)
        keys = np.concatenate([self._keys, self._rng.random(count) * bound])
        kept = np.concatenate([self._values, values[rows].astype(np.float32)])
        if len(keys) > self._size:
            best = np.argpartition(keys, self._size)[: self._size]
            keys, kept = keys[best], kept[best]
        self._keys, self._values = keys, kept
        self.seen += len(values)

    @property
    def sample(self) -> npt.NDArray[np.float32]:
        """What is kept, (≤ size,), in random order: its halves are two disjoint samples."""
        return self._values[np.argsort(self._keys)]
