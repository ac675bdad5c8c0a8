"""What every answer is written from: a file with a class and a confidence for each of its points."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.io import CloudFile
from models.io.columns import roles_of
from models.io.records import Records, Table
from models.labels import LabelMap
from models.pointcloud import PointCloud

MOST_CLASSES = 1 << 16
ADDED = ("label", "confidence", "label_red", "label_green", "label_blue")
PREFIX = "fip_"
WIDENED = {"b1": "u1", "f2": "f4"}  # what formats that have no such type hold without loss
EXACT_IN_DOUBLE = 1 << 53  # up to here all whole numbers are doubles

Column = npt.NDArray[np.generic]  # (n,)


@dataclass(frozen=True)
class Labelled:
    """N points and their answers. labels (N,) classes of any integer type, 0 ≤ label < L; confidence (N,) float32, 0..1.

    cloud: what was read of the file, its extra columns not needed; it must still be open, for its rows are read once more. same: the
    answer is to be the file as it was and no more than columns added, whatever its format would rather have changed.
    """

    file: CloudFile
    cloud: PointCloud
    labels: npt.NDArray[np.integer]
    confidence: npt.NDArray[np.float32]
    label_map: LabelMap
    same: bool = False

    def __post_init__(self) -> None:
        n, classes = len(self.cloud), len(self.label_map)
        if self.labels.shape != (n,) or self.labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be ({n},) integers, got {self.labels.shape} {self.labels.dtype}")
        if self.confidence.shape != (n,) or self.confidence.dtype != np.float32:
            raise ValueError(f"confidence must be ({n},) float32, got {self.confidence.shape} {self.confidence.dtype}")
        if n and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(f"labels must lie in 0..{classes - 1}, got {self.labels.min()}..{self.labels.max()}")
        if classes > MOST_CLASSES:
            raise ValueError(f"at most {MOST_CLASSES} classes, got {classes}")

    @property
    def indices(self) -> npt.NDArray[np.integer]:
        """labels (N,) in the smallest type that holds the classes of the map: u8 up to 256 of them, else little-endian u16."""
        return self.labels.astype(index_type(self.label_map), copy=False)

    def added(self, rows: slice) -> list[Column]:
        """The columns of ADDED, in that order, for some of the points: the class (see `added_types`), its confidence, its colour."""
        red, green, blue = self.label_map.colours.take(self.labels[rows], axis=0).T  # (L, 3) -> (n, 3)
        return [self.labels[rows].astype(index_type(self.label_map)), self.confidence[rows], red, green, blue]


def index_type(label_map: LabelMap) -> str:
    """numpy's code of the smallest type that holds the classes of the map."""
    return "u1" if len(label_map) <= 256 else "<u2"


def added_types(label_map: LabelMap) -> tuple[str, ...]:
    """numpy's codes of the columns of ADDED."""
    return (index_type(label_map), "<f4", "u1", "u1", "u1")


def added_names(taken: Iterable[str]) -> tuple[str, ...]:
    """The names of ADDED, each with the prefix `fip_` until it is free; case does not tell two names apart, as in our reader."""
    lower = {name.lower() for name in taken}
    return tuple(prefixed(name, lower) for name in ADDED)


def prefixed(name: str, taken: Container[str]) -> str:
    """The name with as many prefixes `fip_` as it takes to be free."""
    while name in taken:
        name = PREFIX + name
    return name


def code_of(dtype: np.dtype[np.generic]) -> str:
    """numpy's letter and the bytes of a value: `f4`."""
    return f"{dtype.kind}{dtype.itemsize}"


def packed_rows(types: Iterable[str], columns: Sequence[Column]) -> npt.NDArray[np.uint8]:
    """n rows as they stand in a file, (n, bytes of a row): the columns (n,), each of its type, one directly behind the other."""
    row = np.dtype([(str(place), each) for place, each in enumerate(types)])
    block = np.empty(len(columns[0]), row)
    for name, column in zip(row.names or (), columns, strict=True):
        block[name] = column
    return block.view(np.uint8).reshape(len(block), row.itemsize)


@dataclass(frozen=True)
class Plain:
    """The columns of a file for a format that is not its own, under the names that programs look for: x, y, z, red, green, blue (0..255,
    one byte each) and intensity first; the others as the file has them. `names` and `types` are those of the columns, in their order.
    """

    names: tuple[str, ...]
    types: tuple[np.dtype[np.generic], ...]
    _records: Records
    _sources: tuple[str | int, ...]  # a column of the file, or a channel of the colour

    def blocks(self, cloud: PointCloud) -> Iterator[tuple[slice, list[Column]]]:
        """The columns, some rows at a time."""
        for rows, table in self._records.blocks():
            yield rows, [self._column(source, table, rows, cloud) for source in self._sources]

    @staticmethod
    def _column(source: str | int, table: Table, rows: slice, cloud: PointCloud) -> Column:
        if isinstance(source, str):
            return table[source]
        assert cloud.rgb is not None
        return cloud.rgb[rows, source]


def plain_columns(records: Records) -> Plain:
    """Raises: MissingCoordinates."""
    roles = roles_of(records.names)
    found: list[tuple[str, str | int]] = list(zip("xyz", roles.xyz, strict=True))
    if roles.rgb:
        found += zip(("red", "green", "blue"), range(3), strict=True)
    if roles.intensity is not None:
        found.append(("intensity", roles.intensity))
    found += [(name, name) for name in roles.extra]
    types = tuple(np.dtype(np.uint8) if isinstance(source, int) else records.dtype[source] for _, source in found)
    return Plain(tuple(name for name, _ in found), types, records, tuple(source for _, source in found))
