"""What a run is given to learn from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.data import Data


@dataclass(frozen=True)
class Source:
    """name: for people and cards. validation: where the data set comes with one. test: reads the test clouds when called; None
    where there are none. derive: keys of InputSpec, and why. notes: what whoever uses a model of these clouds must know.
    """

    name: str
    train: Data
    test: Callable[[], Data | None]
    derive: Callable[[], "Derived"]
    validation: Data | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """Values for keys of InputSpec that the data decided, and a line that says why for each."""

    values: Mapping[str, object]
    reasons: tuple[str, ...]
