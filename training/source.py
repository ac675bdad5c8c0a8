"""What a run is given to learn from."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from models.errors import BadDataset
from models.manifest import InputSpec
from training.data import Data
from training.recipe import Recipe


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


def validation_of(recipe: Recipe, source: Source) -> Data | None:
    """What the epochs of a run are validated on; None = a part of the training data. Raises: BadDataset (it is to be the test data, of
    which there are none).
    """
    if recipe.selection != "reference":
        return source.validation
    test = source.test()
    if test is None:
        raise BadDataset("selection reference chooses the epoch on the test data, and there are none", where=source.name)
    return test


@dataclass(frozen=True)
class Derived:
    """Values for keys of InputSpec that the data decided, and a line that says why for each."""

    values: Mapping[str, object]
    reasons: tuple[str, ...]

    def reasons_of(self, keys: Container[str]) -> list[str]:
        """The lines on these keys. A line begins with its key; what begins otherwise is on the features."""
        begins = [(line.split()[0], line) for line in self.reasons]
        return [line for first, line in begins if (first if first in InputSpec.model_fields else "features") in keys]
