"""Classes of a data set: their names and colours, and the ids by which its label files call them. Data, not code.

N points, L classes. The maps of known data sets lie in `label_maps`; a user's own is a `labels.yaml` of the same form:

    classes:
      - {name: road, colour: [255, 0, 255], ids: [40, 60]}   # written as 40, the first
      - {name: tree, colour: [0, 175, 0], ids: [70]}
    ignore: [0, 1]                                           # points that no loss and no score counts
    groups:                                                  # labels that say only that it is one of some classes
      - {classes: [road, tree], ids: [99]}                   # trained on as such, not scored
"""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, ValidationError, model_validator

from models.errors import BadLabels, nearest
from models.frozen import Frozen

BUNDLED = Path(__file__).resolve().parent / "label_maps"
IGNORE = -1  # the class of points that no loss and no score counts
OPEN = -2  # and below: of points that are of one of some classes; OPEN - g of those of group g

Byte = Annotated[int, Field(ge=0, le=255)]
LabelId = Annotated[int, Field(ge=0, lt=1 << 16)]  # the upper half of what a label file has for a point is its object's number


class LabelClass(Frozen):
    """One class. colour: RGB. ids: what it is called in label files; the first is what answers are written with.

    scored: whether scores count it; one that they leave out is learnt all the same (a quirk of the reference's S3DIS).
    """

    name: Annotated[str, Field(min_length=1)]
    colour: tuple[Byte, Byte, Byte]
    ids: Annotated[tuple[LabelId, ...], Field(min_length=1)]
    scored: Annotated[bool, Field(exclude_if=lambda scored: scored)] = True


class LabelGroup(Frozen):
    """A label that leaves open which of some classes it is: other data sets know fewer classes."""

    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    ids: Annotated[tuple[LabelId, ...], Field(min_length=1)]


class LabelMap(Frozen):
    """L classes, in the order of a net's outputs, the ids of points that have none of them, and G groups of classes."""

    classes: Annotated[tuple[LabelClass, ...], Field(min_length=1)]
    ignore: tuple[LabelId, ...] = ()
    groups: Annotated[tuple[LabelGroup, ...], Field(exclude_if=lambda groups: not groups)] = ()

    @model_validator(mode="after")
    def each_once(self) -> "LabelMap":
        names = [each.name for each in self.classes]
        ids = self.known_ids
        for kind, counts in (("name", Counter(names)), ("id", Counter(ids))):
            twice = [each for each, times in counts.items() if times > 1]
            if twice:
                raise ValueError(f"the {kind} {twice[0]!r} is there twice")
        return self

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def known_ids(self) -> list[int]:
        """All ids of classes, groups and what is ignored."""
        of_classes = [number for each in self.classes for number in each.ids]
        return of_classes + [number for group in self.groups for number in group.ids] + list(self.ignore)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.classes)

    @cached_property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(L,) whether scores count each class; read-only"""
        return _frozen(np.array([each.scored for each in self.classes], np.bool_))

    @cached_property
    def colours(self) -> npt.NDArray[np.uint8]:
        """(L, 3), read-only"""
        return _frozen(np.array([each.colour for each in self.classes], np.uint8))

    @cached_property
    def written(self) -> npt.NDArray[np.uint32]:
        """(L,) the id that answers of each class are written with; read-only"""
        return _frozen(np.array([each.ids[0] for each in self.classes], np.uint32))

    def classes_of(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Ids of a label file (N,) -> classes (N,): IGNORE where the id is one of those, OPEN - g where it is of group g.

        Raises: BadLabels (an id is in no list).
        """
        parts = [(place, each.ids) for place, each in enumerate(self.classes)]
        parts += [(OPEN - place, each.ids) for place, each in enumerate(self.groups)] + [(IGNORE, self.ignore)]
        known = np.array([number for _, ids in parts for number in ids], np.int64)
        targets = np.repeat([target for target, _ in parts], [len(ids) for _, ids in parts])
        order = np.argsort(known)
        known, targets = known[order], targets[order].astype(np.int64)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)  # much faster than finding the distinct ids first
        strange = known[place] != ids
        if strange.any():
            first = ids[strange].min()
            raise BadLabels(f"id {first} is neither of a class nor among those to ignore", where=f"id {first}")
        return np.asarray(targets[place])

    def members(self) -> npt.NDArray[np.bool_]:
        """(G, L) which classes each group may be. Raises: BadLabels (a group names no class)."""
        names = self.names
        table = np.zeros((len(self.groups), len(names)), np.bool_)
        for row, group in enumerate(self.groups):
            for name in group.classes:
                if name not in names:
                    raise BadLabels(f"a group names no class {name!r}{nearest(name, names)}", where=f"groups.{row}", known=names)
                table[row, names.index(name)] = True
        return table

    def ids_of(self, classes: npt.NDArray[np.integer]) -> npt.NDArray[np.uint32]:
        """Classes (N,) -> the ids that they are written with (N,)."""
        if classes.size and classes.min() < 0:  # numpy would count from the end: IGNORE would become the last class
            raise ValueError(f"no class {classes.min()}; points without a class have no id that they are written with")
        return self.written.take(classes)


def bundled_label_maps() -> list[str]:
    """Names of the maps in the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def load_label_map(name: str) -> LabelMap:
    """A map of the package. Raises: BadLabels (unknown; lists the known ones)."""
    known = bundled_label_maps()
    if name not in known:
        raise BadLabels(f"no label map of that name{nearest(name, known)}", where=name, known=known)
    return read_label_map(BUNDLED / f"{name}.yaml")


def read_label_map(path: Path) -> LabelMap:
    """A map from a file. Raises: BadLabels (says what is wrong and where)."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if content is None:
            raise BadLabels("is empty; without it `fip data inspect` prints what belongs there", where=str(path))
        return LabelMap.model_validate(content)
    except OSError as error:
        raise BadLabels(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"{part}." for part in first["loc"])[:-1]
        raise BadLabels(f"{place}: {first['msg']}" if place else first["msg"], where=str(path)) from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadLabels(f"not YAML: {error.problem or error}", where=f"{path}{line}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-01
        raise BadLabels(f"not YAML: {str(error).splitlines()[0]}", where=str(path)) from error


Values = TypeVar("Values", bound=np.generic)


def _frozen(values: npt.NDArray[Values]) -> npt.NDArray[Values]:
    values.flags.writeable = False
    return values
